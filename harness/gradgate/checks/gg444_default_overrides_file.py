"""An argument's default is written over the setting that a file gave: the file's value never counts.

## What it detects

`parser.add_argument("--lr", default=1e-4)`, and `config["lr"] = args.lr` behind the reading of the file, whether the
argument was given or not.

## Why it matters

A recipe says `lr: 3e-5`, the run goes by 1e-4, and neither says so. Whoever compares two recipes compares the same run
twice.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A configuration is from a
file where what it holds is made by `yaml.safe_load`, `json.load`, `load_config`, `Config.from_file` and their like,
also where all calls of a function give it such a one. An argument is one of `add_argument`, `click.option` or
`typer.Option` that has a default that is not None; a switch (`store_true`) is one, its default is False. Findings are,
behind that, `config["lr"] = args.lr` and `config.lr = args.lr`, `setattr`, `update`, `replace`, `model_copy(update=…)`,
and `update(vars(args))` or a loop over `vars(args)`, or over names that are written down, each of which is asked of the
arguments (`setattr(config, name, getattr(args, name))`); and, wherever they stand, texts of overrides with an argument
for their value: `overrides.append(f"optim.lr={args.lr}")`.

It is none under a condition that reads the argument, the key or `sys.argv`, but for `is not None`, which a default that
is something always passes; where a parser is given the file's values (`set_defaults(**…)`) or leaves out what was not
given (`SUPPRESS`); for what is named after the run's place, its resuming or the machine; and for keys that neither a
YAML file nor a configuration class of the trainer has, where it has any; by `vars(args)` these must be known.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
parser.add_argument("--lr", type=float, default=1e-4)
config = yaml.safe_load(open(args.config))
config["lr"] = args.lr
```

Good:

```python
parser.add_argument("--lr", type=float)
if args.lr is not None:
    config["lr"] = args.lr
```

## How to fix

Give the argument no default, and write it over the file's value where it was given.

## Known limits

Other conditions are not judged. Mappings of arguments that another function makes are not followed.

## Sources

Python, argparse: `argument_default=SUPPRESS` leaves out of the namespace what was not given.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradgate.checks.source.overrides import ARGS
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.setting_sections import called
from gradgate.checks.source.settings import declared_settings, yaml_keys
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG444", "default-overrides-file"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
READS = re.compile(
    r"(^|\.)(json|yaml|toml|tomllib|tomli|OmegaConf)\.(safe_|full_)?loads?$|"
    r"(load|read|from|parse)\w*_(config|cfg|recipe|settings|hparams|ya?ml|json|toml|file)$|"
    r"(config|cfg|recipe|settings|hparams)\w*\.(load|read|parse|from)(_(?!pretrained)\w+)?$",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"path|dir|folder|file|out|resum|device|rank|world|port|debug|verbose|config|recipe|log|name|wandb|worker|stage|"
    r"mode|command|dry|save|profile|force|quiet|run|ckpt|checkpoint|tag|project|cuda|gpu|threads",
    re.IGNORECASE,
)
CONVERTS = ("int", "float", "str", "bool", "list", "tuple")
SWITCHES = ("store_true", "store_false")
COPIES = ("replace", "evolve", "model_copy", "copy", "_replace")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is written over a file's settings against the command line's defaults."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = tuple(_of_all(subject, files)) if any(file.has("default") or _has_options(file) for file in files) else ()
    return Outcome(found, {"places": len(found)}, {"places": 0})


def _has_options(file: File) -> bool:
    return file.has("add_argument", ".option(", "Option(")


@dataclass(frozen=True)
class _Written:
    """A value that is written into a configuration: what stands there, which one, the key, the value.

    Args:
        node: the call or the assignment.
        into: the configuration.
        key: empty: all of the arguments.
        value: what is written.
        by: the variable that is the key there, of a loop over keys.
    """

    node: ast.AST
    into: ast.expr
    key: str
    value: ast.expr
    by: str = ""


def _of_all(subject: Subject, files: tuple[File, ...]) -> Iterator[Finding]:
    defaults = _defaults(files)
    if any(file.has("set_defaults(**", "argument_default") for file in files):
        return
    places = places_in(files)
    known = set(yaml_keys(subject)) | {
        setting.name for file in files for setting in declared_settings(file) if setting.what.startswith("field")
    }
    for place in places.all:
        options = defaults | _click(place)
        parents: dict[int, ast.AST] = {}
        for written in _texts(place) if options else ():
            keys = _keys(written, place, options, known)
            parents = parents or parents_in(place.function)
            if keys and not _is_asked(written, keys, parents):
                yield _finding(place, written, keys, options)
        for written in _writings(place) if options else ():
            keys = _keys(written, place, options, known)
            if not keys or not _is_from_a_file(written.into, place, places):
                continue
            parents = parents or parents_in(place.function)
            if not _is_asked(written, keys, parents):
                yield _finding(place, written, keys, options)


def _defaults(files: Sequence[File]) -> dict[str, str]:
    """The arguments of the command lines whose default is never None, with it."""
    found: dict[str, str | None] = {}
    for node in (node for file in files if file.has("add_argument") for node in file.nodes):
        argument = argument_call(node)
        if argument is not None and argument.is_setting and argument.flag.startswith("-"):
            default = _default(argument.words)
            before = found.get(argument.name, default)
            found[argument.name] = default if before is not None else None
    return {name: default for name, default in found.items() if default is not None}


def _default(words: Mapping[str, ast.expr]) -> str | None:
    """The default that is written down; None: none, or one that says that nothing was given."""
    if "required" in words:
        return None
    default, action = words.get("default"), words.get("action")
    if default is None:
        kind = action.value if isinstance(action, ast.Constant) else None
        return str(kind == "store_false") if kind in SWITCHES else None
    if isinstance(default, ast.Constant) and default.value in (None, ""):
        return None
    return None if any(isinstance(part, ast.Name) for part in ast.walk(default)) else ast.unparse(default)


def _click(place: Place) -> dict[str, str]:
    """The parameters of a command of click or typer whose default is never None, with it."""
    found: dict[str, str] = {}
    if not place.file.has(".option(", "Option("):
        return found
    for call in (one for one in place.function.decorator_list if isinstance(one, ast.Call)):
        flags = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if dotted(call.func).endswith("option") and flags:
            words = {word.arg: word.value for word in call.keywords if word.arg is not None}
            plain = [flag for flag in flags if not flag.startswith("-")]
            name = (plain or [max(flags, key=len).lstrip("-").partition("/")[0].replace("-", "_")])[0]
            if (default := _default(words)) is not None:
                found[name] = default
    given = place.function.args
    for argument, value in zip((*given.posonlyargs, *given.args)[::-1], given.defaults[::-1], strict=False):
        is_option = called_name(value) == "Option"
        first = value.args[0] if is_option and value.args else None  # type: ignore[attr-defined]
        if first is not None and (default := _default({"default": first})) is not None:
            found[argument.arg] = default
    return found


def _writings(place: Place) -> Iterator[_Written]:
    """What a function writes into configurations."""
    for node in place.nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    yield _Written(node, target.value, str(target.slice.value), node.value)
                elif isinstance(target, ast.Attribute):
                    yield _Written(node, target.value, target.attr, node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
            yield _Written(node, node.target, "", node.value)
        elif isinstance(node, ast.Call):
            yield from _by_call(node)
        elif isinstance(node, ast.For):
            yield from _by_loop(node)
            yield from _by_words(node, place)


def _texts(place: Place) -> Iterator[_Written]:
    """Texts `key=value` with an argument for their value, which are overrides of a file's settings."""
    if not place.file.has("={"):
        return
    for node in place.nodes:
        if isinstance(node, ast.JoinedStr) and len(node.values) == 2:
            text, filled = node.values
            is_key = re.fullmatch(r"[\w.]*\w=", str(text.value)) if isinstance(text, ast.Constant) else None
            if is_key and isinstance(filled, ast.FormattedValue):
                key = is_key.group().rstrip("=").rpartition(".")[2]
                yield _Written(node, node, key, filled.value)


