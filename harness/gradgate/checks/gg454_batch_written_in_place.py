"""A function writes into the labels, the mask or the tokens that it is given, or a data set into a row that it keeps.

## What it detects

`index = labels.clamp_(min=0)` in a function that is given `labels`: what was ignored is token 0 from there on.
Or `item["reward"][start:] -= penalty` in a data set's `__getitem__`, of an `item` that it keeps and does not copy.

## Why it matters

Whoever asks the batch next, the loss behind a reference's scores, counts padding and prompts as targets. No gradient is
wrong, so nothing raises; a batch that is used twice is another one the second time. What a data set writes into its
own rows adds up with each access: in the second epoch the penalty is twice as large, and an evaluation adds its own.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of a
method whose name ends in `_`, and, in a function that gives something back or keeps something, stores at an index,
`&=`, `|=` and `*=`, and calls of functions that do nothing else, or that give back under another name what they write
into, of an argument, or of an item or an attribute of one, however deep (`inputs.batch.labels`), that is called labels,
targets, mask, valid, ids or tokens, of a view of it, or of a name that holds it; where the function assigns that
nothing before and does not give it, or what holds it, back; not where it is what the function is named after
(`mask_labels_`, `collate`).

Of a class with `__getitem__` or `__iter__`, rows that it keeps are what its methods assign to its attributes as lists,
mappings or tensors, and parameters that are annotated so; they are followed through names, loops, views and shallow
copies (`dict(item)`, `{**item}`), and into functions that are given one. Findings are writes there that are made of
what stood in that place (`-=`, `add_`, `append`, `item["x"] = item["x"] - 1`), where the row is read behind them and no
condition asks the row whether it was written before.

Statistic: such writes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def token_losses(logits, labels):
    index = labels.clamp_(min=0)
```

Good:

```python
    index = labels.clamp(min=0)
```

## How to fix

Take the operation that makes a new tensor, without the `_`.

## Known limits

What a loop writes into the batches that it goes through is not looked at. What a step writes into its batch is GG104's,
which runs it.

## Sources

PyTorch, "Tensor Views" and the naming of in-place operations: a name that ends in `_` changes the tensor itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.kept_rows import GIVES, rewritten
from gradgate.checks.source.objects_called import object_called
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG454", "batch-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_A_BATCH = re.compile(r"^(?!out_|outputs?_|buf)(\w*_)?(labels?|targets?|mask|valid|ids|tokens?)(_[A-Z]+)?$")
IN_PLACE = re.compile(r"[a-z]_$")
MAKES = re.compile(
    r"[^_]_$|collat|fill|pad_|_pad|corrupt|noise|mask_|_mask|shift|prepare|augment|preprocess", re.IGNORECASE
)
PLACES = re.compile(r"mask|valid|pad|ignore|keep|drop", re.IGNORECASE)
NO_WRITES = ("requires_grad_", "share_memory_", "pin_memory_")
COPIES = ("replace", "_replace", "dict")
VIEWS = ("view", "squeeze", "unsqueeze", "transpose", "permute", "narrow", "select", "detach", "reshape", "flatten")
ASKS = ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isin", "logical_not", "logical_and", "logical_or", "bool")
Write = tuple[ast.expr | ast.stmt, ast.expr]  # what writes in place, and where


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what writes into what a function is given."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    writing = [file for file in files if file.has("_(", "] =", "&=", "|=", "*=", *GIVES)]
    places = places_in(files) if writing else None
    known = [place for place in places.functions if place.file in writing] if places is not None else []
    found = tuple(finding for place in known for finding in _of_place(place, _Given(place), places_in(files)))
    found += tuple(_kept(place, *one) for place in known for one in rewritten(place, places_in(files)))
    return Outcome(found, {"writes": len(found)}, {"writes": 0})


def _of_place(place: Place, given: _Given, places: Places) -> Iterator[Finding]:
    if MAKES.search(place.name):
        return
    acts = _acts(place.nodes)
    for node, written in (*_writes(place, acts), *(_by_calls(place, places) if acts else ())):
        path = given.path(written)
        if path and OF_A_BATCH.search(_last(path)) and not given.is_renewed(path) and not given.is_returned(path):
            yield _finding(place, node, path)


def _acts(nodes: Sequence[ast.AST]) -> bool:
    """Whether a function gives something back, or keeps something: what it writes into is not what it is for."""
    for node in nodes:
        if isinstance(node, ast.Return) and node.value is not None:
            return True
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) == "self":
            return True
        if isinstance(node, ast.AugAssign) and dotted(node.target).startswith("self."):
            return True
        if isinstance(node, ast.Call) and re.fullmatch(r"self\..*\.(append|add|update)", dotted(node.func)):
            return True
    return False


def _writes(place: Place, acts: bool) -> Iterator[Write]:
    """What writes in place: of a function that gives or keeps something also stores and `&=`."""
    nodes = place.nodes
    asked = {  # what is no number: it is indexed, or has methods
        ast.unparse(node.value if isinstance(node, ast.Attribute | ast.Subscript) else node.operand)
        for node in nodes
        if isinstance(node, ast.Attribute | ast.Subscript)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert))
    }
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and IN_PLACE.search(node.func.attr):
            if node.func.attr not in NO_WRITES:
                yield node, node.func.value
        elif isinstance(node, ast.Assign) and acts:
            for target in node.targets:
                if isinstance(target, ast.Subscript) and _is_of_places(target.slice, place):
                    yield node, target.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Mult):
            is_tensor = ast.unparse(node.target) in asked and not any(map(_is_of_numbers, ast.walk(node.value)))
            yield from [(node, node.target)] if is_tensor and acts else []


def _by_calls(place: Place, places: Places) -> Iterator[Write]:
    """Calls of functions that do nothing but write into an argument, or that give it back, under another name."""
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        called = places.called(call, place)
        if called is None and any(OF_A_BATCH.search(last_name(each)) for each in given_by(call)):
            called = object_called(call, place, places)
        if called is None or called.function is place.function:
            continue
        given, does_more = _Given(called), _acts(called.nodes)
        for _, written in _writes(called, acts=True):
            path = given.path(written)
            root, _, rest = path.partition(".")
            value = called.given(call).get(root) if root and not given.is_renewed(path) else None
            if value is None or (does_more and not (given.is_returned(path) and _is_renamed(call, value, place))):
                continue
            yield call, _within(value, rest)


def _is_renamed(call: ast.Call, value: ast.expr, place: Place) -> bool:
    """Whether what a call gives back has another name than what it was given, which is read behind that."""
    names = [ast.unparse(target) for target, held in assignments_in(place.nodes) if held is call]
    text, root = ast.unparse(value), dotted(value).partition(".")[0]
    read = (node for node in place.nodes if isinstance(node, ast.Name) and node.lineno > call.lineno)
    return bool(names) and text not in names and any(node.id == root for node in read)


def _within(value: ast.expr, rest: str) -> ast.expr:
    for name in rest.split(".") if rest else ():
        value = ast.copy_location(ast.Attribute(value, name, ast.Load()), value)
    return value


def _is_of_places(index: ast.expr, place: Place) -> bool:
    """Whether an index takes places of a tensor: a range, several axes, a condition or a mask, and no key."""
    kinds = (ast.Slice, ast.Tuple, ast.Compare, ast.UnaryOp, ast.BinOp)
    if isinstance(index, ast.Call) and isinstance(index.func, ast.Attribute) and index.func.attr in ASKS:
        return True
    held = place.names.held(index)
    both = isinstance(held, ast.BinOp) and isinstance(held.op, ast.BitAnd | ast.BitOr)
    asks = isinstance(held, ast.Compare) or (both and any(isinstance(part, ast.Compare) for part in ast.walk(held)))
    return isinstance(index, kinds) or asks or bool(PLACES.search(last_name(index)))


def _is_of_numbers(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in ("len", "isinstance", "bool", "all", "any")


class _Given:
    """What a function is given: its arguments, their parts, and names that hold one of these alone.

    Args:
        place: the function.
    """

    def __init__(self, place: Place) -> None:
        self._values: dict[str, list[ast.expr]] = {}
        for target, value in assignments_in(place.nodes):
            for one in places_of(target):
                self._values.setdefault(dotted(one) or ast.unparse(one), []).append(value)
        self._arguments = place.parameters.keys() - {"self", "cls"}
        self._renewed = {self.path(target) for target, _ in assignments_in(place.nodes) if _is_part(target)}
        values = place.returned
        self._returned = {self.path(part) for value in values for part in _handed_back(value)} - {""}

    def path(self, node: ast.expr, hops: int = 6) -> str:
        """Where in an argument something stands, `inputs.batch.labels`; empty: it is none of what is given."""
        if isinstance(node, ast.Name):
            held = self._values.get(node.id, [])
            if node.id in self._arguments:
                return "" if held else node.id
            return self.path(held[0], hops - 1) if len(held) == 1 and hops else ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in VIEWS:
                return self.path(node.func.value, hops)
            key = node.args[0] if node.func.attr == "get" and node.args else None
            holder, name = node.func.value, str(key.value) if isinstance(key, ast.Constant) else ""
        elif isinstance(node, ast.Subscript):
            if isinstance(node.slice, ast.Slice | ast.Tuple):
                return self.path(node.value, hops)  # a view
            holder, name = node.value, last_name(node)
        elif isinstance(node, ast.Attribute):
            if node.attr == "data":
                return self.path(node.value, hops)
            holder, name = node.value, node.attr
        else:
            return ""
        before = self.path(holder, hops) if name else ""
        return f"{before}.{name}" if before else ""

    def is_renewed(self, path: str) -> bool:
        """Whether the function puts something else in its place, or in that of what holds it."""
        return any(path == one or path.startswith(f"{one}.") for one in self._renewed if one)

    def is_returned(self, path: str) -> bool:
        """Whether the function gives it back, or what holds it."""
        return any(path == one or path.startswith(f"{one}.") for one in self._returned)


def _is_part(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) or (isinstance(target, ast.Subscript) and bool(last_name(target)))


def _handed_back(value: ast.expr) -> Iterator[ast.expr]:
    """What a function gives back: itself, the parts of a tuple or a mapping, and what a class is made of."""
    if isinstance(value, ast.Tuple | ast.List):
        parts: Sequence[ast.expr] = value.elts
    elif isinstance(value, ast.Dict):
        parts = value.values
    elif isinstance(value, ast.Call) and (
        _last(dotted(value.func))[:1].isupper() or _last(dotted(value.func)) in COPIES
    ):
        parts = given_by(value)
    else:
        yield value
        return
    for part in parts:
        yield from _handed_back(part)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _finding(place: Place, node: ast.expr | ast.stmt, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() writes into the `{name}` that it is given, by `{ast.unparse(node)}`; allowed: none",
        culprit=place.file.at(node, place.name),
        fix="take the operation without the `_`, or write into a clone",
    )


def _kept(place: Place, node: ast.expr | ast.stmt, name: str) -> Finding:
    owner = f"{place.owner.name}." if place.owner is not None else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{owner}{place.name}() writes into `{name}` that it keeps, by `{ast.unparse(node)}`: it adds up with "
        "each access; allowed: none",
        culprit=place.file.at(node, place.name),
        fix="write into a clone, or write once, where the rows are made",
    )
