"""The scanner runs each function abstractly and knows, from a table asked of PyTorch itself, which operation keeps
which input or result for backward. A later write to that memory (`x.mul_()`, `x[i] = ...`, `x += ...`, `out=x`,
`inplace=True`), through whatever view, alias, attribute or helper, is a finding if a value behind the operation
is returned, stored or backpropagated. A write under `no_grad` counts too: it moves the version all the same.

```python
weights = torch.softmax(scores, dim=-1)
weights[~valid] = 0.0                                               # bad: softmax keeps its result

weights = torch.softmax(scores.masked_fill(~valid, -inf), dim=-1)   # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG101", "inplace-on-saved-tensor"
TEXTS = {
    "overwritten": Text(
        "`{name}` is overwritten by {op}; {saver} on line {victim} saved {what} for backward",
        "backward reads the overwritten numbers: the step crashes, or its gradient is wrong",
        "write to a new tensor: the out-of-place form of {op}, `torch.where`, or a clone before the write",
    ),
}
