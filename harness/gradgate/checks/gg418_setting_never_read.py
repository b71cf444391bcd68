"""A setting is declared and nothing in the trainer's source reads it.

## What it detects

A command-line argument, a field of a configuration class, a key of a YAML file beside the source, an argument with a
default, or the attribute in which it is kept, that no line reads; an `if` on a setting whose branch is `pass`; a
setting that is read with a default (`getattr(config, "tau", 0.7)`) under a name that nothing declares.

## Why it matters

Whoever sets it believes that something changes: a learning rate in the file while another one is in the code, a seed
that seeds nothing, a penalty that is never added. GG414 asks the same of keys that the adapter lists and moves; here
nobody has to list them.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Declared are: the arguments
of `add_argument`; the annotated fields of classes that are called `...Config`, `...Args`, `...Settings`, `...Recipe`
and the like, where they stand below no library's class of that kind (`TrainingArguments`); arguments with a default of
functions that override nothing of a foreign class, and of methods but for those that another class of the same family
(of a base, or of a register) reads in a method of that name, none of them deleted there; keys of YAML files in the
source's folder that stand beside keys which are read, but for the arguments of what a library makes (`_target_`), each
once, whatever the number of files. Read is a name that stands anywhere as an
attribute that is loaded, or as a string, of a dotted argument (`adam.lr`) each part; not `self.patience` in a class
that keeps its own argument `patience` there, since whoever makes one has to read the setting first; where settings are
passed on as a whole (`**vars(args)`, `asdict`), as an argument of a function as well. A field of a section's class
whose name is read of other sections alone (`cfg.train.max_steps`, never `cfg.critic.max_steps`) is not read. Statistic:
declared settings that are not read; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. A setting that only a library reads, off an
object that is handed to it whole, is one.

## Example

Bad:

```python
parser.add_argument("--lr", type=float, default=1e-5)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
```

Good:

```python
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
```

## How to fix

Pass it on to the code that it is for, or take it out.

## Known limits

A name that is read of one object counts as read of every other. Settings read through computed names are seen only
where the name stands somewhere as a string.

## Sources

Faults LW-14 and LW-31 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from gradgate.checks.source.section_reads import unread_in_sections
from gradgate.checks.source.settings import SETTINGS, Setting, declared_settings, yaml_files, yaml_keys
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of
from gradgate.checks.source.values import assignments_in, defaults_of, last_name, parameters_of
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.argument_calls import is_argument_call
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG418", "setting-never-read"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WHOLE = ("vars", "asdict", "model_dump", "__dict__", "_asdict", "to_dict", "to_container")
GUARDS = {"torch.no_grad", "torch.inference_mode", "torch.enable_grad", "staticmethod", "classmethod"}
FIX = "pass it on to the code that it is for, or take it out"
FEW = 3  # declared settings read off an object, below which it may be somebody else's
EVERYBODYS = {"Module", "object", "ABC", "Protocol"}  # bases that make no family
TAKE_ALL = ("locals", "vars", "store_attr")
MADE_OF = ("_target_", "_component_", "class_path", "_args_")
_INTERPOLATED = re.compile(r"\$\{([\w.]+)\}")
SHORT = 3  # letters; a shorter name is too common to tell

Taken = tuple[str, str, str]  # a class of a family, a method, an argument


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is declared against what is read."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    own = list(_own_reads(files))
    read = _read(files, own)
    kept = read | {node.attr for node in own}
    settings = [setting for file in files for setting in declared_settings(file)]
    families = _families(files)
    theirs = {f"field of {name}" for name in _of_libraries(files)}
    unread = [each for each in settings if not read.issuperset(each.name.split(".")) and each.what not in theirs]
    findings = [
        *(_finding(setting) for setting in unread),
        *(_finding(setting) for setting in unread_in_sections(files) if setting.name in read),
        *(finding for file in files for finding in _of_functions(file, kept, families)),
        *(_finding(setting) for setting in _of_yaml(subject, read)),
        *(finding for finding in _asked_in_vain(subject, files, {setting.name for setting in settings})),
    ]
    measured = {"settings_never_read": len(findings), "settings": len(settings), "files": len(files)}
    return Outcome(tuple(findings), measured, {"settings_never_read": 0})


def _of_libraries(files: tuple[File, ...]) -> set[str]:
    """The classes below a library's class of settings (`TrainingArguments`), which may read what they declare anew."""
    classes = {node.name: node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)}
    above = {name: {last_name(base) for base in node.bases} for name, node in classes.items()}
    found = {
        name
        for name, bases in above.items()
        if any(base not in classes and base.lower().endswith(SETTINGS) for base in bases)
    }
    while further := {name for name, bases in above.items() if bases & found} - found:
        found |= further
    return found


