"""Calls of a subject's formulas: on which input, and how to repeat them by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradgate.checks.cases import Case
from gradgate.pasteable import NUMBERS, expression
from gradgate.subjects.contract import Functions
from gradgate.subjects.doubles import doubles_kept

T = TypeVar("T")
PASTEABLE = 4000  # numbers


@dataclass(frozen=True)
class Call:
    """One call of a subject's formula, and how to repeat it by hand.

    Args:
        name: the formula's name in `Functions`.
        function: the formula.
        case: which input it is, as messages name it.
        arguments: given by position; names are for reading only.
        options: what holds for it. Given by name, but for None and for what the formula has no parameter for, so that
            one without packing need not know `document_BS`.
    """

    name: str
    function: Callable[..., Tensor]
    case: str
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, device: str = "cpu") -> Tensor:
        """The formula's answer, back on the CPU. Raises whatever the formula raises.

        Labels are handed over as a copy: a loss that fills them in place is to be held against the reference of those
        that it was given.
        """

        def moved(held: Any, *, copy: bool = False) -> Any:
            return held.to(device, copy=copy) if isinstance(held, Tensor) else held

        arguments = [moved(held, copy=name == "label_BSH") for name, held in self.arguments.items()]
        options = {name: moved(held) for name, held in self._given.items()}
        with doubles_kept() if self.is_double else nullcontext():
            return self.function(*arguments, **options).cpu()

    @property
    def _given(self) -> dict[str, Any]:
        """The options that the formula is given."""
        named = {name: held for name, held in self.options.items() if held is not None}
        return {name: held for name, held in named.items() if _takes(self.function, name)}

    def takes(self, name: str) -> bool:
        """Whether the formula can be given this option."""
        return _takes(self.function, name)

    @property
    def is_double(self) -> bool:
        """Whether it is given float64, as no trainer is."""
        return any(isinstance(held, Tensor) and held.dtype == torch.float64 for held in self.arguments.values())

    @property
    def is_beyond_the_formula(self) -> bool:
        """Whether it is of packed rows and the formula has no `document_BS`: a trainer that never packs."""
        return self.options.get("document_BS") is not None and not _takes(self.function, "document_BS")

    @property
    def size(self) -> int:
        """How many numbers it is given: the smallest failing input is the one to show."""
        return sum(held.numel() for held in self.arguments.values() if isinstance(held, Tensor))

    def text(self) -> str:
        """Python that repeats the call, the tensors as nested lists; only its size where nobody would paste it."""
        if self.size > PASTEABLE:
            return f"{self.name}() on {self.case}: {self.size} numbers, too many to show"
        lines = [NUMBERS]
        given = []
        for name, held in {**self.arguments, **self._given}.items():
            shown = name if isinstance(held, Tensor) else repr(held)
            if isinstance(held, Tensor):
                lines.append(f"{name} = {expression(held.detach())}")
            given.append(f"{name}={shown}" if name in self.options else shown)
        return "\n".join([*lines, f"{self.name}({', '.join(given)})"])


def weights_call(functions: Functions, case: Case, *, discount_lambda: float, temperature: Any) -> Call:
    """The call of the subject's head weights on a case, with the reference's labels.

    Of weights that are not discounted the reference's are not, either.
    """
    weights = present(functions.weights)
    return Call(
        "weights",
        weights,
        case.describe(),
        {"value_BS": case.value_BS, "label_BSH": case.labels, "valid_BS": case.valid_BS},
        {
            "discount_lambda": discount_lambda if _takes(weights, "discount_lambda") else 1.0,
            "temperature": temperature,
            "document_BS": case.document_BS,
        },
    )


def labels_call(functions: Functions, case: Case) -> Call:
    """The call of the subject's labels on a case."""
    return Call(
        "labels",
        present(functions.labels),
        case.describe(),
        {"token_BS": case.token_BS, "valid_BS": case.valid_BS, "horizon": case.horizon},
        {"document_BS": case.document_BS},
    )


def returns_call(functions: Functions, case: Case, *, gamma: float, gae_lambda: float) -> Call:
    """The call of the subject's returns on a case; a discount that they do not have is 1."""
    returns = present(functions.returns)
    discounts = {"gamma": gamma, "gae_lambda": gae_lambda}
    return Call(
        "returns",
        returns,
        case.describe(),
        {"reward_BS": case.reward_BS, "value_BS": case.value_BS, "valid_BS": case.valid_BS},
        {name: held if _takes(returns, name) else 1.0 for name, held in discounts.items()}
        | {"document_BS": case.document_BS},
    )


def present(function: Callable[..., T] | None) -> Callable[..., T]:
    """The function, for the type checker: a check runs only where its capabilities are there."""
    if function is None:
        raise TypeError("the runner asks for the capability before it runs the check")
    return function


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be given this argument by name; yes where its signature is not to be had."""
    names = _parameters(function)
    return names is None or name in names


@lru_cache(maxsize=32)
def _parameters(function: Callable[..., Any]) -> Container[str] | None:
    """What a function can be given by name; None: anything. Asked once: it takes longer than a small formula."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else frozenset(parameters)
