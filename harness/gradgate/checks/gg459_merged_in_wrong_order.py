"""Settings are merged in the wrong order: the defaults over the file, the recipe over the command line.

## What it detects

`{**config, **DEFAULTS}`; `config.update(defaults)`; `deep_merge(config, load_yaml(args.recipe))` behind
`config = apply_sets(config, args.set)`.

## Why it matters

What is merged last counts. Whatever the file says of a key that has a default is lost, or `--set` changes nothing for
every key that the recipe has; the run trains, by other settings than it was given.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Settings have a rank by
their names: defaults and fallbacks, then a base, then a configuration, what is read from a file, a recipe or an
experiment, then overrides, dotlists and what `--set` gives. A name has the rank of what it holds, of what has been
merged into it and of the calls that made it; a table of defaults from which the keys that are given are left out has
none.

A finding is a merge (`{**a, **b}`, `a | b`, `a.update(b)`, `dict(a, **b)`, `OmegaConf.merge(a, b)`, a loop over
`b.items()` that sets each, a function of the trainer's own that puts its second argument's items into its first one's)
that puts defaults over any others, a base over a recipe, or anything else over overrides, where these are not merged
once more behind it. Statistic: such merges. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
config = {**load_yaml(path), **DEFAULTS}
```

Good:

```python
config = {**DEFAULTS, **load_yaml(path)}
```

## How to fix

Merge defaults, base, recipe and overrides in this order, in one place.

## Known limits

The order of what is called by other names, and merges in different functions, are not known; GG444 asks whether an
argument's default is written over a file.

## Sources

Python, `dict`: "If a key occurs more than once, the last value for that key becomes the corresponding value".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from gradgate.checks.source.trainer import File, Function, called_name, dotted, files_of, given_by, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG459", "merged-in-wrong-order"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DEFAULTS, BASE, FILE, RECIPE, OVERRIDES = range(5)
CALLED = (
    (re.compile(r"missing|absent|unset|unused"), None),
    (
        re.compile(r"overrid|overwrit|dotlist|(^|_)(cli|cmdline|command_line)(_|$)|^(apply|parse)_sets?$|\.sets?$"),
        OVERRIDES,
    ),
    (re.compile(r"(^|_)(defaults?|fallbacks?)(_|$)"), DEFAULTS),
    (re.compile(r"^base(_?(config|cfg|conf|recipe|settings))?$"), BASE),
    (re.compile(r"(^|_)(recipe|experiment|exp_cfg|exp_config)$"), RECIPE),
    (re.compile(r"(^|_)(config|cfg|conf|settings|hparams|content|user|given|loaded|options|yaml|json|file)$"), FILE),
)
READS = re.compile(r"load|read|from_(file|yaml|json)|parse")
NAMES = ("defaults", "a base", "a file's settings", "a recipe", "overrides")
Merge = tuple[ast.AST, list[ast.expr]]  # where settings are merged, and which, the last counts


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for merges in which what counts less comes last."""
    merging = {
        function.name: order
        for file in files_of(subject)
        for function, _ in file.functions
        if (order := _order(function))
    }

    def find(file: File) -> Iterator[Finding]:
        if file.has("efault", "EFAULT", "verrid", "verwrit", "cli", "dotlist", "base", "fallback", ".set", "FALLBACK"):
            for function, _ in file.functions:
                yield from _found(file, function, merging)

    return read_file_by_file(subject, find, "merges")


def _order(function: Function) -> int:
    """1 where a function puts its second argument's items into its first one's, -1 the other way; else 0."""
    given = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
    if len(given) < 2:
        return 0
    nodes, names = own_nodes(function), Names(function)
    stored = {part.id for target, _ in assignments_in(nodes) if isinstance(target, ast.Subscript)
              for part in names.parts(target.value) if isinstance(part, ast.Name)}  # fmt: skip
    for node in nodes:
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and dotted(node.iter.func).endswith(".items"):
            over = dotted(node.iter.func).removesuffix(".items")
            if over == given[1] and given[0] in stored:
                return 1
            if over == given[0] and given[1] in stored:
                return -1
    return 0


def _found(file: File, function: Function, merging: dict[str, int]) -> Iterator[Finding]:
    nodes = own_nodes(function)
    merges = sorted(_merges(nodes, merging), key=lambda merge: (merge[0].lineno, merge[0].col_offset))  # type: ignore[attr-defined]
    ranks = _Ranks(Names(function), merges)
    for node, parts in merges:
        of = [ranks.of(part, node) for part in parts]
        for at, (before, last) in enumerate(zip(accumulate(of, _higher), of[1:], strict=False)):
            if before is None or last is None or not _is_wrong(before, last):
                continue
            if before == OVERRIDES and _given_again(nodes, node):
                continue
            if last == DEFAULTS and any(each is not None and each > DEFAULTS for each in of[at + 2 :]):
                continue
            yield _finding(file, function, node, before, last)
            break


