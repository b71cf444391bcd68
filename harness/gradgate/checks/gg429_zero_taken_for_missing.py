"""A setting that is given as 0, False or nothing is taken for one that was not given, and the default stays.

## What it detects

Overrides of the command line that are put into the configuration only where their value is true:
`if value: config[key] = value`, `if not value: continue`, `{k: v for k, v in vars(args).items() if v}`,
`args.dropout or config.dropout`.

## Why it matters

`dropout=0`, `ema.enabled=false` and `weight_decay=0` are what an ablation is made of: what was switched off stays on,
nothing says so, and the comparison shows no difference.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Three forms:

* a value that a parser of text (`yaml.safe_load`, `json.loads`, `ast.literal_eval`) makes of a piece of a split text;
* the values of `vars(args).items()`, or of a mapping that is called after overrides, that go into a configuration;
* a number of `argparse` that is None where it is not given: of `type=float`, or a seed, a warm-up, a patience or a
  number of workers; and its twin of the same name in a configuration.

A finding is where such a value decides by its truth whether it is taken, and nothing else is done where it does not.
Statistic: such places; allowed: 0.

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

Values that go through a function of the trainer's own, and truth that is asked together with something else, are not
looked at.

## Sources

PEP 8, programming recommendations, on `if x` where `if x is not None` is meant.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import partial

from gradgate.checks.source_values import assignments_in, own_nodes
from gradgate.checks.trainer_source import File, Function, calls_in, dotted, read_file_by_file
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
ZERO_MEANS = re.compile(r"seed|warm|patience|worker")  # of whole numbers these may be 0
FIX = "ask `is not None`, or whether the key was given at all"
Truth = tuple[ast.AST, str]  # where a value decides by its truth whether it is taken, and the value


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each file."""
    return read_file_by_file(subject, _findings, "values_asked_for_truth")


def _findings(file: File) -> Iterator[Finding]:
    numbers = set(_numbers(file))
    for function, _ in file.functions:
        nodes = own_nodes(function)
        for node, value in (*_of_values(nodes), *_of_numbers(nodes, numbers)):
            yield _finding(file, function, node, value)


def _of_values(nodes: Sequence[ast.AST]) -> Iterator[Truth]:
    """Of values that were parsed, or that stand in a mapping of what was given."""
    pieces = {name for target, value in assignments_in(nodes) if _splits(value) for name in _names(target)}
    pieces |= {name for node in nodes if isinstance(node, ast.For | ast.comprehension) and _splits(node.iter)
               for name in _names(node.target)}  # fmt: skip
    parsed = {name for target, value in assignments_in(nodes) if _parses(value, pieces) for name in _names(target)}
    for node in nodes:
        if isinstance(node, ast.For) and (value := _value_of(node)):
            yield from ((each, value) for each in _truths(node.body, {value}))
        if isinstance(node, ast.DictComp):
            for part in node.generators:
                value = _value_of(part)
                yield from ((test, value) for test in part.ifs if value and dotted(test) == value)
    yield from ((each, ast.unparse(_bare(each.test))) for each in _truths(nodes, parsed))


def _splits(value: ast.AST) -> bool:
    called = (dotted(part.func).rpartition(".")[2] for part in calls_in(value))
    return any(name in ("split", "partition", "rpartition", "rsplit") for name in called)


def _parses(value: ast.expr, pieces: set[str]) -> bool:
    """Whether an expression is the value that a piece of text stands for."""
    if not isinstance(value, ast.Call) or dotted(value.func).rpartition(".")[2] not in PARSERS or not value.args:
        return False
    return dotted(value.args[0]) in pieces or _splits(value.args[0])


def _value_of(loop: ast.For | ast.comprehension) -> str:
    """The name of the values of a mapping of what was given; empty where the loop is over something else."""
    over, target = loop.iter, loop.target
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"):
        return ""
    given = GIVEN.search(ast.unparse(over.func.value))
    return dotted(target.elts[1]) if given and isinstance(target, ast.Tuple) and len(target.elts) == 2 else ""


def _truths(nodes: Sequence[ast.AST], values: set[str]) -> Iterator[ast.If]:
    """The questions for the truth of a value alone, where only a true one is put somewhere."""
    for node in nodes:
        if not isinstance(node, ast.If) or node.orelse or dotted(_bare(node.test)) not in values:
            continue
        skips = isinstance(node.body[-1], ast.Continue) and len(node.body) == 1
        negated = isinstance(node.test, ast.UnaryOp)
        if skips if negated else _puts(node.body, dotted(node.test)):
            yield node


def _bare(test: ast.expr) -> ast.expr:
    return test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else test


def _puts(body: Sequence[ast.stmt], value: str) -> bool:
    """Whether a value goes into an attribute, an entry or `setattr`, and nothing else is done."""
    (only,) = body if len(body) == 1 else (None,)
    if isinstance(only, ast.Assign):
        return isinstance(only.targets[0], ast.Attribute | ast.Subscript) and dotted(only.value) == value
    call = only.value if isinstance(only, ast.Expr) else None
    return isinstance(call, ast.Call) and dotted(call.func) == "setattr" and dotted(call.args[-1]) == value


def _numbers(file: File) -> Iterator[str]:
    """The numbers of the command line that are None where they are not given and that may be 0."""
    for call in calls_in(file.tree):
        if dotted(call.func).rpartition(".")[2] != "add_argument":
            continue
        words = {word.arg: word.value for word in call.keywords}
        kind, default = dotted(words.get("type", ast.Constant(None))), words.get("default", ast.Constant(None))
        flags = [flag.value for flag in call.args if isinstance(flag, ast.Constant) and isinstance(flag.value, str)]
        named = [words["dest"]] if "dest" in words else []
        names = [each.value for each in named if isinstance(each, ast.Constant)] or flags
        name = max((str(each) for each in names), key=len, default="").lstrip("-").replace("-", "_")
        may_be_0 = kind == "float" or (kind == "int" and ZERO_MEANS.search(name))
        if may_be_0 and isinstance(default, ast.Constant) and default.value is None and "action" not in words:
            yield name


def _of_numbers(nodes: Sequence[ast.AST], numbers: set[str]) -> Iterator[Truth]:
    """`args.x or config.x`, and `if args.x: config.x = args.x`."""
    held = {dotted(node) for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    given = {name for name in held if name.partition(".")[2] in numbers}
    same = partial(_is_twin, given)
    yield from ((each, dotted(each.test)) for each in _truths(nodes, given) if not isinstance(each.test, ast.UnaryOp))
    for node in nodes:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and same(node.values[0], node.values[1]):
            yield node, dotted(node.values[0])


def _is_twin(given: set[str], one: ast.expr, other: ast.expr) -> bool:
    """Whether a number that was given stands in front of an attribute or entry of its name."""
    if dotted(one) not in given:
        return False
    key = other.slice if isinstance(other, ast.Subscript) else None
    name = (
        str(key.value) if isinstance(key, ast.Constant) else dotted(other) if isinstance(other, ast.Attribute) else ""
    )
    return name.rpartition(".")[2] == dotted(one).rpartition(".")[2]


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
