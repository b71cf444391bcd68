"""An evaluation averages the means of its batches: a short batch, or one with few tokens, weighs as much as a full one.

## What it detects

In an evaluation, losses that are means of a batch already are added up, or put into a list, and divided by the number
of batches.

## Why it matters

The number is another one than the mean over the held-out rows or tokens, and depends on the batch size and on the
order: which checkpoint is the best may be decided by the last, short batch. With rows of one length and batches that
fit it is the same, and many trainers accept the difference: a warning.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. An evaluation is a function
without a backward that runs under `no_grad` or `inference_mode` or puts something into `eval()`; in one with a backward
it is a loop without one that stands under `no_grad`, or holds it. In a loop over data the mean of a batch is: a loss of
`torch.nn.functional` or `torch.nn` whose reduction is the default, the `.loss` of a model's output, and, where a name
there says loss, `.mean()` over everything or a sum that is divided by a sum or a count. The number of batches is `len`
of what the loop goes over, a number that is 1 more in each turn, what `enumerate` gives; of a list `sum(x) / len(x)`
and its `mean`, also by a function of the trainer's that gives such a one of what it is given. A list of sums, one for
each head, is a sum, and a function that gives a sum divided by a sum gives a mean. A mean that is
multiplied, by the count of its batch, is none. So are they in a class that keeps such a mean in one method, also under
`exp`, and averages what it has kept in another. A meter of the trainer's own, which adds up what it is given, times a
weight that is 1 by default or as one of many, is given such a mean without one; beside a meter that is given a weight
in the same loop, any loss or accuracy is such a mean. Statistic: such means of means; a warning each.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for batch in loader:
    total += F.cross_entropy(model(batch.x), batch.y).item()
return total / len(loader)
```

Good:

```python
for batch in loader:
    total += F.cross_entropy(model(batch.x), batch.y, reduction="sum").item()
    count += len(batch.y)
return total / max(count, 1)
```

## How to fix

Add up sums and counts, and divide once.

## Known limits

Losses of one's own functions are not followed into them, unless these give a mean and nothing else. A loop over a
`range` of a setting draws batches of one size and is not looked at.

## Sources

The `loss * batch_size` of torchvision's and timm's meters.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from gradgate.checks.source.meters import Meter, given_to_meters, kept_meters, meters_in
from gradgate.checks.source.trainer import (
    File,
    Function,
    called_name,
    calls_in,
    dotted,
    files_of,
    nodes_in,
    read_file_by_file,
)
from gradgate.checks.source.values import OTHERS, Names, assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG425", "mean-of-batch-means"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WITHOUT_GRADIENT = re.compile(r"no_grad|inference_mode")
DATA = re.compile(r"loader|batch|data|rows|example|sample|iterate|(^|[_.])(dl|val|valid|test|eval)", re.IGNORECASE)
LOSS = re.compile(r"loss|nll|mse|perpl|ppl|(^|[^a-z])x?b?ce(\d|[^a-z]|$)|entropy|err", re.IGNORECASE)
SHARE = re.compile(r"(^|[^a-z])(acc|accurac(y|ies)|share|rate)([^a-z]|$)", re.IGNORECASE)
COUNTED = re.compile(r"^[^/]*\.sum\([^/]*$|\blen\(|count|numel|n_tok")
COUNT = re.compile(r"\.sum\(|count|numel|\blen\(|num_|n_tok|tokens")
LOSSES = re.compile(
    r"(^|\.)(cross_entropy|nll_loss|(mse|l1|smooth_l1|huber)_loss|binary_cross_entropy(_with_logits)?)$"
)
MODULES = re.compile(r"(^|\.)[A-Z]\w*Loss$")
WRAPPERS = ("enumerate", "tqdm", "list", "iter")
KEEPS = ("item", "detach", "cpu", "float", "double", "numpy", "tolist")
STACKS = ("tensor", "stack", "cat", "array", "as_tensor")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop of an evaluation for what it averages."""
    files = files_of(subject)
    averaging = frozenset(name for file in files for name in _averaging(file))
    giving = frozenset(_giving_means(files))
    meters = meters_in(files)
    return read_file_by_file(subject, lambda file: _of_file(file, averaging, giving, meters), "means_of_means")


