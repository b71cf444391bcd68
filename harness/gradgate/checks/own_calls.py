"""Which of a trainer's own functions its source calls where, for the checks that follow calls."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source_values import own_nodes
from gradgate.checks.trainer_source import File, Function, dotted


@dataclass(frozen=True)
class Place:
    """A function of a trainer.

    Args:
        owner: the class whose method it is.
    """

    file: File
    function: Function
    owner: ast.ClassDef | None

    @property
    def parameters(self) -> list[str]:
        """The names of its arguments, in order, without `self`."""
        given = [each.arg for each in (*self.function.args.posonlyargs, *self.function.args.args)]
        return given[1:] if self.owner is not None and given[:1] in (["self"], ["cls"]) else given


_LIBRARIES = {*sys.stdlib_module_names, "torch", "np", "numpy", "F", "nn", "yaml", "pd", "transformers", "safetensors"}


class OwnCalls:
    """The functions of all files, by name.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: tuple[File, ...]) -> None:
        self.places = [Place(file, function, owner) for file in files for function, owner in file.functions]
        self._named: dict[str, list[Place]] = {}
        for place in self.places:
            self._named.setdefault(place.function.name, []).append(place)
        self._made = {place.owner.name: place for place in self._named.get("__init__", ()) if place.owner is not None}

    def called(self, call: ast.Call, here: Place) -> Place | None:
        """The function that a call goes to; None: it is another's, or several may be meant.

        A method of `self` is one of the same class, or of one above; a function is looked for in the same file first.
        """
        before, _, name = dotted(call.func).rpartition(".")
        if before.partition(".")[0] in _LIBRARIES:
            return None
        known = self._named.get(name, [])
        if isinstance(call.func, ast.Name):
            known = [place for place in known if place.owner is None]
            known = [place for place in known if place.file is here.file] or known
            return known[0] if len(known) == 1 else self._made.get(name)
        if before in ("self", "cls") and here.owner is not None:
            above = {here.owner.name, *(dotted(base).rpartition(".")[2] for base in here.owner.bases)}
            of_class = [place for place in known if place.owner is here.owner]
            known = of_class or [place for place in known if place.owner is not None and place.owner.name in above]
        return known[0] if len(known) == 1 else None

    def methods(self, name: str) -> list[Place]:
        """The methods of a name, of whatever class."""
        return [place for place in self._named.get(name, ()) if place.owner is not None]

    def calls_of(self, name: str) -> Iterator[tuple[Place, ast.Call]]:
        """The calls of a name, whatever it is looked up in, each with the function that it stands in."""
        for place in self.places:
            if place.file.has(f"{name}("):
                for node in own_nodes(place.function):
                    if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] == name:
                        yield place, node

    def given(self, call: ast.Call, place: Place) -> dict[str, ast.expr]:
        """What a call gives a function, by the names of its arguments."""
        if any(isinstance(each, ast.Starred) for each in call.args):
            return {}
        given = dict(zip(place.parameters, call.args, strict=False))
        return given | {word.arg: word.value for word in call.keywords if word.arg is not None}
