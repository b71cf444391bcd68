"""As GG101 in the source, but the write goes through `.data` or another alias with a version counter of its own,
so that nothing will speak up at run time. Parameters written through `.data` between a forward and its backward
count as well.

```python
attention = scores.softmax(-1)
attention.data.masked_fill_(mask, 0)          # bad: silently wrong gradient

attention = attention.masked_fill(mask, 0)    # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG103", "data-write"
_WHY = "the write does not move the version, so PyTorch does not notice, and the gradient is silently wrong"
TEXTS = {
    "overwritten": Text(
        "`{name}` is overwritten through an alias that keeps its version; {saver} on line {victim} saved {what}",
        _WHY,
        "write to a new tensor, or do it after backward; never through `.data`",
    ),
    "data": Text(
        "parameters of `{module}` are written through `.data` between their forward (line {victim}) and its backward",
        _WHY,
        "write the parameters before the forward or after the backward",
    ),
    "quiet": Text(
        "tensors of `{module}` are written with their version kept still, between their forward (line {victim}) "
        "and its backward",
        _WHY,
        "write them before the forward or after the backward",
    ),
}
