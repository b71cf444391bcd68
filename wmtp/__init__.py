"""wmtp: Critic-WMTP, multi-token prediction whose heads are weighted by a value head, trained in two stages.

The way from the command line to the loss: `cli` reads the arguments, `settings` says what can be set, `train` runs the
stages, `stage1` pretrains the value head, `stage2` trains the whole; `labels`, `weights`, `returns` and `loss` hold the
mathematics.
"""

from wmtp.labels import make_labels
from wmtp.loss import wmtp_loss
from wmtp.returns import gae_returns, place_rewards
from wmtp.weights import head_weights

__all__ = ["gae_returns", "head_weights", "make_labels", "place_rewards", "wmtp_loss"]