def _read(files: tuple[File, ...], own: list[ast.Attribute]) -> set[str]:
    """Every name that stands somewhere as a loaded attribute or a string, its declaration and `own` reads left out."""
    nodes = [node for file in files for node in file.nodes]
    declaring = {id(inner) for node in nodes if is_argument_call(node) for inner in ast.walk(node)}
    left_out = {id(node) for node in own}
    loaded = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    read = {node.attr for node in loaded if id(node) not in left_out}
    read |= {
        part
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in declaring
        for part in node.value.split(".")
    }
    patterns = [pattern for node in nodes for pattern in _made_up(node)]
    names = {setting.name for file in files for setting in declared_settings(file)} if patterns else set()
    read |= {name for name in names if any(pattern.fullmatch(name) for pattern in patterns)}
    whole = any(name in read or any(isinstance(node, ast.Name) and node.id == name for node in nodes) for name in WHOLE)
    if whole and any(_unpacks(node) for node in nodes):
        read |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    if any(_is_handed_out(node, nodes) for node in nodes):
        read |= {setting.name for file in files for setting in declared_settings(file)}
    return read


def _own_reads(files: tuple[File, ...]) -> Iterator[ast.Attribute]:
    """`self.patience` in a class that keeps an argument `patience` there: whoever makes one has to read the setting.

    Not where one may be made of settings as a whole (`**`).
    """
    nodes = [node for file in files for node in file.nodes]
    known = {node.name for node in nodes if isinstance(node, Function | ast.ClassDef)}
    made_whole = {_called(node, known) for node in nodes if isinstance(node, ast.Call) and _unpacks(node)}
    for owner in nodes:
        if isinstance(owner, ast.ClassDef) and not made_whole & {owner.name, ""}:
            kept = {name for method in owner.body if isinstance(method, Function) for name in _kept_as_named(method)}
            for node in ast.walk(owner):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in kept:
                    yield from [node] if dotted(node.value) == "self" else ()


def _kept_as_named(function: Function) -> Iterator[str]:
    """The arguments that a method keeps under their own names."""
    arguments = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    for target, value in assignments_in(node for node in ast.walk(function) if isinstance(node, ast.Assign)):
        name = dotted(value)
        if name in arguments and dotted(target) == f"self.{name}":
            yield name


def _unpacks(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and any(keyword.arg is None for keyword in node.keywords)


def _called(call: ast.Call, known: set[str]) -> str:
    """The last name of what a call calls; empty where it may be any class: `TABLE[name](...)`, `cls(...)`."""
    name = called_name(call)
    variable = isinstance(call.func, ast.Name) and name not in known and name[:1].islower()
    return "" if variable or name in ("cls", "instantiate") else name


def _made_up(node: ast.AST) -> Iterator[re.Pattern[str]]:
    """The names that `getattr(config, f"{stage}_lr")` may read, where some of each is written."""
    if isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1:
        key = node.args[1]
        parts = key.values if isinstance(key, ast.JoinedStr) else []
        if any(isinstance(part, ast.Constant) for part in parts):
            texts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts]
            yield re.compile("".join(texts))


