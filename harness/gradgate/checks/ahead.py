"""What each of several heads looks at."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def ahead(tensor_BS: Tensor, horizon: int) -> Tensor:
    """[B, S, H], same dtype and graph: at [b, t, k] what stands at t+k+1; zero (False) beyond the row."""
    return pad(tensor_BS, (0, horizon)).unfold(1, horizon, 1)[:, 1:]
