"""Parts of a model that are to start alike are given one another's own parameters, and stay one for ever.

## What it detects

`head.proj.weight = first.proj.weight` in a loop over heads that are to start as the first one; or a list of modules
that is one module several times, `nn.ModuleList([Head(size)] * horizon)`.

## Why it matters

A copy was meant, and what is there is one parameter under several names. All heads have the sum of all gradients, move
together and predict the same: what is trained is one head for all distances. Nothing fails, the losses of the heads
differ by their targets, and a checkpoint has each head's weights under its own name.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are: an assignment
of `weight`, `bias`, `data`, or of a part that some class makes with parameters, of one member of a container to the
same attribute of another member of that container, which are known by an index and by loops over it; a member that is
assigned another one; `load_state_dict(..., assign=True)` of one member's state by another; `p.data = q.data` of the
parameters of two members, by `zip`; and a `ModuleList` or `Sequential` of a list that repeats one module with
parameters, by `*` or by a comprehension whose element does not depend on its loop.

None is one where the function, a condition around it, or a name beside it speaks of tying or sharing. Statistic: such
places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for head in self.heads[1:]:
    head.proj.weight = self.heads[0].proj.weight
```

Good:

```python
for head in self.heads[1:]:
    head.load_state_dict(self.heads[0].state_dict())
```

## How to fix

Copy the values: `load_state_dict`, `copy_` under `torch.no_grad()`, or `copy.deepcopy` of the module.

## Known limits

Parts that stand in no container are not looked at: a layer that is given an embedding's weight is tied to it.

## Sources

PyTorch, `torch.nn.Module.load_state_dict`, and "Parameter sharing" in the tutorials: an assigned parameter is shared.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.frozen_parts import is_learnt
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, names_in, nodes_in
from gradgate.checks.source.values import assignments_in, contains, is_true
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG109", "parts-share-parameters"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SHARES = re.compile(r"(^|[_.])(tie|tied|ties|tying)(_|$)|shar(e|ed|es|ing)|same_|universal|recurrent", re.IGNORECASE)
VALUES = ("weight", "bias", "data")
LISTS = ("ModuleList", "Sequential")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for parts that are given one another's parameters."""
    return read_place_by_place(
        subject, lambda file: file.has("weight", "bias", ".data", "[", "assign=True"), _of_place, "places"
    )


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    loops = _members(place)
    for target, value in assignments_in(place.nodes):
        found = _is_given(target, value, place, places, loops) or _is_given_by_zip(target, value, place, loops)
        if found and not _is_meant(target, place):
            yield _finding(place, target, f"`{ast.unparse(target)}` is given `{ast.unparse(value)}` itself")
    for node in place.nodes:
        if not isinstance(node, ast.Call) or _is_meant(node, place):
            continue
        if called_name(node) == "load_state_dict" and any(
            w.arg == "assign" and is_true(w.value) for w in node.keywords
        ):
            state = node.args[0] if node.args else None
            of = state.func.value if isinstance(state, ast.Call) and isinstance(state.func, ast.Attribute) else None
            own = node.func.value if isinstance(node.func, ast.Attribute) else None
            if of is not None and own is not None and _same_container(own, of, place, loops):
                yield _finding(place, node, f"`{ast.unparse(node)}` gives a part another one's parameters themselves")
        elif called_name(node) in LISTS:
            for each in node.args:
                if (one := _repeated(each, place, places)) is not None:
                    yield _finding(place, node, f"`{ast.unparse(node)}` has one module, `{one}`, several times")


def _members(place: Place) -> dict[str, str]:
    """The names of loops that are a container's members, each with that container."""
    found = dict[str, str]()
    for node in place.nodes:
        if isinstance(node, ast.For):
            over, target = node.iter, node.target
            if called_name(over) == "enumerate" and isinstance(target, ast.Tuple) and len(target.elts) == 2:
                over, target = over.args[0], target.elts[1]  # type: ignore[attr-defined]
            if isinstance(target, ast.Name) and (held := _container(over)):
                found[target.id] = held
    return found