def _is_handed_out(node: ast.AST, nodes: list[ast.AST]) -> bool:
    """Whether settings go as a whole to code that is not the trainer's: `torch.optim.AdamW(**vars(config))`."""
    if not isinstance(node, ast.Call) or not dotted(node.func):
        return False
    unpacked = [keyword.value for keyword in node.keywords if keyword.arg is None]
    whole = any(isinstance(value, ast.Call) and dotted(value.func).endswith(WHOLE) for value in unpacked)
    called = called_name(node)
    return whole and not any(isinstance(other, Function | ast.ClassDef) and other.name == called for other in nodes)


def _families(files: tuple[File, ...]) -> set[Taken]:
    """The arguments that methods read, for each base of their class: methods of one name take what each needs."""
    return {
        (base, function.name, argument.arg)
        for file in files
        for function, owner in file.functions
        if owner is not None
        for argument in parameters_of(function)
        if any(name.id == argument.arg for name in _loaded(function))
        for base in (_registers(owner) if function.name == "__init__" else _kin(owner))
    }


def _kin(owner: ast.ClassDef) -> set[str]:
    """A class, its bases, and what it is registered by; those left out that are everybody's."""
    bases = (dotted(base).rpartition(".")[2] for base in owner.bases)
    return {owner.name, *bases, *_registers(owner)} - EVERYBODYS


def _registers(owner: ast.ClassDef) -> set[str]:
    """What a class is registered by: the decorator, with all that it is given but the last, a name of its own."""
    calls = [each for each in owner.decorator_list if isinstance(each, ast.Call)]
    return {" ".join([dotted(call.func), *map(ast.unparse, call.args[:-1])]) for call in calls}


def _loaded(function: Function) -> list[ast.Name]:
    return [node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]


def _dropped(function: Function) -> set[str]:
    """The names that a function deletes: it says that it has no use for them."""
    deleted = (target for node in ast.walk(function) if isinstance(node, ast.Delete) for target in node.targets)
    return {target.id for target in deleted if isinstance(target, ast.Name)}


def _of_functions(file: File, read: set[str], families: set[Taken]) -> Iterator[Finding]:
    local = {node.name for node in file.nodes if isinstance(node, ast.ClassDef)}
    for function, owner in file.functions:
        foreign = owner is not None and any(
            dotted(base).rpartition(".")[2] not in (*local, *EVERYBODYS) for base in owner.bases
        )
        if not (foreign and function.name != "__init__") and not _is_stub(function):
            kin = set() if owner is None else _kin(owner)
            elsewhere = {name for base, method, name in families if method == function.name and base in kin}
            yield from _arguments(file, function, read, foreign, elsewhere)
        yield from _idle_branches(file, function)


def _is_stub(function: Function) -> bool:
    """Whether it does nothing with anything: an interface, or one that takes what comes."""
    body = [node for node in function.body if not isinstance(node, ast.Expr | ast.Pass | ast.Raise)]
    uses_all = any(isinstance(node, ast.Name) and node.id in TAKE_ALL for node in ast.walk(function))
    plain = {dotted(node.func if isinstance(node, ast.Call) else node) for node in function.decorator_list} <= GUARDS
    return not body or uses_all or not plain or _returns_at_once(function)


def _returns_at_once(function: Function) -> bool:
    (*_, last) = function.body
    return len(function.body) <= 1 + isinstance(function.body[0], ast.Expr) and isinstance(last, ast.Return)


