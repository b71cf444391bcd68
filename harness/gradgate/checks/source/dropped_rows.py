"""Loaders of a trainer's source that drop the rows of a last batch by what they share with others."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.evaluation_names import EVALUATION, TRAINING, given_names
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, contains, is_true, last_name, outwards, parents_in, places_of

FLAG = "drop_last"
HOPS = 3  # mappings and names that are followed


@dataclass(frozen=True)
class Dropped:
    """A loader of held-out rows whose last batch is dropped.

    Args:
        place: where the flag stands.
        flag: itself.
        name: of the loader.
        how: it is dropped.
    """

    place: Place
    flag: ast.expr
    name: str
    how: str


@dataclass(frozen=True)
class _Builder:
    """A function that gives what drops.

    Args:
        place: itself.
        flag: by which it drops.
        where: that flag stands.
    """

    place: Place
    flag: ast.expr
    where: Place


def dropped_in(own: Places) -> Iterator[Dropped]:
    """The loaders of held-out rows that drop by a flag in a shared mapping, in a shared function, or by a setting that
    also says so for the rows that train."""
    builders = [*_builders(own)]
    builders += [*_handing_on(builders, own)]
    by_setting: dict[str, list[tuple[Dropped | None, ast.Call]]] = {}
    for place in own.all:
        calls = [node for node in place.nodes if isinstance(node, ast.Call)] if place.file.has(FLAG) else []
        for call in calls:
            flag = _flag_of(call, place)
            if flag is None or (is_true(flag) and any(word.arg == FLAG for word in call.keywords)):
                continue  # told where it stands
            name = held_out_name(call, place)
            found = Dropped(place, flag, name, f"`{FLAG}` of what it shares with others") if name else None
            if is_true(flag) and found is not None:
                yield found
            elif is_setting_of(flag):
                by_setting.setdefault(ast.unparse(flag), []).append((found, call))
    for found_there in by_setting.values():
        shared = [found for found, _ in found_there if found is not None]
        if len(shared) < len(found_there):
            told = f"`{ast.unparse(shared[0].flag)}`, the setting of the rows that train" if shared else ""
            yield from (Dropped(each.place, each.flag, each.name, told) for each in shared)
    yield from _by_builders(builders, own)


def _by_builders(builders: list[_Builder], own: Places) -> Iterator[Dropped]:
    seen: set[int] = set()
    for builder in builders:
        calls = [(at, call) for at, call in own.calls_of(builder.place.name) if own.called(call, at) is builder.place]
        names = [held_out_name(call, at) for at, call in calls]
        held_out = next(filter(None, names), "")
        if held_out and id(builder.flag) not in seen and (is_true(builder.flag) or not all(names)):
            seen.add(id(builder.flag))
            told = f"`{FLAG}={ast.unparse(builder.flag)}` of {builder.where.name}()"
            yield Dropped(builder.where, builder.flag, held_out, told)


def _builders(own: Places) -> Iterator[_Builder]:
    """The functions that give back what a flag of their own makes drop, whatever they are given."""
    for place in (place for place in own.functions if place.file.has(FLAG)):
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            flag = _flag_of(call, place)
            drops = flag is not None and (is_true(flag) or is_setting_of(flag))
            if drops and not EVALUATION.search(place.name) and not held_out_name(call, place) and _gives(place, call):
                yield _Builder(place, flag, place)  # type: ignore[arg-type]


def _handing_on(builders: list[_Builder], own: Places) -> Iterator[_Builder]:
    """The functions that give back what one such function gives them, and make no other."""
    for builder in builders:
        calls = [(at, call) for at, call in own.calls_of(builder.place.name) if own.called(call, at) is builder.place]
        times = Counter(at for at, _ in calls)
        for at, call in calls:
            own_name = EVALUATION.search(at.name) or held_out_name(call, at)
            if times[at] == 1 and not own_name and _gives(at, call):
                yield _Builder(at, builder.flag, builder.where)


def _gives(place: Place, call: ast.Call) -> bool:
    """Whether a function gives back what a call gives it."""
    given = (node.value for node in place.nodes if isinstance(node, ast.Return | ast.Yield))
    return any(part is call for value in given if value is not None for part in place.names.parts(value))


def is_setting_of(flag: ast.expr) -> bool:
    """Whether a flag is a setting, and not one of the evaluation's own, nor what an object was given."""
    if isinstance(flag, ast.Call) and isinstance(flag.func, ast.Attribute) and flag.func.attr == "get" and flag.args:
        flag = ast.Subscript(flag.func.value, flag.args[0])
    if not isinstance(flag, ast.Attribute | ast.Subscript) or "drop" not in last_name(flag):
        return False
    texts = [str(getattr(part, "attr", getattr(part, "id", getattr(part, "value", "")))) for part in ast.walk(flag)]
    return dotted(flag) != f"self.{last_name(flag)}" and not any(map(EVALUATION.search, texts))