def _higher(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _is_wrong(before: int, last: int) -> bool:
    """Whether what comes last counts less; configurations, files and recipes may be merged as one likes."""
    if last == BASE:
        return before in (RECIPE, OVERRIDES)
    return last < before and (last == DEFAULTS or before == OVERRIDES)


def _given_again(nodes: Sequence[ast.AST], node: ast.AST) -> bool:
    """Whether overrides are read once more behind a merge."""
    end = getattr(node, "end_lineno", 0)
    return any(
        _rank(ast.unparse(part)) == OVERRIDES
        for part in nodes
        if isinstance(part, ast.Name | ast.Attribute) and part.lineno > end
    )


def _merges(nodes: Sequence[ast.AST], merging: dict[str, int]) -> Iterator[Merge]:
    """The merges of a function."""
    for node in nodes:
        if isinstance(node, ast.Dict):
            parts = [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
            yield from [(node, parts)] if len(parts) > 1 else []
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            yield node, [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
            yield node, [node.target, node.value]
        elif isinstance(node, ast.Call):
            yield from _by_call(node, merging)
        elif isinstance(node, ast.For):
            yield from _by_loop(node)


def _by_call(call: ast.Call, merging: dict[str, int]) -> Iterator[Merge]:
    name = called_name(call)
    given = [*call.args, *(word.value for word in call.keywords if word.arg is None)]
    if name == "update" and isinstance(call.func, ast.Attribute) and len(given) == 1 == len(call.args + call.keywords):
        yield call, [call.func.value, given[0]]
    elif (name == "dict" and len(given) > 1) or dotted(call.func).endswith("OmegaConf.merge"):
        yield call, given
    elif name in merging and len(given) >= 2:
        yield call, given[:2][:: merging[name]]


def _by_loop(loop: ast.For) -> Iterator[Merge]:
    """`for key, value in defaults.items(): config[key] = value`, and nothing else."""
    over = loop.iter
    names = [dotted(one) for one in loop.target.elts] if isinstance(loop.target, ast.Tuple) else []
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"):
        return
    if len(loop.body) != 1 or len(names) != 2:
        return
    for target, value in assignments_in(loop.body):
        if isinstance(target, ast.Subscript) and [dotted(target.slice), dotted(value)] == names:
            yield loop, [target.value, over.func.value]
    call = loop.body[0].value if isinstance(loop.body[0], ast.Expr) else None
    if isinstance(call, ast.Call) and dotted(call.func) == "setattr" and len(call.args) == 3:
        yield from [(loop, [call.args[0], over.func.value])] if [*map(dotted, call.args[1:])] == names else []


def _rank(text: str) -> int | None:
    """The rank that a name says."""
    last = text.rpartition(".")[2].lower().strip("_")
    of = text.lower() if re.search(r"(args|opts)\.sets?$", text) else last
    return next((rank for pattern, rank in CALLED if pattern.search(of)), None)


class _Ranks:
    """The ranks of what a function merges.

    Args:
        names: what its names hold.
        merges: in the order of its lines.
    """

    def __init__(self, names: Names, merges: Sequence[Merge]) -> None:
        self._names, self._merges = names, merges

    def of(self, node: ast.expr, at: ast.AST, hops: int = 5) -> int | None:
        """The highest rank in an expression, as it is in front of a merge; None: it has none."""
        if not hops or isinstance(node, ast.DictComp | ast.Constant):
            return None
        if isinstance(node, ast.Dict):
            parts = [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
            return self._highest(parts, at, hops)
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.IfExp):
            return self._highest([part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)], at, hops)
        if isinstance(node, ast.Call):
            return self._of_call(node, at, hops)
        if isinstance(node, ast.Subscript):
            own = _rank(last_name(node))
            return own if own is not None else self.of(node.value, at, hops - 1)
        if not isinstance(node, ast.Name | ast.Attribute):
            return None
        own, held = _rank(ast.unparse(node)), self._names.held(node)
        if own in (DEFAULTS, OVERRIDES):
            return own
        made = own if held is node else self.of(held, node, hops - 1)
        merged = [
            self.of(parts[-1], each, hops - 1)
            for each, parts in self._merges
            if isinstance(each, ast.Call | ast.AugAssign | ast.For)
            and dotted(parts[0]) == dotted(node)
            and getattr(held, "lineno", 0) <= each.lineno < node.lineno
        ]
        return max((rank for rank in (made, *merged) if rank is not None), default=None)

    def _highest(self, parts: Sequence[ast.expr], at: ast.AST, hops: int) -> int | None:
        return max((rank for part in parts if (rank := self.of(part, at, hops - 1)) is not None), default=None)

    def _of_call(self, call: ast.Call, at: ast.AST, hops: int) -> int | None:
        name = called_name(call)
        own = _rank(name)
        inside = self._highest(given_by(call), at, hops)
        if own in (DEFAULTS, OVERRIDES):
            return own
        if name in ("copy", "deepcopy", "dict", "items") and not call.args and isinstance(call.func, ast.Attribute):
            return self.of(call.func.value, at, hops - 1)
        if READS.search(name) and inside in (None, FILE, BASE, RECIPE):
            return FILE if inside is None else inside
        return inside


def _finding(file: File, function: Function, node: ast.AST, before: int, last: int) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() merges {NAMES[last]} over {NAMES[before]}, and what is merged last counts; "
        "allowed: the other way round",
        culprit=file.at(node, function.name),
        fix="merge defaults, base, recipe and overrides in this order, in one place",
    )
