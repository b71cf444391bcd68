"""The random generators of a process: torch's on every device in use, Python's and numpy's; read and put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

States = tuple[Any, Any, Any, Any]


def states() -> States:
    """The states of torch's, CUDA's, Python's and numpy's global generators; None where CUDA is not in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()


def are_same(one: States, other: States) -> bool:
    """Whether no generator has moved between two readings."""
    (torch_state, cuda_states, python_state, numpy_state), theirs = one, other
    return (
        torch.equal(torch_state, theirs[0])
        and all(map(torch.equal, cuda_states or (), theirs[1] or ()))
        and python_state == theirs[2]
        and all(map(np.array_equal, numpy_state, theirs[3]))
    )


def put_back(states: States) -> None:
    """Put the generators where they were.

    Args:
        states: as `states()` gave them.
    """
    torch_state, cuda_states, python_state, numpy_state = states
    torch.set_rng_state(torch_state)
    if cuda_states is not None:
        torch.cuda.set_rng_state_all(cuda_states)
    random.setstate(python_state)
    np.random.set_state(numpy_state)
