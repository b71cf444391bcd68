"""Groups of rows that are given on when they are full, and the last one never, for the check of what is left over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.accumulation import ENDLESS
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import Function, called_name, dotted
from gradgate.checks.source.values import assignments_in, is_empty_list, last_name, outwards

UPDATES = re.compile(r"step|update|flush", re.IGNORECASE)
SHOWS = re.compile(r"sched|bar|log|metric|meter|stat|prof|save|ckpt|checkpoint", re.IGNORECASE)
WRITES = re.compile(
    r"(write|save|dump|emit)_?(shard|part|chunk|group|rows?|pack|batch|block|examples?|records?)", re.IGNORECASE
)
ROOM = re.compile(r"fits?(_|$)|full(_|$)|room|can_(add|take|hold)|has_space", re.IGNORECASE)
PUTS = ("append", "extend", "put")
FILLS = ("append", "extend", "add", "insert", "push")


@dataclass(frozen=True)
class Put:
    """A group that is given on.

    Args:
        group: as it is written.
        anew: what it begins with behind.
        alone: whether a group of one element may be given on, as where the next one has no room.
    """

    group: str
    anew: ast.expr
    alone: bool = False


def not_given_on(place: Place, own: Places, parents: dict[int, ast.AST]) -> Iterator[tuple[ast.If, str]]:
    """The branches of a function in which a full group is given on and begun anew, where nothing gives on the last.

    Args:
        place: the function.
        own: the trainer's functions.
        parents: of the nodes of its file.

    Yields:
        The branch, and the group: the innermost branch of each group.
    """
    found: dict[str, ast.If] = {}
    for branch in (node for node in place.nodes if isinstance(node, ast.If)):
        inside = list(ast.walk(branch))
        for group, anew in _emptied(inside):
            if _gives_on(inside, group, place, own, _is_of_length(branch.test, group)):
                by_a_list = is_empty_list(anew) and _is_put_whole(inside, group)
                sure = by_a_list or _is_of_length(branch.test, group) or _is_of_size(branch.test)
                alone = not _is_of_length(branch.test, group)
                put = Put(group, anew, alone)
                if sure and not _may_be_the_last(branch.test) and _is_lost(place, own, branch, put, parents):
                    found[group] = branch
        if not _may_be_the_last(branch.test) and _is_of_size(branch.test):
            found |= dict.fromkeys(_closed_elsewhere(branch, place, own, parents), branch)
    yield from ((branch, group) for group, branch in found.items())


def _emptied(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """The names, attributes and items that nodes empty, or begin anew, and with what."""
    nodes = list(nodes)
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Name | ast.Attribute | ast.Subscript) and _begins(value):
            yield ast.unparse(target), value
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "clear":
            yield ast.unparse(node.func.value), ast.List([], ast.Load())
        elif isinstance(node, ast.Call) and called_name(node) == "pop" and len(node.args) == 1:
            table = node.func.value if isinstance(node.func, ast.Attribute) else node
            yield f"{ast.unparse(table)}[{ast.unparse(node.args[0])}]", ast.List([], ast.Load())
        elif isinstance(node, ast.Delete):
            for each in node.targets:
                whole = isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Slice)
                yield ast.unparse(each.value if whole else each), ast.List([], ast.Load())  # type: ignore[attr-defined]


def _begins(value: ast.expr) -> bool:
    """Whether a value is one to begin a group with: an empty one, or one of a single element, or an object's."""
    if isinstance(value, ast.List):
        return len(value.elts) <= 1 and not any(isinstance(each, ast.Starred) for each in value.elts)
    return isinstance(value, ast.Call) or (isinstance(value, ast.Constant) and value.value in ("", None))


def _gives_on(inside: list[ast.AST], group: str, place: Place, own: Places, may_train: bool) -> bool:
    """Whether nodes yield a group, put it into something, or hand it on."""
    for node in inside:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            given = True
        elif isinstance(node, ast.AugAssign):
            given = isinstance(node.op, ast.Add) and ast.unparse(node.target) != group
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            given = name.rpartition(".")[2] in PUTS and name.rpartition(".")[0] != group
            given |= may_train and bool(WRITES.search(name) or (UPDATES.search(name) and not SHOWS.search(name)))
            given |= _is_put_by(node, group, place, own)
        else:
            continue
        read = (part for each in ast.iter_child_nodes(node) for part in ast.walk(each))
        if given and "[" in group and f"{group.partition('[')[0]}.pop(" in ast.unparse(node):
            return True
        if given and any(reads(part, group) and not _is_asked(part, node) for part in read):
            return True
    return False