def _by_call(call: ast.Call) -> Iterator[_Written]:
    name = called_name(call)
    into = call.func.value if isinstance(call.func, ast.Attribute) else None
    given: list[ast.expr] = list(call.args)
    if name == "setattr" and len(call.args) == 3 and isinstance(call.args[1], ast.Constant):
        yield _Written(call, call.args[0], str(call.args[1].value), call.args[2])
        return
    if name in ("replace", "evolve") and given:
        into, given = given[0], []
    elif name != "update" and name not in COPIES:
        return
    if into is None:
        return
    for word in call.keywords:
        if word.arg == "update":
            given.append(word.value)
        else:
            yield _Written(call, into, word.arg or "", word.value)
    for one in given:
        if isinstance(one, ast.Dict):
            for key, value in zip(one.keys, one.values, strict=True):
                named = str(key.value) if isinstance(key, ast.Constant) else ""
                yield _Written(call, into, named, value)
        else:
            yield _Written(call, into, "", one)


def _by_loop(loop: ast.For) -> Iterator[_Written]:
    """`for key, value in vars(args).items(): config[key] = value`, and nothing else."""
    over = loop.iter
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"):
        return
    names = [dotted(one) for one in loop.target.elts] if isinstance(loop.target, ast.Tuple) else []
    last = loop.body[-1]
    if len(loop.body) != 1 or len(names) != 2:
        return
    for target, value in assignments_in([last]):
        if isinstance(target, ast.Subscript) and [dotted(target.slice), dotted(value)] == names:
            yield _Written(loop, target.value, "", over.func.value)
    call = last.value if isinstance(last, ast.Expr) else None
    is_set = isinstance(call, ast.Call) and dotted(call.func) == "setattr"
    if isinstance(call, ast.Call) and is_set and [dotted(one) for one in call.args[1:]] == names:
        yield _Written(loop, call.args[0], "", over.func.value)