def _container(node: ast.expr) -> str:
    """What a loop goes over the members of."""
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        node = node.value
    if isinstance(node, ast.Call) and dotted(node.func) in ("list", "reversed") and node.args:
        return _container(node.args[0])
    if (
        isinstance(node, ast.Call)
        and called_name(node) in ("values", "children")
        and isinstance(node.func, ast.Attribute)
    ):
        return dotted(node.func.value)
    return dotted(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _member(node: ast.expr, place: Place, loops: dict[str, str]) -> tuple[str, str, str]:
    """The container that a part stands in, the member, and the path from there; empty: it is no part of a member."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        if node.id in loops:
            return loops[node.id], node.id, ".".join(path)
        held = place.names.held(node)
        if held is not node and isinstance(held, ast.Subscript):
            container, member, within = _member(held, place, loops)
            return container, member, ".".join(filter(None, (within, *path)))
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Tuple) and dotted(node.value):
        is_key = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        return ("", "", "") if is_key else (dotted(node.value), ast.unparse(node.slice), ".".join(path))
    return "", "", ""


def _same_container(one: ast.expr, other: ast.expr, place: Place, loops: dict[str, str]) -> str:
    """The path, with a dot in front, of the same part of two members of one container; empty: they are none."""
    first, second = _member(one, place, loops), _member(other, place, loops)
    same = first[0] and first[0] == second[0] and first[1] != second[1] and first[2] == second[2]
    return f".{first[2]}" if same else ""


def _is_given(target: ast.expr, value: ast.expr, place: Place, places: Places, loops: dict[str, str]) -> bool:
    path = "" if isinstance(target, ast.Name) else _same_container(target, value, place, loops)
    name = path.rpartition(".")[2]
    if name in VALUES:
        return True
    if path == ".":  # the members themselves
        is_turn = isinstance(value, ast.Name) and value.id in loops
        return not is_turn and _holds_modules(_member(target, place, loops)[0], places)
    return bool(name) and any(
        last == name and is_learnt(made, places) for last, made in _made_by_classes(places) if made is not None
    )


def _made_by_classes(places: Places) -> Iterator[tuple[str, ast.expr]]:
    for place in places.named("__init__"):
        for target, value in assignments_in(place.nodes):
            if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                yield target.attr, value


def _holds_modules(container: str, places: Places) -> bool:
    name = container.rpartition(".")[2]
    return any(last == name and called_name(made) == "ModuleList" for last, made in _made_by_classes(places))


def _is_given_by_zip(target: ast.expr, value: ast.expr, place: Place, loops: dict[str, str]) -> bool:
    """Whether `p.data = q.data` of the parameters of two members."""
    if not (dotted(target).endswith(".data") and dotted(value).endswith(".data")):
        return False
    for loop in (node for node in place.nodes if isinstance(node, ast.For) and called_name(node.iter) == "zip"):
        if contains(loop, target) and isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Call):
            sides = [
                each.func.value
                for each in loop.iter.args
                if called_name(each) == "parameters"
                and isinstance(each, ast.Call)
                and isinstance(each.func, ast.Attribute)
            ]
            swaps = sum(1 for _, each in assignments_in(nodes_in(loop.body)) if dotted(each).endswith(".data")) > 1
            return len(sides) == 2 and not swaps and bool(_same_container(sides[0], sides[1], place, loops))
    return False


def _repeated(node: ast.expr, place: Place, places: Places) -> str | None:
    """The module with parameters that a list has several times."""
    node = node.value if isinstance(node, ast.Starred) else node
    node = place.names.held(node)
    one: ast.expr | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        lists = [side for side in (node.left, node.right) if isinstance(side, ast.List) and len(side.elts) == 1]
        one = lists[0].elts[0] if lists else None
    elif isinstance(node, ast.ListComp | ast.GeneratorExp) and isinstance(node.elt, ast.Name):
        own = {name for each in node.generators for name in names_in(each.target)}
        one = node.elt if node.elt.id not in own else None
    if one is None:
        return None
    made = place.names.held(one)
    return ast.unparse(one) if isinstance(made, ast.Call) and is_learnt(made, places) else None


def _is_meant(node: ast.AST, place: Place) -> bool:
    """Whether a function, a condition around a node, or a name beside it speaks of tying or sharing."""
    words = {place.name, place.owner.name if place.owner is not None else ""}
    for around in place.nodes:
        if isinstance(around, ast.If | ast.IfExp) and contains(around, node):
            words |= names_in(around.test) | {
                str(c.value) for c in ast.walk(around.test) if isinstance(c, ast.Constant)
            }
        elif isinstance(around, ast.Assign) and contains(around, node):
            words |= {name for target in around.targets for name in names_in(target)} | names_in(around.value)
    return any(SHARES.search(word) for word in words)


def _finding(place: Place, node: ast.AST, what: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}(): {what}: they are one from then on; allowed: parameters of its own for each part",
        culprit=place.file.at(node, place.name),
        fix="copy the values: `load_state_dict`, `copy_` under torch.no_grad(), or `copy.deepcopy` of the module",
    )