def _giving_means(files: tuple[File, ...]) -> Iterator[str]:
    """The functions whose name is theirs alone, and which give nothing but a sum over what they are given, divided by
    a sum or a count: `masked_mean(ce, mask)`."""
    known = [function for file in files for function, _ in file.functions]
    names = Counter(function.name for function in known)
    for function in (each for each in known if names[each.name] == 1):
        returned = [node.value for node in own_nodes(function) if isinstance(node, ast.Return)]
        if returned and all(value is not None and _is_share(value, Names(function)) for value in returned):
            yield function.name


def _is_share(value: ast.expr, names: Names) -> bool:
    value = names.held(value)
    if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Div):
        return False
    above, below = ast.unparse(names.held(value.left)), ast.unparse(names.held(value.right))
    return bool(re.search(r"\.sum\(", above) and COUNT.search(below))


def _averaging(file: File) -> Iterator[str]:
    """The functions that give the mean of what they are given first."""
    for function, owner in file.functions if file.has("len(", "mean(") else ():
        arguments = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        given = arguments[1:] if owner is not None and arguments[:1] in (["self"], ["cls"]) else arguments
        returned = [node for node in own_nodes(function) if isinstance(node, ast.Return) and node.value is not None]
        parts = (part for node in returned for part in ast.walk(node))
        if given and any(_averaged_of(part, set(), frozenset()) == given[0] for part in parts):
            yield function.name


def _of_file(
    file: File, averaging: frozenset[str], giving: frozenset[str], meters: Mapping[tuple[str, str], Meter]
) -> Iterator[Finding]:
    modules = set(_loss_modules(file))
    of_self = {name: owner for name, owner in kept_meters(file.nodes, meters).items() if name.startswith("self.")}
    for function, _ in file.functions if file.has("no_grad", "inference_mode", ".eval(") else ():
        nodes = own_nodes(function)
        for loop in _evaluations(function, nodes):
            means = _Means(loop, Names(function), modules, averaging, giving)
            yield from (_finding(file, function, node, name) for node in nodes if (name := means.averaged(node)))
            kept = of_self | kept_meters(nodes, meters)
            yield from _of_meters(file, function, list(given_to_meters(loop, kept, meters)), means)
    for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)) if file.has("mean(") else ():
        yield from _of_metric(file, owner, averaging)


def _of_meters(
    file: File, function: Function, given: list[tuple[ast.Call, str, Meter]], means: _Means
) -> Iterator[Finding]:
    """The means of a batch that a meter is given without their weight."""
    weighed = {id(call) for call, _, meter in given if meter.place.given(call).get(meter.weight) is not None}
    for call, name, meter in given:
        value = meter.place.given(call).get(meter.place.positional[0])
        if value is None or id(call) in weighed or any(word.arg is None for word in call.keywords):
            continue
        text = f"{name} {ast.unparse(value)}"
        beside = bool(weighed) and bool(LOSS.search(text) or SHARE.search(text)) and not COUNTED.search(text)
        if means.is_mean(value, name) or beside:
            told = f"gives `{name}` the mean of a batch without its weight"
            yield _finding(file, function, call, name, told)


def _of_metric(file: File, owner: ast.ClassDef, averaging: frozenset[str]) -> Iterator[Finding]:
    """What a class keeps of each batch that is a mean of it, and averages in another method."""
    methods = [part for part in owner.body if isinstance(part, Function) and part.name != "__init__"]
    for method in methods:
        nodes = own_nodes(method)
        added = list(_added(nodes))
        ones = {name for name, value in added if isinstance(value, ast.Constant) and value.value == 1}
        kept = {name for name, value in _appended(nodes) if _holds_mean(value, f"{owner.name} {name}")}
        kept |= {name for name, value in added if ones and _holds_mean(value, f"{owner.name} {name}")}
        kept.discard("")  # what is no chain of names
        for other in methods if kept else ():
            for node in own_nodes(other) if other is not method else ():
                if (name := _averaged_of(node, ones, averaging)) in kept:
                    yield _finding(file, other, node, name)


def _holds_mean(value: ast.expr, around: str) -> bool:
    """Whether something that is kept of a batch is a mean over it, of a loss by its name or by that of its holder."""
    for part in ast.walk(value):
        if isinstance(part, ast.Call):
            bare = called_name(part) == "mean"
            if bare and not part.keywords and bool(LOSS.search(f"{around} {ast.unparse(value)}")):
                return True
    return False


