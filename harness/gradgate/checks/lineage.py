"""Where the numbers of a step come from: which parameters, with dropout or not, with a gradient or not.

Every operation that Python calls is followed (`torch.exp`, `a - b`, `F.linear`), from parameters to what they make.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradgate.core.finding import Location
from gradgate.core.origin import at_line, is_trainers_code

_PROBABILITIES = ("log_softmax", "logsumexp", "log", "cross_entropy", "nll_loss")
_SUBTRACTS = ("sub", "subtract", "__sub__")
_EXPONENTIATES = ("exp", "exp_")
_DROPS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
# What a difference of log-probabilities may go through on its way to be exponentiated.
_KEEPS = (
    "sum",
    "mean",
    "clamp",
    "clip",
    "mul",
    "__mul__",
    "__getitem__",
    "masked_fill",
    "float",
    "to",
    "squeeze",
    "view",
)
# Code under which a forward without gradient is no frozen one: it is run again, or has a backward of its own.
_RUN_AGAIN = ("torch/utils/checkpoint.py", "torch/autograd/function.py")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a tensor was made from.

    Args:
        parameters: that it depends on.
        is_log_probability: whether a log-softmax or a logarithm is on the way.
        dropped: whether dropout was on on the way.
        trains: whether dropout was in train mode on the way, at any rate, 0 too.
        versions: of each parameter, how often it had been written.
    """

    parameters: frozenset[nn.Parameter] = frozenset()
    is_log_probability: bool = False
    dropped: bool = False
    trains: bool = False
    versions: frozenset[tuple[nn.Parameter, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Ratio:
    """exp(new - old), where both come from the same parameters as they are.

    Args:
        new: log-probabilities with a gradient.
        old: log-probabilities without one.
        dropped: whether dropout was on where each was made.
        trains: whether dropout was in train mode where each was made, at any rate, 0 too.
        place: the line of the exponential.
    """

    new: Tensor
    old: Tensor
    dropped: tuple[bool, bool]
    trains: tuple[bool, bool]
    place: Location | None


@dataclass(frozen=True, slots=True)
class Noise:
    """Dropout that was on where no gradient is taken.

    Args:
        module: outermost module that was in its forward.
        rate: the share that is dropped.
        place: the line of the trainer's that called it.
    """

    module: nn.Module
    rate: float
    place: Location | None


@dataclass
class _Held:
    tensor: Tensor  # kept, so that its id is its own
    origin: Origin
    difference: tuple[Tensor, Tensor] | None = None


class Lineage(TorchFunctionMode):
    """Follows tensors within its block.

    Args:
        source: the trainer's own folder, for the lines.
    """

    def __init__(self, source: Path | None = None) -> None:
        super().__init__()
        self._source = source
        self._held: dict[int, _Held] = {}
        self._forwards: list[nn.Module] = []
        self._handles: list[Any] = []
        self.ratios: list[Ratio] = []
        self.noise: list[Noise] = []

    def __enter__(self) -> Self:
        hooks = torch.nn.modules.module
        self._handles = [
            hooks.register_module_forward_pre_hook(lambda module, _: self._forwards.append(module)),
            hooks.register_module_forward_hook(lambda *_: self._left(), always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((args, kwargs or {})))
        origin = self._of(given)
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        rate = _rate(name, args, kwargs or {})
        if rate:
            self._note_noise(rate)
        if origin.parameters or rate is not None:
            origin = Origin(
                origin.parameters,
                origin.is_log_probability or name in _PROBABILITIES,
                origin.dropped or bool(rate),
                origin.trains or rate is not None,
                origin.versions,
            )
            for made in _tensors(result):
                if made.is_floating_point():
                    self._held[id(made)] = _Held(made, origin, self._difference(name, args, given))
        if name in _EXPONENTIATES and given:
            self._note_ratio(given[0])
        return result

    def _of(self, given: Iterable[Tensor]) -> Origin:
        """The origin of what is made from these tensors."""
        parameters: set[nn.Parameter] = set()
        versions: set[tuple[nn.Parameter, int]] = set()
        seen: list[Origin] = []
        for tensor in given:
            if isinstance(tensor, nn.Parameter):
                parameters.add(tensor)
                versions.add((tensor, tensor._version))
            elif (held := self._held.get(id(tensor))) is not None:
                parameters |= held.origin.parameters
                versions |= held.origin.versions
                seen.append(held.origin)
        return Origin(
            frozenset(parameters),
            any(origin.is_log_probability for origin in seen),
            any(origin.dropped for origin in seen),
            any(origin.trains for origin in seen),
            frozenset(versions),
        )

    def _difference(self, name: str, args: Sequence[Any], given: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        if name in _SUBTRACTS and len(given) == len(args) == 2 and given[0].shape == given[1].shape:
            return given[0], given[1]
        if name in _KEEPS and given and (held := self._held.get(id(given[0]))) is not None:
            return held.difference
        return None

    def _note_ratio(self, exponent: Tensor) -> None:
        held = self._held.get(id(exponent))
        if held is None or held.difference is None:
            return
        new, old = held.difference
        of_new, of_old = self._of([new]), self._of([old])
        trained = {parameter for parameter in of_new.parameters if parameter.requires_grad}
        same = (
            bool(trained) and trained <= of_old.parameters and _versions(of_new, trained) == _versions(of_old, trained)
        )
        both = of_new.is_log_probability and of_old.is_log_probability
        if new.requires_grad and not old.requires_grad and same and both:
            dropped, trains = (of_new.dropped, of_old.dropped), (of_new.trains, of_old.trains)
            self.ratios.append(Ratio(new.detach().clone(), old.detach().clone(), dropped, trains, self._place()))

    def _note_noise(self, rate: float) -> None:
        inside = self._forwards and _has_parameters(self._forwards[0])
        if not torch.is_grad_enabled() and inside and not _is_run_again():
            self.noise.append(Noise(self._forwards[0], rate, self._place()))

    def _left(self) -> None:
        if self._forwards:
            self._forwards.pop()

    def _place(self) -> Location | None:
        for frame in _frames():
            if is_trainers_code(frame.f_code.co_filename, self._source):
                return at_line(frame.f_code, frame.f_lineno)
        return None


def _rate(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> float | None:
    """The rate of a dropout in train mode; None: the operation is none, or in eval mode."""
    if name == "scaled_dot_product_attention":
        return float(options.get("dropout_p", 0.0)) or None  # it is 0 in eval mode
    if name not in _DROPS:
        return None
    rate = options.get("p", args[1] if len(args) > 1 else 0.5)
    training = options.get("training", options.get("train", args[2] if len(args) > 2 else True))
    return float(rate) if training else None


def _versions(origin: Origin, parameters: set[nn.Parameter]) -> set[tuple[nn.Parameter, int]]:
    return {entry for entry in origin.versions if entry[0] in parameters}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_run_again() -> bool:
    return any(frame.f_code.co_filename.replace("\\", "/").endswith(_RUN_AGAIN) for frame in _frames())


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
