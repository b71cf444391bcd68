"""What PyTorch raised, as a finding: the text says which contract was broken, the traceback says where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gradgate.core.finding import Finding
from gradgate.core.origin import in_one_line
from gradgate.watch import raised
from gradgate.watch.catalogue import make

SPACE: dict[str, Any] = {"Tensor": Tensor}
exec(  # noqa: S102 - a file that is nobody's own
    compile("def foreign(text, value):\n    number = 1\n    raise RuntimeError(text)\n", "<made>", "exec"), SPACE
)
exec(compile("def transform(run):\n    run()\n", "<torch/_functorch/made>", "exec"), SPACE)  # noqa: S102


def caught(run: Any, *given: Any) -> RuntimeError:
    with pytest.raises(RuntimeError) as info:
        run(*given)
    return info.value


def own(text: str, first: Tensor, second: Tensor) -> None:
    """Raise on a line that names tensors."""
    hidden = torch.zeros(3)
    del hidden
    raise RuntimeError(text, len([first, second]))


def through(text: str, first: Tensor) -> None:
    """Raise in somebody else's code."""
    SPACE["foreign"](text, torch.ones(4) if first is None else first * 2)


def place(function: Any, line: int) -> Any:
    return function.__code__, function.__code__.co_firstlineno + line


def explained(error: BaseException) -> tuple[Finding, list[Tensor]]:
    found = raised.explain(error)
    assert found is not None
    return found


@pytest.mark.parametrize(("part", "kind", "message"), raised._TEXTS)
def test_error_is_known_by_a_part_of_its_text(part: str, kind: Any, message: str):
    """Kind and words; the line that raised is the culprit, the tensors that it names come with it."""
    first, second = torch.ones(1), torch.ones(2)
    text = f"before {part} after: overflow"
    error = caught(own, text, first, second)
    if part == "broadcast shape":
        assert raised.explain(error) is None
        error = caught(SPACE["transform"], lambda: own(text, first, second))
    found, operands = explained(error)
    said = in_one_line(error)
    assert found == make(kind, message, culprit=place(own, 4), detail={"raised": said})
    assert [tensor is one for tensor, one in zip(operands, (first, second), strict=True)] == [True, True]
    assert part in raised.parts()


def test_error_of_pytorchs_own_is_known():
    """As raised by this version."""
    leaf = torch.ones(1, requires_grad=True)
    found, operands = explained(caught(lambda: leaf.add_(1)))
    assert (found.kind, found.confirmed) == ("inplace_leaf", None)
    assert [tensor is leaf for tensor in operands] == [True]
    found, _ = explained(caught(lambda: torch.zeros(1, dtype=torch.float16).masked_fill(torch.ones(1) > 0, -1e9)))
    assert found.kind == "dtype_overflow"


def test_error_that_says_nothing_is_none():
    """A wrong shape, a dtype that cannot be converted for another reason."""
    assert raised.explain(RuntimeError("something else")) is None
    assert raised.explain(RuntimeError("a broadcast shape")) is None
    assert raised.explain(RuntimeError("value cannot be converted to type float")) is None


def test_error_in_code_of_others_has_the_users_line():
    """The innermost of the user's own; the tensors named there come before those at hand further in."""
    first = torch.ones(3)
    found, operands = explained(caught(through, "you can only change requires_grad flags of leaf variables", first))
    assert found.culprit is not None
    assert found.culprit.source.startswith('SPACE["foreign"](text')
    assert [tensor.tolist() for tensor in operands] == [[1.0] * 3, [2.0] * 3]


def test_error_without_a_line_of_the_users_has_no_culprit():
    """One that nobody raised, one that was raised elsewhere."""
    found, operands = explained(RuntimeError("support the deepcopy protocol"))
    assert (found.culprit, operands) == (None, [])
    error: BaseException = caught(SPACE["foreign"], "support the deepcopy protocol", torch.ones(1))
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
    found, operands = explained(error)
    assert (found.culprit, operands) == (None, [])


class Wrong(torch.autograd.Function):
    """Returns a gradient of the wrong shape."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if gradient is None:
            return None
        return gradient.new_zeros(7)


class Heir(Wrong):
    """Has no backward of its own."""


class Late(Heir):
    """Has one again."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient


class Newer(torch.autograd.Function):
    """Looked at first, and not meant."""


def backward(function: Any) -> None:
    function.apply(torch.ones(2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize(
    ("function", "source"), [(Wrong, "return gradient.new_zeros(7)"), (Late, "return gradient, gradient")]
)
def test_error_of_a_custom_function_has_the_last_return_of_its_backward(function: Any, source: str):
    """The culprit; the line of the backward is the victim."""
    found, _ = explained(caught(backward, function))
    assert found.kind == "custom_function"
    assert found.culprit is not None
    assert found.victim is not None
    assert found.culprit.source == source
    assert found.victim.source == "function.apply(torch.ones(2, requires_grad=True)).sum().backward()"


def test_error_of_a_custom_function_that_inherits_its_backward_has_the_line_alone():
    """Its own class has none; a name that is nobody's, and a text that names none, have none."""
    found, _ = explained(caught(backward, Heir))
    assert found.victim is None
    assert raised._returning("function NobodysBackward returned an invalid gradient") is None
    assert raised._returning("no function") is None
    assert raised._returning("function WrongBackward returned an incorrect number") is not None
