"""The modes of a run and of its process: what a call leaves as it was while it changes numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gradgate.checks.batches import first_difference, leaves
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import held_by
from gradgate.subjects.contract import Run
from gradgate.subjects.global_state import GlobalState, seed_everything

SHOWN = 3  # changes that a message lists
GENERATORS = ("torch's", "CUDA's", "Python's", "numpy's")  # in the order of `GlobalState.rng`


@dataclass(frozen=True)
class Modes:
    """A snapshot.

    Args:
        process: settings and generators.
        training: by module name; True is train mode.
        dropout: by module name, its probability.
        requires_grad: by parameter name.
    """

    process: GlobalState
    training: Mapping[str, bool]
    dropout: Mapping[str, float]
    requires_grad: Mapping[str, bool]

    @classmethod
    def now(cls, run: Run) -> Modes:
        """Read everything."""
        return cls(
            GlobalState.now(),
            {name: module.training for name, module in named_modules(run)},
            {name: module.p for name, module in named_modules(run) if isinstance(module, _DropoutNd)},
            {name: parameter.requires_grad for parameter, name in named_parameters(run).items()},
        )

    def changes(self, run: Run, *, modules: bool = True, modes: bool = True) -> list[str]:
        """What differs now: `default dtype: torch.float32 -> torch.float64`, `heads`: train mode -> eval mode`.

        Args:
            run: the run that was read.
            modules: whether train or eval mode and `requires_grad` count; False: process and dropout alone.
            modes: whether train or eval mode counts, where modules do.
        """
        now = Modes.now(run)
        found = self.process.changes()
        found += _changed(self.dropout, now.dropout, lambda p: f"dropout {p:g}")
        if modules and modes:
            found += self.left_modes(run)
        if modules:
            found += _changed(self.requires_grad, now.requires_grad, lambda grad: f"requires_grad {grad}")
        return found

    def left_modes(self, run: Run) -> list[str]:
        """The modules that are in another of train and eval mode now."""
        return mode_changes(self.training, {name: {module.training} for name, module in named_modules(run)})

    def moved_generators(self) -> list[str]:
        """The global generators whose state differs now."""
        return _apart(self.process.rng, GlobalState.now().rng, equal=False)


@dataclass
class Leaks:
    """What was left changed: by what, once for each set of changes."""

    looked_at: int = 0
    by_change: dict[str, list[str]] = field(default_factory=dict)

    def note(self, doing: str, changes: list[str]) -> None:
        """Add what a call has changed, if anything."""
        self.looked_at += 1
        if changes:
            more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
            self.by_change.setdefault(", ".join(changes[:SHOWN]) + more, []).append(doing)


@contextmanager
def modes_in_forward(run: Run) -> Iterator[dict[str, list[bool]]]:
    """Record in which modes each module's forward runs in the block, in order; modules that do not run are left out."""
    seen: dict[str, list[bool]] = {}

    def note(name: str, module: nn.Module, args: Any) -> None:  # noqa: ARG001
        seen.setdefault(name, []).append(module.training)

    with ExitStack() as stack:
        for name, module in named_modules(run):
            stack.callback(module.register_forward_pre_hook(partial(note, name)).remove)
        yield seen


@contextmanager
def graphs_in_forward(run: Run) -> Iterator[list[str]]:
    """Record which of a run's modules give something with a graph in the block, once each."""
    found: list[str] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if name not in found and _with_graph(output):
            found.append(name)

    with ExitStack() as stack:
        for name, module in run.modules.items():
            stack.callback(module.register_forward_hook(partial(note, name)).remove)
        yield found


@dataclass(frozen=True)
class AtRest:
    """Modules that nothing trains, in a block.

    Args:
        strangers: models that the run does not name, with a layer that draws in train mode, by class.
        graphs: modules that begin a graph to which no backward comes, by name or class.
    """

    strangers: Mapping[str, nn.Module]
    graphs: Mapping[str, nn.Module]


@contextmanager
def at_rest(run: Run) -> Iterator[AtRest]:
    """Record them, behind the block."""
    with _awake_strangers(run) as strangers, _unused_graphs(run) as graphs:
        yield AtRest(strangers, graphs)


@contextmanager
def _unused_graphs(run: Run) -> Iterator[dict[str, nn.Module]]:
    """Record, behind the block, whose graphs are made in it for nothing: modules that no optimizer holds, by name.

    Their inputs have no graph, so that it is their own parameters that begin one, and no backward comes to their
    outputs. Modules within such a module are not repeated; one that the run does not name goes by its class.
    """
    held = held_by(run.optimizers)
    made: dict[nn.Module, None] = {}
    used: set[nn.Module] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        mine = list(module.parameters())
        if not any(each.requires_grad for each in mine) or not held.isdisjoint(mine) or _with_graph(args):
            return
        for tensor in _with_graph(output):
            made[module] = None
            tensor.register_hook(lambda _: used.add(module))

    found: dict[str, nn.Module] = {}
    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()
    within = {inner for module in made for inner in module.modules() if inner is not module}
    names = {module: name for name, module in named_modules(run)}
    found |= {names.get(each, type(each).__qualname__): each for each in made if each not in used | within}


@contextmanager
def _awake_strangers(run: Run) -> Iterator[dict[str, nn.Module]]:
    """Record the models that the run does not name, that no optimizer holds and whose mode decides what they compute,
    where they run in train mode: by their class."""
    held = held_by(run.optimizers)
    known = {id(module) for _, module in named_modules(run)}
    found: dict[str, nn.Module] = {}

    def note(running: list[nn.Module]) -> None:
        top, module = running[0], running[-1]
        if draws(module) and module.training and not known & set(map(id, top.modules())):
            mine = list(top.parameters())
            if mine and held.isdisjoint(mine):
                found.setdefault(type(top).__qualname__, top)

    with running_modules(note):
        yield found


@contextmanager
def running_modules(note: Callable[[list[nn.Module]], None] = lambda _: None) -> Iterator[list[nn.Module]]:
    """The modules whose forward is running, outermost first, at any time of the block.

    Args:
        note: is given them whenever one begins.
    """
    running: list[nn.Module] = []

    def enter(module: nn.Module, _inputs: Any) -> None:
        running.append(module)
        note(running)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        stack.callback(nn.modules.module.register_module_forward_pre_hook(enter).remove)
        stack.callback(nn.modules.module.register_module_forward_hook(leave, always_call=True).remove)
        yield running


def _with_graph(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor) and leaf.requires_grad]


def mode_changes(expected: Mapping[str, bool], seen: Mapping[str, Collection[bool]]) -> list[str]:
    """The modules that were never seen in the mode that was expected; children of one that changed are not repeated."""
    changed = {name: mode for name, mode in expected.items() if seen.get(name) and mode not in seen[name]}
    names = {True: "train mode", False: "eval mode"}
    topmost = {name: mode for name, mode in changed.items() if name.rpartition(".")[0] not in changed}
    return [f"`{name}`: {names[mode]} -> {names[not mode]}" for name, mode in topmost.items()]


def drawing_modules(run: Run) -> list[str]:
    """The modules whose mode decides what they compute: dropout and batch norm."""
    return [name for name, module in named_modules(run) if draws(module)]


def frozen_in_eval(run: Run) -> dict[str, bool]:
    """Modules without anything to train that start in eval mode, which is where they are meant to be."""
    frozen = {
        name: module
        for name, module in run.modules.items()
        if not any(parameter.requires_grad for parameter in module.parameters())
    }
    return {
        key: False
        for name, module in frozen.items()
        for key, part in module.named_modules(prefix=name)
        if not part.training
    }


def awake_at_rest(run: Run, seen: Mapping[str, Collection[bool]], untrained: Collection[nn.Parameter]) -> list[str]:
    """The modules whose mode decides what they compute, that only ran in train mode, and belong to one that rests.

    Args:
        run: whose modules.
        seen: the modes in which each ran.
        untrained: parameters that no declared edge trains; a module rests whose parameters are all of these and in no
            optimizer, or need no gradient.
    """
    held = held_by(run.optimizers)
    found = []
    for top, module in run.modules.items():
        parameters = list(module.parameters())
        if parameters and not any(
            each.requires_grad and (each in held or each not in untrained) for each in parameters
        ):
            parts = module.named_modules(prefix=top)
            found += [name for name, part in parts if draws(part) and seen.get(name) and all(seen[name])]
    return found


def draws(module: object) -> bool:
    """Whether a module's mode decides what it computes."""
    return isinstance(module, _DropoutNd | _BatchNorm)


def reset_generators(call: Callable[[], Any], seeds: tuple[int, int]) -> list[str]:
    """The global generators that a call leaves in one and the same state, whatever state it found them in."""
    ends = []
    for seed in seeds:
        seed_everything(seed)
        call()
        ends.append(GlobalState.now().rng)
    return _apart(*ends, equal=True)


def _apart(left: tuple[Any, ...], right: tuple[Any, ...], *, equal: bool) -> list[str]:
    pairs = zip(GENERATORS, left, right, strict=True)
    return [name for name, a, b in pairs if a is not None and (first_difference(a, b) is None) is equal]


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], shown: Callable[[Any], str]) -> list[str]:
    return [
        f"`{name}`: {shown(value)} -> {shown(after[name])}"
        for name, value in before.items()
        if name in after and after[name] != value
    ]


def named_modules(run: Run) -> Iterator[tuple[str, nn.Module]]:
    """All modules of a run, and those within them, under its names."""
    for name, module in run.modules.items():
        yield from module.named_modules(prefix=name)
