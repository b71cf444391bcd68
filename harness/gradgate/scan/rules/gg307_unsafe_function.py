"""A function at a point where its slope is infinite: a square root of the sum of squared differences of a tensor
with itself (the diagonal is exactly 0); the logarithm of a softmax or a sigmoid; and the `where` trap:
`torch.where(x > t, log(x), ...)` computes log(x) for every x, and the branch that is not taken sends 0 * inf = NaN
back.

```python
torch.where(x > 1, torch.log(x), x - 1)                  # bad
torch.where(x > 1, torch.log(x.clamp(min=1)), x - 1)     # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG307", "unsafe-function"
_WHY = "the value is finite, its derivative is not: 0 * inf is NaN in backward"
TEXTS = {
    "where": Text(
        "{op}() is guarded by torch.where on line {victim}, behind it: where not taken, its slope may be infinite",
        _WHY,
        "clamp or mask the input of {op}(), not its output",
    ),
    "where-nan": Text(
        "{op}() of values that torch.where on line {victim} replaces where they are NaN: the gradient stays NaN",
        _WHY,
        "replace the NaN before {op}(): `torch.where(known, x, 0)` or `nan_to_num`",
    ),
    "sqrt-diagonal": Text(
        "sqrt of pairwise squared differences: the diagonal is exactly 0, where the slope is infinite",
        _WHY,
        "add an epsilon inside the sqrt, mask the diagonal first, or use torch.cdist",
    ),
    "log-softmax": Text(
        "log of a softmax: a probability that underflows to 0 gives -inf, and NaN in backward",
        _WHY,
        "use log_softmax",
        "warning",
    ),
    "log-sigmoid": Text(
        "log of a sigmoid: of -104 (float32; -18 in float16) it is -inf, and NaN in backward",
        _WHY,
        "use logsigmoid, or binary_cross_entropy_with_logits",
        "warning",
    ),
}
