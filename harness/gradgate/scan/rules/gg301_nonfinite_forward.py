"""`p * p.log()` of a softmax: a probability that underflows to 0 gives 0 * -inf, which is NaN.

```python
entropy = -(p * p.log()).sum(-1)                       # bad

logp = logits.log_softmax(-1)
entropy = -(logp.exp() * logp).sum(-1)                 # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG301", "nonfinite-forward"
TEXTS = {
    "plogp": Text(
        "p * log(p) of a softmax: a probability of exactly 0 makes it NaN",
        "one saturated row turns the loss and every gradient into NaN",
        "take `log_softmax`, and multiply by its exp()",
        "warning",
    ),
}