def _is_asked(part: ast.AST, node: ast.AST) -> bool:
    """Whether nothing but the length of a group is given."""
    return any(
        called_name(call) == "len" and part in call.args for call in ast.walk(node) if isinstance(call, ast.Call)
    )


def _is_put_by(call: ast.Call, group: str, place: Place, own: Places) -> bool:
    """Whether a function of the trainer's puts what it is given for a group into something."""
    if not any(reads(each, group) for each in call.args) or (called := own.called(call, place)) is None:
        return False
    names = [name for name, value in called.given(call).items() if reads(value, group)]
    return any(
        isinstance(node, ast.Call) and called_name(node) in PUTS and any(reads(part, name) for part in ast.walk(node))
        for node in called.nodes
        for name in names
    )


def _is_put_whole(inside: list[ast.AST], group: str) -> bool:
    """Whether a group is appended as it is."""
    calls = (node for node in inside if isinstance(node, ast.Call) and len(node.args) == 1)
    return any(called_name(call) == "append" and reads(call.args[0], group) for call in calls)


def _is_of_length(test: ast.expr, group: str) -> bool:
    """Whether a group is asked whether it has so many elements."""
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.GtE)):
        return False
    asked = test.left
    return isinstance(asked, ast.Call) and called_name(asked) == "len" and ast.unparse(asked.args[0]) == group


def _is_of_size(test: ast.expr) -> bool:
    """Whether a condition asks for a size that is reached, or whether there is room."""
    for part in ast.walk(test):
        if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE):
            return True
        if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq) and called_name(part.left) == "len":
            return True
        if isinstance(part, ast.Call | ast.Attribute) and ROOM.search(called_name(part) or last_name(part)):
            return True
    return False


def _may_be_the_last(test: ast.expr) -> bool:
    """Whether a condition holds for another reason as well, as at the last element."""
    either = (part for part in ast.walk(test) if isinstance(part, ast.BoolOp) and isinstance(part.op, ast.Or))
    return any(not _is_of_size(each) or "- 1" in ast.unparse(each) for part in either for each in part.values)


def _is_lost(place: Place, own: Places, branch: ast.If, put: Put, parents: dict[int, ast.AST]) -> bool:
    """Whether a group begins in front of the loop that fills it, and nothing reads it behind."""
    group, anew = put.group, put.anew
    if group.startswith("self."):
        loops = _loops(branch, parents)
        fills = loops[-1] if loops else place.function
        return (
            _is_filled(fills, group)
            and not _is_read_behind(place, fills, group, alone=put.alone)
            and _is_private(place, own, group)
        )
    whole = group.partition("[")[0]  # of groups by a key: all of them
    taken = set(map(id, ast.walk(branch)))
    begun = [
        value
        for target, value in assignments_in(place.nodes)
        if dotted(target) == whole and id(value) not in taken and _is_alike(value, anew, group != whole)
    ]
    if not begun or (whole in place.parameters and group != whole):
        return False
    around = {id(node) for node in outwards(begun[0], parents)}
    loop = next((loop for loop in reversed(_loops(branch, parents)) if id(loop) not in around), None)
    if loop is None or not _ends(loop):
        return False
    return _is_filled(loop, group) and not _is_read_behind(place, loop, whole, alone=put.alone)


def _is_alike(value: ast.expr, anew: ast.expr, of_keys: bool) -> bool:
    """Whether a group begins with a value as it begins anew; where there is one for each key, with a mapping."""
    if of_keys:
        return isinstance(value, ast.Dict) or called_name(value) in ("dict", "defaultdict", "OrderedDict")
    if isinstance(anew, ast.List):
        return is_empty_list(value) or ast.unparse(value) == "list()"
    return ast.unparse(value) == ast.unparse(anew)


