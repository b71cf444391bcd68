"""Who may call whom in a file, by what its functions mention."""

from __future__ import annotations

from collections.abc import Iterable

from gradgate.scan.modules import Class, Function, Module

_ENTRANCES = frozenset({"forward", "__call__", "__init__"})  # what mentioning a class may run


class Callers:
    """The functions of a file by what they mention."""

    def __init__(self, module: Module) -> None:
        self._by_name: dict[str, list[Function]] = {}
        self._by_mention: dict[str, list[Function]] = {}
        for function in module.scopes:
            for name in function.named:
                self._by_name.setdefault(name, []).append(function)
            for name in function.calls:
                self._by_mention.setdefault(name, []).append(function)
        self._families: dict[Class, set[Class]] = {}

    def of(self, function: Function) -> set[Function]:
        """Functions that may call this one.

        A method is called by the classes of its family, and by any function where the file mentions its class.
        """
        owner = function.owner
        if owner is None:
            return set(self._by_name.get(function.name, ()))
        found = set(self._by_name.get(owner.name, ())) if function.name in _ENTRANCES else set()
        anybody = owner.name in self._by_name
        for caller in self._by_mention.get(function.name, ()):
            if anybody or (caller.owner is not None and self._related(caller.owner, owner)):
                found.add(caller)
        return found

    def reaching(self, functions: Iterable[Function]) -> set[Function]:
        """The functions, and those from which one of them can be reached."""
        found = set(functions)
        queue = list(found)
        while queue:
            for caller in self.of(queue.pop()):
                if caller not in found:
                    found.add(caller)
                    queue.append(caller)
        return found

    def _related(self, one: Class, other: Class) -> bool:
        return one is other or other in self._family(one) or one in self._family(other)

    def _family(self, owner: Class) -> set[Class]:
        if owner not in self._families:
            self._families[owner] = set(owner.lineage())
        return self._families[owner]


__all__ = ["Callers"]
