"""The functions of a trainer that give weights of heads, and what divides by the sums of weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in

CONTROL = re.compile(r"(^|_)(uniform(ly)?|equal(ly)?|baseline|control|constant|unweighted)(_|$)")
WEIGHS = re.compile(
    r"(^|_)(weights?|weigh|weighting|weighter|weightings|weighters|weigher|scorers?)(_|$)", re.IGNORECASE
)
ALSO = re.compile(
    r"(^|_)(sched\w*|lr|sampl\w+|init\w*|prior|noise|dist\w*|tokens?|rows?|class(es)?|decay|rewards?|attn|attention|entropy"
    r"|router|gate|experts?|layers?|norm|loaders?|examples?|positions?|tasks?|pos|quanti\w+|placement)(_|$)",
    re.IGNORECASE,
)
FLOATS = ("float", "double", "half", "bfloat16", "to", "type_as", "type", "astype")
SHAPES = ("unsqueeze", "squeeze", "view", "reshape", "expand", "expand_as", "repeat", "detach", "contiguous", "clone")
GIVES = ("forward", "__call__", "call")


@dataclass(frozen=True)
class Weighting:
    """A function of a trainer as what may give weights.

    Args:
        place: the function.
        keys: what it or its class is registered by.
    """

    place: Place
    keys: tuple[str, ...]

    @cached_property
    def called(self) -> list[str]:
        """Its own name and its class's, with underscores, and its keys."""
        own, owner = [] if self.place.name in GIVES else [self.place.name], self.place.owner
        return [*map(snake, [*own, *([owner.name] if owner else [])]), *self.keys]

    @property
    def told(self) -> str:
        """What it is called in a finding."""
        owner = self.place.owner
        return f"{owner.name}.{self.place.name}" if owner is not None else self.place.name

    @cached_property
    def is_of_weights(self) -> bool:
        """Whether it gives weights of what may be heads."""
        holders, owner = [*self.place.function.decorator_list], self.place.owner
        if owner is not None:
            holders += [*owner.decorator_list, *owner.bases]
        around = [snake(part) for holder in holders for part in re.findall(r"\w+", ast.unparse(holder))]
        given = (each.annotation for each in self.place.parameters.values() if each.annotation is not None)
        around += [snake(part) for kind in given for part in re.findall(r"\w+", ast.unparse(kind))]  # `ScorerInputs`
        around += [*self.called, self.place.file.path.parent.name, self.place.file.path.stem, self.place.name]
        return any(map(WEIGHS.search, around)) and not any(map(ALSO.search, self.called))

    @cached_property
    def is_control(self) -> bool:
        """Whether it is the control group's."""
        return any(map(CONTROL.search, self.called))


def summed_in(node: ast.expr, calls: Sequence[str] = ("sum",)) -> ast.expr | None:
    """What a divisor is the sum of, without what only changes its form."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and called_name(part) in calls:
            is_function = dotted(part.func).rpartition(".")[0] in ("torch", "np", "jnp", "")
            summed = part.args[0] if is_function and part.args else getattr(part.func, "value", None)
            return _bare(summed)
    return None


def _bare(node: ast.expr | None) -> ast.expr | None:
    while isinstance(node, ast.Call) and called_name(node) in (*SHAPES, *FLOATS):
        node = getattr(node.func, "value", None)
    return node


def is_divided_later(places: Sequence[Place], others: Sequence[Place]) -> bool:
    """Whether the loss divides by the weights' sum, or what is given weights divides them by it."""
    known = {place.name for place in places}
    own = {place.name for place in others}
    means = dict[str, set[int | str]]()  # functions that divide by the sum of an argument: its name and its place
    for place in places:
        arguments = [each.arg for each in (*place.function.args.posonlyargs, *place.function.args.args)]
        for left, name in _divisions(place):
            if dotted(left) != name and name in arguments:
                shift = arguments[0] in ("self", "cls")
                means.setdefault(place.name, set()).update((name, arguments.index(name) - shift))
            if not _is_called_weight(name) or _is_mask_as_numbers(name, place):
                continue
            held = place.names.held(left)
            made = isinstance(held, ast.Call) and (
                called_name(held) in known or WEIGHS.search(called_name(held)) or not called_name(held)
            )
            given = held is left and name in arguments and _others_call(place.name, places, own)
            if dotted(left) != name or made or given:
                return True
    return any(
        _is_called_weight(dotted(value))
        for place in places
        for node in place.nodes
        if isinstance(node, ast.Call) and called_name(node) in means
        for key, value in (*enumerate(node.args), *((word.arg, word.value) for word in node.keywords))
        if key in means[called_name(node)]
    )


def _is_mask_as_numbers(name: str, place: Place) -> bool:
    """Whether a function makes a name of something else by a cast alone: of a mask, to take a mean over places."""
    made = [value for target, value in assignments_in(place.nodes) if dotted(target) == name]
    bare = [_bare(value) for value in made]
    return bool(made) and all(
        isinstance(value, ast.Name | ast.Attribute) and not _is_called_weight(dotted(value)) for value in bare
    )


def _divisions(place: Place) -> Iterator[tuple[ast.expr, str]]:
    """What a function divides by sums or means, and what of."""
    for node in place.nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            for divisor in (right, *place.names.parts(right, 1)):
                summed = summed_in(divisor, ("sum", "mean")) if isinstance(divisor, ast.expr) else None
                factors = map(_bare, [summed.left, summed.right] if isinstance(summed, ast.BinOp) else [summed])
                yield from ((left, dotted(factor)) for factor in factors if factor is not None and dotted(factor))


def _is_called_weight(name: str) -> bool:
    return bool(WEIGHS.search(snake(name.rpartition(".")[2]))) or name in ("w", "ws")


def _others_call(name: str, places: Sequence[Place], own: set[str]) -> bool:
    """Whether more than the weightings that sum to 1 call a function, or nothing does."""
    callers = {
        place.name
        for place in places
        for node in place.nodes
        if isinstance(node, ast.Call) and called_name(node) == name
    }
    return not callers or bool(callers - own)


def snake(name: str) -> str:
    """A name in small letters, its words with underscores between them."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]", "_", name).lower()
