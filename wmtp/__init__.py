"""wmtp: Critic-WMTP, multi-token prediction whose heads are weighted by a value head, trained in two stages.

The way from the command line to the loss: `cli` reads the arguments, `settings` says what can be set, `train` runs the
stages, `stage1` pretrains the value head, `stage2` trains the whole; `labels`, `weights`, `returns` and `loss` hold the
mathematics. What is public is imported when it is first used, so that `wmtp --help`, and a mistake in a recipe, cost
no torch, and Ctrl-C finds the command line awake.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmtp.labels import make_labels
    from wmtp.loss import wmtp_loss
    from wmtp.returns import gae_returns, place_rewards
    from wmtp.weights import head_weights

_HOME_OF = {
    "gae_returns": "wmtp.returns",
    "head_weights": "wmtp.weights",
    "make_labels": "wmtp.labels",
    "place_rewards": "wmtp.returns",
    "wmtp_loss": "wmtp.loss",
}

__all__ = ["gae_returns", "head_weights", "make_labels", "place_rewards", "wmtp_loss"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'wmtp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
