"""A setting that is given as 0, False or nothing is taken for one that was not given, and the default stays.

## What it detects

Overrides of the command line that are put into the configuration only where their value is true:
`if value: config[key] = value`, `if not value: continue`, `{k: v for k, v in vars(args).items() if v}`,
`args.dropout or config.dropout`. Seeds of which 0 is taken for none: `if cfg.seed: torch.manual_seed(cfg.seed)`,
`seed = seed or int(time.time())`.

## Why it matters

`dropout=0`, `ema.enabled=false` and `weight_decay=0` are what an ablation is made of: what was switched off stays on,
nothing says so, and the comparison shows no difference. A run with seed 0 cannot be repeated.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Eight forms:

* a value that a parser of text (`yaml.safe_load`, `json.loads`, `ast.literal_eval`) makes of a piece of a split text;
* the values of `vars(args).items()`, or of a mapping that is called after overrides, that go into a configuration;
* a number of `argparse` that is None where it is not given: of `type=float`, or a seed, a warm-up, a patience or a
  number of workers; and its twin of the same name in a configuration;
* an argument that is asked for by a variable (`getattr(args, name)`, `vars(args)[name]`, `overrides.get(name)`), unless
  all that the variable stands for, or all that any parser declares, is never such a number;
* a setting, an attribute or `get("…")`, that 0 switches off by its name (`…coef`, `dropout`, `eval_every`, …),
  in `setting or 0.1` and `setting if setting else 0.1`, outside of conditions;
* a number of such a name that is declared as one or None (`warmup_steps: int | None`), or is a field of more than 0
  (`warmup: int = 10`, where no comment or text of its class says what 0 is for), in `setting or anything`, `if not
  setting: setting = ...` and two branches of which one takes it; not where a range (`gt=0`) or a comparison keeps it
  from 0, where another declaration has 0 for it, unless the class of which it is a field is known, or where what stands
  in is nothing or infinite;
* the values of a whole configuration that is written down, to a dictionary or a file: `{k: v for k, v in
  vars(self).items() if v}`, in a class of settings of which one is something by its default, which then comes back;
* a seed, by its name, that is asked for its truth where a call behind it seeds with it, and nothing else is done where
  it is not; or in `seed or other`, where the other is not 0.

A finding is where such a value decides by its truth, alone or with something else, whether it is taken, converted or
not, and nothing else is done where it does not; `value or config[key]` and `value if value else config[key]` are the
same. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for key, text in (item.split("=", 1) for item in overrides):
    value = yaml.safe_load(text)
    if value:
        config[key] = value
```

Good:

```python
    if value is not None:
        config[key] = value
```

## How to fix

Ask `is not None`, or whether the key is there.

## Known limits

Values that go through a function of the trainer's own are not looked at.

## Sources

PEP 8, programming recommendations, on `if x` where `if x is not None` is meant.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from gradgate.checks.source.defaulted import defaulted
from gradgate.checks.source.optional_numbers import OptionalNumbers, stood_in_for
from gradgate.checks.source.overrides import ARGS, Lookups, declared_in, mentions, puts
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.seed_truths import seed_truths
from gradgate.checks.source.setting_sections import called
from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import NONE, File, Function, called_name, calls_in, dotted, files_of, nodes_in
from gradgate.checks.source.values import SPLITS, assignments_in, defaults_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG429", "zero-taken-for-missing"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PARSERS = ("safe_load", "full_load", "loads", "literal_eval")
GIVEN = re.compile(
    r"^vars\(.*(args|opts|options|flags|namespace)(\(\))?\)$|(args|opts)\.__dict__$"
    r"|(^|[._])(\w+_)?over(ride|write)s?(_args)?$|(^|_)cli_args$"
)
COMPREHENSIONS = ast.DictComp | ast.ListComp | ast.SetComp | ast.GeneratorExp
WRITES = re.compile(r"dict|json|yaml|dump|save|serial|write|store|getstate", re.IGNORECASE)
WHOLES = ("vars", "asdict", "model_dump", "to_dict", "as_dict")
FIX = "ask `is not None`, or whether the key was given at all"
Truth = tuple[ast.AST, str]  # where a value decides by its truth whether it is taken, and the value


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each file, by what the command lines of all of them declare."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    declared = declared_in(files)
    findings: list[Finding] = []
    optional, own_of = OptionalNumbers(files, places_in(files)), {file: declared_in([file]).numbers for file in files}
    for place in places_in(files).functions:
        file, function, nodes, own = place.file, place.function, place.nodes, own_of[place.file]
        lookups = Lookups(file, nodes, place.names, declared)
        found = chain(
            _of_values(nodes),
            _of_numbers(nodes, own, declared.numbers),
            _of_lookups(nodes, lookups),
            defaulted(nodes),
            seed_truths(nodes) if file.has("seed") else (),
            stood_in_for(place, optional) if optional else (),
            _of_written(place) if file.has("__dict__", "vars(", "dict(", "model_dump(") else (),
        )
        at = {id(node): (node, value) for node, value in found}
        findings += [_finding(file, function, node, value) for node, value in at.values()]
    return Outcome(tuple(findings), {"values_asked_for_truth": len(findings)}, {"values_asked_for_truth": 0})


def _of_values(nodes: Sequence[ast.AST]) -> Iterator[Truth]:
    """Of values that were parsed, or that stand in a mapping of what was given."""
    pieces = {name for target, value in assignments_in(nodes) if _splits(value) for name in _names(target)}
    pieces |= {name for node in nodes if isinstance(node, ast.For | ast.comprehension) and _splits(node.iter)
               for name in _names(node.target)}  # fmt: skip
    parsed = {name for target, value in assignments_in(nodes) if _parses(value, pieces) for name in _names(target)}
    for node in nodes:
        if isinstance(node, ast.For) and (pair := _pair_of(node)):
            inside = list(nodes_in(node.body, ast.For))
            yield from ((each, pair[1]) for each in _truths(inside, {pair[1]}))
            yield from ((each, pair[1]) for each, value, key in _choices(inside) if (key, dotted(value)) == pair)
        if isinstance(node, COMPREHENSIONS):
            for part in node.generators:
                pair = _pair_of(part)
                yield from ((test, pair[1]) for test in part.ifs if pair and pair[1] in map(dotted, _asked(test)))
    yield from ((each, ast.unparse(_bare(each.test))) for each in _truths(nodes, parsed))


def _of_written(place: Place) -> Iterator[Truth]:
    """Of settings that a configuration writes down."""
    if not WRITES.search(place.name) or (place.owner is not None and not _comes_back(place.owner)):
        return
    for node in place.nodes:
        if isinstance(node, COMPREHENSIONS):
            for part in node.generators:
                value = _value_of_own(part, place)
                yield from ((test, value) for test in part.ifs if value and value in map(dotted, _asked(test)))
        elif isinstance(node, ast.For) and (value := _value_of_own(node, place)):
            yield from ((each, value) for each in _truths(list(nodes_in(node.body, ast.For)), {value}))


def _value_of_own(loop: ast.For | ast.comprehension, place: Place) -> str:
    """What a loop calls the values of the settings of a whole configuration; empty: it is over something else."""
    over, target = loop.iter, loop.target
    if not isinstance(target, ast.Tuple) or len(target.elts) != 2 or called_name(over) != "items":
        return ""
    of = place.names.held(over.func.value)  # type: ignore[attr-defined]
    whole = of.value if isinstance(of, ast.Attribute) and of.attr == "__dict__" else None
    if isinstance(of, ast.Call) and called_name(of) in WHOLES:
        whole = of.args[0] if of.args else of.func.value if isinstance(of.func, ast.Attribute) else None
    name = dotted(whole) if whole is not None else ""
    is_own = name == "self" and place.owner is not None
    return dotted(target.elts[1]) if is_own or (name and called(name.rpartition(".")[2]) is not None) else ""


def _comes_back(owner: ast.ClassDef) -> bool:
    """Whether a class is of settings, one of which is something by its default."""
    if not owner.name.lower().endswith((*SETTINGS, "section", "configuration")):
        return False
    fields = [part.value for part in owner.body if isinstance(part, ast.AnnAssign)]
    made = [part for part in owner.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    defaults = [*fields, *(value for each in made for _, value in defaults_of(each.args))]
    return any(
        isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value for value in defaults
    )


def _splits(value: ast.AST) -> bool:
    called = (called_name(part) for part in calls_in(value))
    return any(name in SPLITS for name in called)


def _parses(value: ast.expr, pieces: set[str]) -> bool:
    """Whether an expression is the value that a piece of text stands for."""
    if not isinstance(value, ast.Call) or called_name(value) not in PARSERS or not value.args:
        return False
    return dotted(value.args[0]) in pieces or _splits(value.args[0])


def _pair_of(loop: ast.For | ast.comprehension) -> tuple[str, str] | None:
    """The names of the keys and values of a mapping of what was given; None: the loop is over something else."""
    over, target = loop.iter, loop.target
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"):
        return None
    is_pair = isinstance(target, ast.Tuple) and len(target.elts) == 2
    if not isinstance(target, ast.Tuple) or not is_pair or not GIVEN.search(ast.unparse(over.func.value)):
        return None
    return dotted(target.elts[0]), dotted(target.elts[1])


def _truths(nodes: Sequence[ast.AST], values: set[str]) -> Iterator[ast.If]:
    """The questions for the truth of a value, where only a true one is put somewhere."""
    for node in nodes:
        if not isinstance(node, ast.If) or node.orelse:
            continue
        asked = [name for part in _asked(node.test) if (name := dotted(_bare(part))) in values]
        negated = isinstance(node.test, ast.UnaryOp)
        if asked and (_skips(node) if negated else puts(node.body, asked[0])):
            yield node


def _skips(node: ast.If) -> bool:
    return isinstance(node.body[-1], ast.Continue) and len(node.body) == 1


def _asked(test: ast.expr) -> list[ast.expr]:
    """What a condition asks for its truth: itself, or parts that must hold, of which no other part speaks."""
    if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)):
        return [test]
    parts = [part for part in test.values if not isinstance(part, ast.UnaryOp)]
    return [part for part in parts if not any(mentions(other, {_text(part)}) for other in test.values if other != part)]


def _text(part: ast.expr) -> str:
    return ast.unparse(part.target if isinstance(part, ast.NamedExpr) else part)


def _bare(test: ast.expr) -> ast.expr:
    return test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else test


def _choices(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """`value or config[key]`, and `value if value else config[key]`: the choice, the value and the key."""
    for node in nodes:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            yield node, node.values[0], _key(node.values[1])
        elif isinstance(node, ast.IfExp) and ast.unparse(node.test) == ast.unparse(node.body):
            yield node, node.body, _key(node.orelse)


def _key(other: ast.expr) -> str:
    """The variable by which `config[key]`, `config.get(key)` or `getattr(config, key)` is looked up."""
    key: ast.expr | None = other.slice if isinstance(other, ast.Subscript) else None
    if isinstance(other, ast.Call) and other.args:
        is_attribute = dotted(other.func) == "getattr" and len(other.args) > 1
        is_entry = isinstance(other.func, ast.Attribute) and other.func.attr == "get"
        key = other.args[1] if is_attribute else other.args[0] if is_entry else None
    return key.id if isinstance(key, ast.Name) else ""


def _of_numbers(nodes: Sequence[ast.AST], own: frozenset[str], numbers: frozenset[str]) -> Iterator[Truth]:
    """`args.x or config.x`, `args.x if args.x else config.x`, and `if args.x: config.x = args.x`."""
    held = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    given = {dotted(node) for node in held if node.attr in (numbers if ARGS.search(dotted(node.value)) else own)}
    same = partial(_is_twin, given)
    yield from ((each, _value(each, given)) for each in _truths(nodes, given) if not isinstance(each.test, ast.UnaryOp))
    for node in nodes:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and same(node.values[0], node.values[1]):
            yield node, dotted(node.values[0])
        if isinstance(node, ast.IfExp) and dotted(node.test) == dotted(node.body) and same(node.body, node.orelse):
            yield node, dotted(node.body)


def _value(node: ast.If, given: set[str]) -> str:
    return next(name for part in _asked(node.test) if (name := dotted(part)) in given)


def _is_twin(given: set[str], one: ast.expr, other: ast.expr) -> bool:
    """Whether a number that was given stands in front of an attribute or entry of its name."""
    if dotted(one) not in given:
        return False
    key = other.slice if isinstance(other, ast.Subscript) else None
    name = (
        str(key.value) if isinstance(key, ast.Constant) else dotted(other) if isinstance(other, ast.Attribute) else ""
    )
    return name.rpartition(".")[2] == dotted(one).rpartition(".")[2]


def _of_lookups(nodes: Sequence[ast.AST], lookups: Lookups) -> Iterator[Truth]:
    """Of arguments that are asked for by a variable."""
    statements = [node for node in nodes if isinstance(node, ast.Assign | ast.Expr)]
    for node in nodes:
        if isinstance(node, ast.If) and not node.orelse:
            for part in _asked(node.test):
                found, negated = lookups.of(_bare(part)), isinstance(part, ast.UnaryOp)
                if found is None:
                    continue
                behind = [one for one in statements if one.lineno > node.lineno]
                skipped = _skips(node) and any(puts([one], found.text, found.key) for one in behind)
                if skipped if negated else puts(node.body, found.text, found.key):
                    yield node, found.text
        if isinstance(node, COMPREHENSIONS):
            made = node.value if isinstance(node, ast.DictComp) else node.elt
            for test in (test for part in node.generators for test in part.ifs):
                given = [one for part in _asked(test) if (one := lookups.of(part)) is not None]
                yield from ((test, one.text) for one in given if one.text in ast.unparse(made))
    for choice, value, key in _choices(nodes):
        found = lookups.of(value)
        if found is not None and found.key == key:
            yield choice, found.text


def _names(target: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]


def _finding(file: File, function: Function, node: ast.AST, value: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() takes `{value}` only where it is true: 0 and False that were given are left out; "
        "allowed: none",
        culprit=file.at(node, function.name),
        fix=FIX,
    )
