"""A difference or loss between a column, `[N, 1]` (the output of `nn.Linear(..., 1)`, `unsqueeze(-1)`), and a flat
tensor, `[N]` (`squeeze`, `view(-1)`, `[:, 0]`): they broadcast to `[N, N]`.

```python
F.mse_loss(value_head(hidden), returns.flatten())                   # bad: mean over N * N pairs
F.mse_loss(value_head(hidden).squeeze(-1), returns.flatten())       # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG415", "shape-broadcast"
TEXTS = {
    "column": Text(
        "{op} of a column [N, 1] and a flat tensor [N] broadcasts to [N, N]",
        "the loss averages over all pairs, not over the samples",
        "squeeze the column: `.squeeze(-1)`",
    ),
}
