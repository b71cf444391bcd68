"""The methods of a trainer's class and of its bases, read from their source: which makes a step, and who calls it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradgate.commands.backwards import calls_in, last, parsed, receivers_in
from gradgate.core.origin import is_own_code

STEPS = ("train_step", "training_step", "step", "train_batch", "update", "optimize", "fit_batch")
HOPS = 2  # calls that a step may be made of
_OPTIMIZER = re.compile(r"opt|scaler", re.IGNORECASE)
_STEP_LIKE = re.compile(r"step|update|optimi|batch", re.IGNORECASE)
_EARLIER = re.compile(r"stage_?1|pretrain|critic|value", re.IGNORECASE)


class Methods:
    """A class's methods.

    Args:
        kind: the class.

    Attributes:
        nodes: method -> its syntax tree, and those of the bases that it overrides, nearest first. What is installed
            is left out.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.nodes: dict[str, list[ast.FunctionDef]] = {}
        for base in [base for base in inspect.getmro(kind) if base is kind or is_of_the_trainer(base)]:
            for name in vars(base):
                found = getattr(base, name, None)
                if inspect.isfunction(found) and (node := parsed(found)) is not None:
                    self.nodes.setdefault(name, []).append(node)

    def below(self, name: str, hops: int = HOPS) -> dict[str, list[ast.FunctionDef]]:
        """A method and those that it calls on `self`, so many calls deep; nothing where there is none of this name."""
        if name not in self.nodes:
            return {}
        goes_up = any(ast.unparse(call.func) == f"super().{name}" for call in calls_in(self.nodes[name][0]))
        found = {name: self.nodes[name] if goes_up else self.nodes[name][:1]}
        for call in [call for node in found[name] for call in calls_in(node)] if hops else []:
            if called := called_on_self(call):
                found = {**self.below(called, hops - 1), **found}
        return {name: found.pop(name), **found}

    def all_below(self, name: str, hops: int = HOPS) -> list[ast.FunctionDef]:
        """The syntax trees of `below`."""
        return [node for nodes in self.below(name, hops).values() for node in nodes]

    @cached_property
    def training(self) -> list[str]:
        """Methods that go backward and update, and call none that does both; failing these, those that go backward."""
        return self._innermost(_goes_backward, _updates) or self._innermost(_goes_backward)

    def _innermost(self, *does: Callable[[ast.AST], bool]) -> list[str]:
        doing = {name for name in self.nodes if all(any(map(each, self.all_below(name))) for each in does)}
        return [name for name in self.nodes if name in doing and not doing & set(self.below(name)) - {name}]

    def loop(self, name: str) -> ast.For | None:
        """The loop over batches that a method holds whole, the update in it; None: it makes a step."""
        if name in STEPS or _STEP_LIKE.search(name):
            return None
        parts = [part for part in ast.walk(self.nodes[name][0]) if isinstance(part, ast.For)]
        loops = [part for part in parts if self._trains_inside(part)]
        over_batches = [loop for loop in loops if not ast.unparse(loop.iter).startswith("range(")]
        return next(reversed(over_batches or loops), None)

    def _trains_inside(self, loop: ast.For) -> bool:
        return self.goes_backward_in(loop) and any(map(_updates, self._inside(loop)))

    def goes_backward_in(self, node: ast.AST) -> bool:
        """Whether something goes backward below a node, or in what that calls."""
        return any(map(_goes_backward, self._inside(node)))

    def _inside(self, node: ast.AST) -> list[ast.AST]:
        called = [name for call in calls_in(node) if (name := called_on_self(call))]
        return [node, *(below for name in called for below in self.all_below(name, HOPS - 1))]

    def stages(self, wanted: str = "") -> list[str]:
        """The methods that an adapter is to run, an earlier stage's first: steps, or loops where there are no steps.

        Args:
            wanted: a method that is to be trained by; empty: none in particular.
        """
        inside = ([wanted] if wanted in self.training else self.below(wanted, HOPS + 1)) if wanted else list(self.nodes)
        found = [name for name in self.training if name in inside]
        steps = [name for name in found if self.loop(name) is None]
        named = [name for name in STEPS if name in steps][:1]
        earlier = [name for name in found if _EARLIER.search(name) and name not in named]
        chosen = named or steps or found[:1]
        return earlier + [name for name in chosen if name not in earlier]

    def drive(self, name: str) -> Drive | None:
        """The loop over batches that calls a method for each; None: no method of the class has one."""
        for holder, (node, *_) in self.nodes.items():
            for loop in (part for part in ast.walk(node) if isinstance(part, ast.For)):
                for number, statement in enumerate(loop.body):
                    call = next((call for call in calls_in(statement) if called_on_self(call) == name), None)
                    if call is not None and not isinstance(statement, ast.For | ast.While):
                        return Drive(holder, node, loop, number, call)
        return None

    def callers(self, name: str) -> list[str]:
        """The methods that call one, the outermost of a chain last."""
        chain = [name]
        while caller := next((each for each in self.nodes if self._calls(each, chain[-1]) and each not in chain), None):
            chain.append(caller)
        return chain[1:]

    def _calls(self, caller: str, name: str) -> bool:
        return any(called_on_self(call) == name for call in calls_in(self.nodes[caller][0]))

    def globals_of(self, name: str) -> tuple[str, dict[str, Any]]:
        """The module of a method, and what names mean there."""
        function = inspect.unwrap(getattr(self.kind, name))
        return function.__module__, function.__globals__


@dataclass(frozen=True)
class Drive:
    """A loop that asks for batches and makes a step of each.

    Args:
        holder: the method that has it.
        node: that method.
        loop: the loop.
        number: of the statement of its body that makes the step.
        call: of the step.
    """

    holder: str
    node: ast.FunctionDef
    loop: ast.For
    number: int
    call: ast.Call


def is_of_the_trainer(kind: Any) -> bool:
    """Whether a class, or a function, is written by the trainer's people, not installed."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and is_own_code(file)


def called_on_self(call: ast.Call) -> str:
    """The method's name of a call `self.x(...)`; of another it is empty."""
    is_own = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "self"
    return last(call) if is_own else ""


def stored_in(nodes: list[ast.FunctionDef]) -> Iterator[tuple[str, ast.expr | None]]:
    """Attributes of `self` that methods set, with the value."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Assign | ast.AnnAssign):
                for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                    if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                        yield target.attr, part.value


def _goes_backward(node: ast.AST) -> bool:
    return any(last(call) == "backward" for call in calls_in(node))


def _updates(node: ast.AST) -> bool:
    names = map(ast.unparse, receivers_in(node, "step"))
    return any(_OPTIMIZER.search(name) and "sched" not in name.lower() for name in names)
