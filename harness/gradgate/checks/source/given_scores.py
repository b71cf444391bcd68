"""What the keepers of a best are given for a score, and what functions compare for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import places_in
from gradgate.checks.source.trainer import File, Function, calls_in, dotted, given_for

WORD = re.compile(r"[A-Z]?[a-z]+")


class Given:
    """The calls of functions that keep a best, in all files of a trainer.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self._files = files
        self._own = places_in(tuple(files))

    def to(self, function: Function, owner: ast.ClassDef | None, name: str) -> Iterator[tuple[Function, ast.expr]]:
        """What calls give an argument of a function: of a method those of an object that is named after its class."""
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        if name not in names or len(self._own.named(function.name)) != 1:
            return
        at = names.index(name) - (owner is not None)
        for file in (file for file in self._files if file.has(f"{function.name}(")):
            for caller, _ in file.functions:
                for call in calls_in(caller):
                    before, _, last = dotted(call.func).rpartition(".")
                    if last != function.name or (owner is not None and not _is_named_after(before, owner.name)):
                        continue
                    if (value := given_for(call, name, at)) is not None:
                        yield caller, value

    def compared(self, test: ast.expr) -> ast.expr:
        """The comparison of two arguments that a call of the trainer's own stands for; else the expression itself."""
        functions = self._own.named(dotted(test.func)) if isinstance(test, ast.Call) else []
        if len(functions) != 1 or not isinstance(test, ast.Call) or test.keywords:
            return test
        last = functions[0].function.body[-1]
        value = last.value if isinstance(last, ast.Return) and len(functions[0].function.body) <= 2 else None
        if not isinstance(value, ast.Compare) or len(value.ops) != 1:
            return test
        given = functions[0].given(test)
        sides = [given.get(dotted(side)) for side in (value.left, value.comparators[0])]
        if sides[0] is None or sides[1] is None:
            return test
        return ast.copy_location(ast.Compare(sides[0], value.ops, [sides[1]]), test)


def _is_named_after(name: str, owner: str) -> bool:
    """Whether an object is called after a class: they share the beginning of a word."""
    starts = {word.lower()[:4] for word in WORD.findall(owner) if len(word) > 3}
    return any(word.lower()[:4] in starts for word in WORD.findall(name.rpartition(".")[2]) if len(word) > 3)