def _arguments(file: File, function: Function, read: set[str], foreign: bool, elsewhere: set[str]) -> Iterator[Finding]:
    """Arguments with a default that the function does not read, or keeps where nobody reads them; but for those that
    another class of its family reads in a method of this name."""
    loaded = _loaded(function)
    names = {node.id for node in loaded} | _dropped(function)
    kept = {
        node.value.id: target.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    for argument in _with_default(function):
        name = argument.arg
        place = file.at(argument, function.name)
        if name.startswith("_") or len(name) < SHORT:
            continue
        if name not in names and name not in elsewhere:
            yield _finding(Setting(name, f"argument of {function.name}()", place))
        if name in kept and sum(node.id == name for node in loaded) == 1 and kept[name] not in read and not foreign:
            yield _finding(Setting(kept[name], f"attribute that {function.name}() keeps `{name}` in", place))


def _with_default(function: Function) -> list[ast.arg]:
    """Its arguments with a default, and those that are called as a configuration is."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    with_default = [argument for argument, _ in defaults_of(given)]
    settings = [arg for arg in positional if arg.arg in SETTINGS and function.name == "__init__"]
    return list(dict.fromkeys([*settings, *with_default]))


def _idle_branches(file: File, function: Function) -> Iterator[Finding]:
    for node in ast.walk(function):
        if isinstance(node, ast.If) and not node.orelse and all(isinstance(inner, ast.Pass) for inner in node.body):
            settings = [inner for inner in ast.walk(node.test) if isinstance(inner, ast.Attribute)]
            if settings:
                name = min(settings, key=lambda inner: (inner.lineno, inner.col_offset)).attr
                yield _finding(Setting(name, "setting whose branch does nothing", file.at(node, function.name)))


def _of_yaml(subject: Subject, read: set[str]) -> Iterator[Setting]:
    """Keys of YAML files that nothing reads, beside keys that are read."""
    files = list(yaml_files(subject))
    paths = (path for _, text, _ in files for path in _INTERPOLATED.findall(text))
    read = read | {"hydra"} | {name for path in paths for name in path.split(".")}
    told = set[str]()
    for path, text, content in files:
        for key in dict.fromkeys(_unread_keys(content, read)):
            if key in told:
                continue
            told.add(key)
            lines = text.splitlines()
            number = next((i for i, line in enumerate(lines, 1) if line.strip().startswith(f"{key}:")), 1)
            yield Setting(key, "key", Location(str(path), number, "", lines[number - 1].strip()))


def _unread_keys(content: Any, read: set[str]) -> Iterator[str]:
    if not isinstance(content, Mapping):
        return
    keys = [key for key in content if isinstance(key, str)]
    if any(key in MADE_OF for key in keys):  # the arguments of what a library makes
        return
    known = sum(key in read for key in keys)
    for key in keys:
        if key in read:
            yield from _unread_keys(content[key], read)
        elif 2 * known >= len(keys):  # a table of names of its own is no configuration
            yield key


def _asked_in_vain(subject: Subject, files: tuple[File, ...], declared: set[str]) -> Iterator[Finding]:
    """Settings read with a default under a name that nothing declares: the default is all that there ever is."""
    nodes = [node for file in files for node in file.nodes]
    made = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.keyword | ast.arg) and node.arg}
    made |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    made |= {node.name for node in nodes if isinstance(node, Function)}
    keys = {
        key.value for node in nodes if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)
    }
    known = declared | made | keys | set(yaml_keys(subject))
    owners = Counter(dotted(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr in declared)
    for file in files:
        for node in file.nodes:
            owner, name = _with_fallback(node)
            if name and name not in known and owners[owner] >= FEW:
                yield Finding(
                    code=CODE,
                    name=NAME,
                    message=f"`{name}` is read with a default, and nothing declares it: the default is all there is; "
                    "allowed: none",
                    culprit=file.at(node),
                    fix="read it under the name under which it is declared, without a default",
                    detail={"setting": name},
                )


def _with_fallback(node: ast.AST) -> tuple[str, str]:
    """Object and name in `getattr(config, "name", 0.5)` or `config.get("name", 0.5)`."""
    if not isinstance(node, ast.Call) or not node.args:
        return "", ""
    if dotted(node.func) == "getattr":
        owner, (key, *default) = dotted(node.args[0]), node.args[1:]
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        owner, (key, *default) = dotted(node.func.value), node.args
    else:
        return "", ""
    is_given = any(isinstance(value, ast.Constant) and value.value not in (None, False, "") for value in default)
    is_settings = owner.lower().rpartition(".")[2] in SETTINGS and "model" not in owner
    is_name = isinstance(key, ast.Constant) and isinstance(key.value, str)
    return (owner, ast.literal_eval(key)) if is_given and is_settings and is_name else ("", "")


def _finding(setting: Setting) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{setting.name}`, {setting.what}: nothing in the trainer's source reads it; allowed: none",
        culprit=setting.place,
        fix=FIX,
        detail={"setting": setting.name},
    )