def _averaged_of(node: ast.AST, ones: set[str], averaging: frozenset[str]) -> str:
    """The list of which a node is the mean, also by a function of these, or the sum that it divides by a number of
    batches."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = node.left, ast.unparse(node.right)
        if isinstance(above, ast.Call) and dotted(above.func) == "sum" and above.args:
            name = dotted(above.args[0])
            return name if name and f"len({name})" in below else ""
        return dotted(above) if any(re.search(rf"{re.escape(one)}\b", below) for one in ones) else ""
    if isinstance(node, ast.Call) and node.args and called_name(node) in {"mean", "fmean", *averaging}:
        return dotted(node.args[0])
    return ""


def _evaluations(function: Function, nodes: list[ast.AST]) -> list[ast.For]:
    """The loops over data from which no gradient is taken."""
    loops = [node for node in nodes if isinstance(node, ast.For) and _is_over_batches(node)]
    called = {dotted(call.func) for call in calls_in(function)} if loops else set()
    guards = [node for node in nodes if isinstance(node, ast.With) and any(map(_takes_none, node.items))]
    evaluates = (
        guards or any(map(_takes_none, function.decorator_list)) or any(name.endswith(".eval") for name in called)
    )
    if evaluates and not any(name.endswith("backward") for name in called):
        return loops
    guarded = {id(part) for guard in guards for part in ast.walk(guard)}
    return [loop for loop in loops if id(loop) in guarded or _only_looks(loop, guards)]


def _only_looks(loop: ast.For, guards: list[ast.With]) -> bool:
    """Whether a loop of a function that trains has a guard and no backward."""
    inside = set(map(id, ast.walk(loop)))
    trains = any(dotted(call.func).endswith("backward") for call in calls_in(loop))
    return not trains and any(id(guard) in inside for guard in guards)


def _takes_none(guard: ast.AST) -> bool:
    return bool(WITHOUT_GRADIENT.search(ast.unparse(guard)))


def _is_over_batches(loop: ast.For) -> bool:
    """Whether a loop goes over data, in batches that need not be of one size."""
    drawn = isinstance(loop.iter, ast.Call) and dotted(loop.iter.func) == "range" and len(loop.iter.args) < 3
    return not drawn and bool(DATA.search(ast.unparse(loop.iter)))


class _Means:
    """What a loop adds up that is the mean of a batch.

    Attributes:
        sums: the names that it is added to.
        lists: the names of the lists that it is put into.
        counts: what the number of batches is called.
    """

    def __init__(
        self, loop: ast.For, names: Names, modules: set[str], averaging: frozenset[str], giving: frozenset[str]
    ) -> None:
        self.names, self.modules, self.averaging = names, modules, {"mean", "fmean", *averaging}
        self.giving = giving
        inside = list(nodes_in(loop.body, *OTHERS, ast.For, ast.While))
        loops = [node for node in inside if isinstance(node, ast.For)]
        parts = [node for node in loops if called_name(_unwrapped(node.iter)) in giving or not _is_over_batches(node)]
        self.over = dict(entry for part in parts for entry in _gone_through(part))
        of_parts = list(nodes_in([each for part in parts for each in part.body], *OTHERS, ast.For, ast.While))
        added = list(_added(inside))
        of_each = [each for each in _added_of_each(of_parts) if each[0]]
        self.sums = {name for name, value in (*added, *of_each) if self.is_mean(value, name)}
        self.lists = {name for name, value in _appended(inside) if self.is_mean(value, name)}
        over = _unwrapped(loop.iter)
        ones = {name for name, value in added if isinstance(value, ast.Constant) and value.value == 1}
        self.counts = ones | {f"len({ast.unparse(over)})"}
        if over is not loop.iter and isinstance(loop.target, ast.Tuple):
            self.counts.add(f"{ast.unparse(loop.target.elts[0])} + 1")

    def averaged(self, node: ast.AST) -> str:
        """What a node divides by the number of batches; empty: nothing."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return self._divided(node.left, node.right)
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            return self._divided(node.target, node.value)
        if isinstance(node, ast.Call) and called_name(node) in self.averaging:
            given = node.args[0] if node.args else getattr(node.func, "value", node)
            if isinstance(given, ast.Call) and called_name(given) in STACKS and given.args:
                given = given.args[0]
            return name if (name := dotted(given)) in self.lists else ""
        return ""

    def _divided(self, above: ast.expr, below: ast.expr) -> str:
        kept = _kept(above)
        if (name := dotted(kept) or _whole(kept)) in self.sums and self._is_count(below):
            return name
        summed = above.args[0] if isinstance(above, ast.Call) and dotted(above.func) == "sum" and above.args else above
        name = dotted(summed)
        counts = name in self.lists and (f"len({name})" in ast.unparse(below) or self._is_count(below))
        return name if counts else ""

    def _is_count(self, below: ast.expr) -> bool:
        if isinstance(below, ast.Call) and dotted(below.func) in ("max", "float", "int"):
            return any(map(self._is_count, below.args))
        return not self.counts.isdisjoint((ast.unparse(below), ast.unparse(self.names.held(below))))

    def is_mean(self, added: ast.expr, name: str) -> bool:
        """Whether what is added under a name is a loss, averaged over its batch."""
        held = self.names.held(_kept(added))
        if (kept := _kept(held)) is not held:
            held = self.names.held(kept)
        if isinstance(held, ast.Name) and held.id in self.over:  # of each head, say
            held = self.names.held(self.over[held.id])
        text = f"{name} {ast.unparse(added)} {ast.unparse(held)}"
        if isinstance(held, ast.BinOp) and isinstance(held.op, ast.Div):
            counts = "sum(" in ast.unparse(held.left) and COUNT.search(ast.unparse(held.right))
            return bool(counts and LOSS.search(text))
        if isinstance(held, ast.Attribute | ast.Subscript) and _is_of_output(held):
            return isinstance(self.names.held(held.value), ast.Call)
        if not isinstance(held, ast.Call):
            return False
        if called_name(held) in self.giving and not isinstance(kept, ast.BinOp):
            return bool(LOSS.search(text))
        called = dotted(held.func)
        reduction = next((ast.unparse(word.value) for word in held.keywords if word.arg == "reduction"), "'mean'")
        if LOSSES.search(called) or called in self.modules:
            return reduction == "'mean'"
        bare = called.rpartition(".")[2] == "mean" and not held.keywords and len(held.args) == (called == "torch.mean")
        return bare and bool(LOSS.search(text))