def _flag_of(call: ast.Call, place: Place) -> ast.expr | None:
    """What says whether a call's result drops; None: nothing, or what the function is given."""
    found = None
    for word in call.keywords:
        if word.arg == FLAG:
            found = word.value
        elif word.arg is None and place.file.has(f'"{FLAG}"', f"'{FLAG}'", f"{FLAG}="):
            found = _entry(word.value, place) or found
    return _held(found, place) if found is not None else None


def _held(flag: ast.expr, place: Place) -> ast.expr | None:
    if isinstance(flag, ast.Name):
        held = place.names.held(flag)
        return held if held is not flag else None
    return flag


def _entry(value: ast.expr, place: Place, hops: int = HOPS) -> ast.expr | None:
    """The flag in a mapping; None: there is none, or it is put in somewhere."""
    if isinstance(value, ast.Name | ast.Attribute):
        if not hops or _is_put_in(dotted(value), place):
            return None
        held = _mapping(value, place)
        return _entry(held, place, hops - 1) if held is not None else None
    found = None
    if isinstance(value, ast.Dict):
        for key, one in zip(value.keys, value.values, strict=True):
            if key is None:
                found = _entry(one, place, hops) or found
            elif isinstance(key, ast.Constant) and key.value == FLAG:
                found = one
    elif isinstance(value, ast.Call) and dotted(value.func) == "dict":
        found = _entry(value.args[0], place, hops) if value.args else None
        found = next((word.value for word in value.keywords if word.arg == FLAG), found)
    return found


def _mapping(name: ast.expr, place: Place) -> ast.expr | None:
    """What a name holds: in the function, at the top of its file, or, of an attribute, in a method of its class."""
    if (held := place.names.held(name)) is not name:
        return held
    if isinstance(name, ast.Name) and name.id in place.parameters:
        return None
    scope: list[ast.AST] = list(place.file.tree.body)
    if isinstance(name, ast.Attribute):
        scope = list(ast.walk(place.owner)) if place.owner is not None else []
    values = [value for target, value in assignments_in(scope) if dotted(target) == dotted(name)]
    return values[0] if len(values) == 1 else None


def _is_put_in(name: str, place: Place) -> bool:
    puts = (target for target, _ in assignments_in(place.nodes) if isinstance(target, ast.Subscript))
    return any(dotted(target.value) == name and last_name(target) == FLAG for target in puts)


def held_out_name(call: ast.Call, place: Place) -> str:
    """What a call's result is called where that is after an evaluation, or its first argument; empty: neither is."""
    names = _names_around(call, place)
    if place.name not in names and _is_of_an_evaluation(place) and _says_nothing(names, call) and _ends(place, call):
        names = [place.name]
    if found := next(filter(EVALUATION.search, names), ""):
        return found
    says_both = names == [place.name] and not TRAINING.search(place.name) and _makes_several(call, place)
    if (any(names) and not says_both) or not call.args:
        return ""
    first = last_name(call.args[0])
    return first if EVALUATION.search(first) else ""


def _is_of_an_evaluation(place: Place) -> bool:
    return bool(EVALUATION.search(place.name)) and not TRAINING.search(place.name)


def _says_nothing(names: list[str], call: ast.Call) -> bool:
    """Whether neither what a result is called nor what it is made of tells training from evaluation."""
    given = [part for each in (*call.args, *(word.value for word in call.keywords)) for part in ast.walk(each)]
    told = (*names, *(last_name(part) for part in given if isinstance(part, ast.Name | ast.Attribute | ast.Subscript)))
    return not any(TRAINING.search(each) or EVALUATION.search(each) for each in told)


def _ends(place: Place, call: ast.Call) -> bool:
    """Whether a call's result is what a function gives back, or runs over."""
    over = (node.iter for node in place.nodes if isinstance(node, ast.For | ast.comprehension))
    runs_over = any(part is call for each in over for part in place.names.parts(each))
    return runs_over or _gives(place, call)


def _makes_several(call: ast.Call, place: Place) -> bool:
    """Whether a function makes others by the same call: its own name is none of theirs."""
    return sum(isinstance(node, ast.Call) and called_name(node) == called_name(call) for node in place.nodes) > 1


def _names_around(call: ast.Call, place: Place) -> list[str]:
    """What is given what a call gives: a name, a keyword, a key, one of the names that a loop is over."""
    for node in outwards(call, parents_in(place.function)):
        names = given_names(node)
        if isinstance(node, ast.Assign):
            names = [last_name(part) for target in node.targets for part in places_of(target)]
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            names = [str(key.value) for key, value in pairs if isinstance(key, ast.Constant) and contains(value, call)]
        elif isinstance(node, ast.DictComp | ast.For):
            over = node.generators[0].iter if isinstance(node, ast.DictComp) else node.iter
            names = [str(part.value) for part in ast.walk(over) if isinstance(part, ast.Constant)]
        if any(names):
            return names
    return [place.name]
