"""A mask constant that fp16 cannot hold (`masked_fill(mask, -1e9)` before a softmax; `(1 - mask) * -1e9`, where 0
* -inf is NaN), on a tensor that is half, or whose dtype the source does not fix; a softmax over a row that may
be masked throughout with -inf, where the mask is not causal and nothing handles the row; log(cosh(x)) and log(1
+ exp(x)).

```python
scores.masked_fill(mask, -1e9)                                # bad under autocast: raises, or -inf
scores.masked_fill(mask, torch.finfo(scores.dtype).min)       # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG304", "mask-value-overflows"
_RANGE = "fp16 ends at 65504"
TEXTS = {
    "too-large-half": Text(
        "{number} does not fit the float16 tensor that it fills",
        f"{_RANGE}: it raises, or becomes -inf",
        "use `torch.finfo(dtype).min`",
    ),
    "too-large": Text(
        "the mask value {number} of a softmax does not fit float16",
        f"{_RANGE}: in half precision or under autocast this raises, or becomes -inf",
        "use `torch.finfo(scores.dtype).min`, or compute the softmax in float32",
        "warning",
    ),
    "zero-times-inf": Text(
        "(1 - mask) * {number}: in float16 the constant is -inf, and 0 * -inf is NaN where nothing is masked",
        f"{_RANGE}: every visible position becomes NaN",
        "use masked_fill with `torch.finfo(dtype).min`",
        "error",
    ),
    "all-masked": Text(
        "softmax over scores masked with -inf: a row that is masked throughout becomes NaN",
        "one such row, a padded query for one, poisons the loss",
        "mask with a finite value and zero the row afterwards, or make sure that no row is masked throughout",
        "warning",
    ),
    "empty": Text(
        "{op} over values that may all be -inf, behind a torch.where",
        "the value is replaced, its gradient is not: 0 * NaN is NaN",
        "fill with a large finite negative value instead of -inf",
    ),
    "log-cosh": Text(
        "log(cosh(x)) overflows in cosh beyond |x| = 89",
        "the loss becomes inf, its gradient NaN",
        "x + softplus(-2x) - log(2)",
    ),
    "log-exp": Text(
        "log(1 + exp(x)) overflows in exp beyond x = 88",
        "the loss becomes inf, its gradient NaN",
        "torch.nn.functional.softplus(x)",
        "warning",
    ),
}