def _loss_modules(file: File) -> Iterator[str]:
    """The names of losses of torch.nn that are made with the default reduction."""
    for target, value in assignments_in(file.nodes):
        made = isinstance(value, ast.Call) and MODULES.search(dotted(value.func))
        if made and all(word.arg != "reduction" for word in value.keywords):  # type: ignore[attr-defined]
            yield dotted(target)


def _is_of_output(node: ast.Attribute | ast.Subscript) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "loss"
    return isinstance(node.slice, ast.Constant) and node.slice.value == "loss"


def _kept(node: ast.expr) -> ast.expr:
    """A number without what only moves it (`.item()`, `float(...)`)."""
    while isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in KEEPS and not node.args:
            node = node.func.value
        elif dotted(node.func) == "float" and node.args:
            node = node.args[0]
        else:
            break
    return node


def _added(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """The names that are added to, and what is added."""
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            yield dotted(node.target), node.value
    for target, value in assignments_in(nodes):
        if (
            isinstance(value, ast.BinOp)
            and isinstance(value.op, ast.Add)
            and dotted(value.left) == dotted(target) != ""
        ):
            yield dotted(target), value.right


def _added_of_each(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """The lists whose items are added to, and what is added: `totals[head] += loss`."""
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            yield _whole(node.target), node.value


def _whole(node: ast.expr) -> str:
    """What an item stands in."""
    return dotted(node.value) if isinstance(node, ast.Subscript) else ""


def _gone_through(loop: ast.For) -> Iterator[tuple[str, ast.expr]]:
    """The names by which a loop goes through something, and that."""
    target, over = loop.target, loop.iter
    if isinstance(over, ast.Call) and dotted(over.func) == "enumerate" and over.args and isinstance(target, ast.Tuple):
        target, over = target.elts[-1], over.args[0]
    if isinstance(target, ast.Name):
        yield target.id, over


def _appended(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "append"
            and node.args
        ):
            yield dotted(node.func.value), node.args[0]


def _unwrapped(over: ast.expr) -> ast.expr:
    while isinstance(over, ast.Call) and called_name(over) in WRAPPERS and over.args:
        over = over.args[0]
    return over


def _finding(file: File, function: Function, node: ast.AST, name: str, told: str = "") -> Finding:
    told = told or f"divides `{name}` by the number of batches, though each part of it is the mean of a batch"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() {told}: a short batch weighs as much as a full one",
        severity="warning",
        culprit=file.at(node, function.name),
        fix="add up sums and counts, and divide once",
    )