def _by_words(loop: ast.For, place: Place) -> Iterator[_Written]:
    """`for name in ("lr", "seed"): setattr(config, name, getattr(args, name))`, under whatever condition."""
    key = dotted(loop.target)
    over = loop.iter if not isinstance(loop.iter, ast.Name) else _at_the_top(loop.iter, place)
    words = over.elts if isinstance(over, ast.Tuple | ast.List | ast.Set) and key else []
    names = [each.value for each in words if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    for node in nodes_in(loop.body, *OTHERS) if names else ():
        into, value = None, None
        if isinstance(node, ast.Call) and dotted(node.func) == "setattr" and len(node.args) == 3:
            into, value = (node.args[0], node.args[2]) if dotted(node.args[1]) == key else (None, None)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            into, value = (target.value, node.value) if dotted(target.slice) == key else (None, None)
        of = _looked_up(value, key, loop) if value is not None else None
        for name in names if into is not None and of is not None else ():
            yield _Written(node, into, name, ast.copy_location(ast.Attribute(of, name, ast.Load()), node), key)  # type: ignore[arg-type]


def _at_the_top(name: ast.Name, place: Place) -> ast.expr:
    """What a name holds in its function, or at the top of its file."""
    if (held := place.names.held(name)) is not name:
        return held
    return next((value for to, value in assignments_in(place.file.tree.body) if dotted(to) == name.id), name)


def _looked_up(value: ast.expr, key: str, loop: ast.For) -> ast.expr | None:
    """Of what an argument is that is asked for by a variable, there or in front in the loop; None: it is none."""
    if isinstance(value, ast.Name):
        held = [one for to, one in assignments_in(nodes_in(loop.body, *OTHERS)) if dotted(to) == value.id]
        return _looked_up(held[0], key, loop) if len(held) == 1 and not isinstance(held[0], ast.Name) else None
    if isinstance(value, ast.Call) and dotted(value.func) == "getattr" and len(value.args) == 2:
        return value.args[0] if dotted(value.args[1]) == key else None
    if isinstance(value, ast.Subscript) and dotted(value.slice) == key and isinstance(value.value, ast.Call):
        inner = value.value
        return inner.args[0] if dotted(inner.func) == "vars" and len(inner.args) == 1 else None
    return None


def _keys(written: _Written, place: Place, options: Mapping[str, str], known: set[str]) -> list[str]:
    """The arguments whose defaults are written; of all of them, those that are known for settings."""
    value = written.value
    if isinstance(value, ast.Call) and dotted(value.func) in CONVERTS and len(value.args) == 1:
        value = value.args[0]
    if not written.key:
        return [name for name in options if name in known and not ASIDE.search(name)] if _is_all(value, place) else []
    name = value.attr if isinstance(value, ast.Attribute) and _is_args(value.value, place) else ""
    if isinstance(value, ast.Name) and value.id in _click(place) and place.names.held(value) is value:
        name = value.id
    if name not in options or ASIDE.search(name) or ASIDE.search(written.key):
        return []
    return [name] if not known or written.key in known else []


def _is_args(node: ast.expr, place: Place) -> bool:
    held = place.names.held(node)
    parsed = isinstance(held, ast.Call) and dotted(held.func).endswith(("parse_args", "parse_known_args"))
    return parsed or bool(ARGS.search(dotted(node).rpartition(".")[2]))


def _is_all(node: ast.expr, place: Place) -> bool:
    """Whether a value is the mapping of all arguments."""
    held = place.names.held(node)
    if isinstance(held, ast.Call) and dotted(held.func) in ("vars", "dict") and len(held.args) == 1:
        return _is_args(held.args[0], place) or _is_all(held.args[0], place)
    return isinstance(held, ast.Attribute) and held.attr == "__dict__" and _is_args(held.value, place)


def _is_from_a_file(node: ast.expr, place: Place, places: Places, hops: int = 4) -> bool:
    """Whether a configuration holds what was read from a file."""
    while isinstance(node, ast.Subscript | ast.Attribute) and place.names.held(node) is node:
        node = node.value
    if called(dotted(node).rpartition(".")[2]) is None:
        return False
    held = place.names.held(node)
    if held is not node:
        calls = [part for part in ast.walk(held) if isinstance(part, ast.Call)]
        if any(READS.search(dotted(call.func)) for call in calls):
            return True
        inner = [part for part in ast.walk(held) if isinstance(part, ast.Name) and called(part.id) is not None]
        return hops > 0 and bool(inner) and _is_from_a_file(inner[0], place, places, hops - 1)
    if not isinstance(node, ast.Name) or node.id not in place.parameters or not hops:
        return False
    given = places.given_to(place, node.id) or []
    return bool(given) and all(_is_read(value, caller, places, hops - 1) for caller, value in given)


def _is_read(value: ast.expr, place: Place, places: Places, hops: int) -> bool:
    if isinstance(value, ast.Call):
        return any(isinstance(part, ast.Call) and READS.search(dotted(part.func)) for part in ast.walk(value))
    return _is_from_a_file(value, place, places, hops)


def _is_asked(written: _Written, keys: Sequence[str], parents: dict[int, ast.AST]) -> bool:
    """Whether a condition around reads the argument, the key or the command line as it was typed."""
    words = re.compile(rf"\b({'|'.join(map(re.escape, {*keys, written.key} - {''}))}|argv)\b")
    around = list(outwards(written.node, parents))
    tests = [node.test for node in around if isinstance(node, ast.If | ast.IfExp | ast.While)]
    left = [node.test for loop in around if isinstance(loop, ast.For) for node in ast.walk(loop)
            if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Continue)] if written.by else []  # fmt: skip
    if written.by:
        return not all(map(_is_given, tests)) or not all(_is_given(test, ast.Is) for test in left)
    return any(words.search(ast.unparse(test)) and not _is_given(test) for test in tests)


def _is_given(test: ast.expr, how: type[ast.cmpop] = ast.IsNot) -> bool:
    """Whether a condition asks for nothing but that a value is not None: that of a default never is."""
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], how)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    )


def _finding(place: Place, written: _Written, keys: Sequence[str], options: Mapping[str, str]) -> Finding:
    told = ", ".join(f"`{key}` ({options[key]})" for key in keys)
    says = "a file" if written.into is written.node else f"the file of `{ast.unparse(written.into)}`"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"the default of {told} is written over what {says} says, given or not; allowed: where it was given",
        culprit=place.file.at(written.node, place.name),
        fix="give the argument no default, and write it over the file's value where it was given",
        detail={"arguments": list(keys)},
    )