def _closed_elsewhere(branch: ast.If, place: Place, own: Places, parents: dict[int, ast.AST]) -> Iterator[str]:
    """The groups that a function puts away and empties which is called in this branch, and nowhere else."""
    for call in (node for node in ast.walk(branch) if isinstance(node, ast.Call)):
        called = own.called(call, place)
        if called is None or called is place or sum(1 for _ in own.calls_of(called.name)) != 1:
            continue
        for group, _ in _emptied(called.nodes):
            loops = _loops(branch, parents)
            fills = loops[-1] if loops else place.function if group.startswith("self.") else None
            if fills is None or not _gives_on(called.nodes, group, called, own, may_train=False):
                continue
            private = (
                _is_private(place, own, group, called) if group.startswith("self.") else group not in called.parameters
            )
            if private and _is_filled(fills, group) and not _is_read_behind(place, fills, group):
                yield group


def _is_private(place: Place, own: Places, group: str, closes: Place | None = None) -> bool:
    """Whether an attribute is read in these functions alone."""
    name = group.removeprefix("self.")
    return place.owner is not None and not any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        for other in own.all
        if other is not place and other is not closes
        for node in other.nodes
    )


def _loops(node: ast.AST, parents: dict[int, ast.AST]) -> list[ast.For | ast.While]:
    """Those of its function that a node stands in, from the inside out."""
    found: list[ast.For | ast.While] = []
    for around in outwards(node, parents):
        if isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
            break
        if isinstance(around, ast.For | ast.While):
            found.append(around)
    return found


def _ends(loop: ast.For | ast.While) -> bool:
    if isinstance(loop, ast.While):
        return not isinstance(loop.test, ast.Constant)
    return not ENDLESS.search(ast.unparse(loop.iter)) and "None]" not in ast.unparse(loop.iter)


def _is_filled(loop: ast.AST, group: str) -> bool:
    for node in ast.walk(loop):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            of_a_name = not group.startswith("self.") and _is_of(node.target, group)
            if ast.unparse(node.target) == group or of_a_name:
                return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FILLS:
            filled = node.func.value
            if ast.unparse(filled) == group or called_name(filled) == "setdefault":
                return True
            if _is_of(filled, group):  # a list of it: `row.documents.append(document)`
                return True
    return any(_adds(target, value, group) for target, value in assignments_in(ast.walk(loop)))


def _is_of(filled: ast.expr, group: str) -> bool:
    """Whether something is a part of a group by its name: `row.ids`, `row["ids"]`."""
    return dotted(filled).startswith(f"{group}.")


def _adds(target: ast.expr, value: ast.expr, group: str) -> bool:
    added = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)
    return added and ast.unparse(target) == group and any(reads(part, group) for part in ast.walk(value))


def _is_read_behind(place: Place, loop: ast.For | ast.While | Function, group: str, *, alone: bool = False) -> bool:
    """Whether anything reads a group behind its loop; where one of a single element may be given on, not what is done
    with one of several alone."""
    inside = {id(node) for part in loop.body for node in ast.walk(part)}
    if alone:
        of_several = [node for node in place.nodes if isinstance(node, ast.If) and _is_of_several(node, group)]
        inside |= {id(part) for node in of_several for part in ast.walk(node)}
    behind = (node for node in place.nodes if id(node) not in inside and getattr(node, "lineno", 0) > loop.lineno)
    return any(reads(node, group) for node in behind)


def _is_of_several(branch: ast.If, group: str) -> bool:
    """Whether a branch is for groups of two elements and more."""
    test = branch.test
    if not (isinstance(test, ast.Compare) and isinstance(asked := test.left, ast.Call) and len(test.ops) == 1):
        return False
    least = {ast.Gt: 1, ast.GtE: 2, ast.NotEq: 1}.get(type(test.ops[0]))
    number = test.comparators[0].value if isinstance(test.comparators[0], ast.Constant) else None
    of_group = called_name(asked) == "len" and len(asked.args) == 1 and ast.unparse(asked.args[0]) == group
    return of_group and number is not None and number == least and not branch.orelse


def reads(node: ast.AST, name: str) -> bool:
    """Whether a node is what goes by such a name, and is read."""
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript) or not isinstance(node.ctx, ast.Load):
        return False
    return ast.unparse(node) == name
