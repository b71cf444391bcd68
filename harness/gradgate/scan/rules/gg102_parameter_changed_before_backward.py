"""A backward reaches nodes that were made before an `optimizer.step()` (or a write of parameters) and that need
the parameters as they were. Optimizers are matched to modules by the `X.parameters()` that they were built
from; one that cannot be matched counts only where the function speaks of no other.

```python
loss_d.backward(retain_graph=True)
optimizer_d.step()       # bad: loss_g still needs the old discriminator
loss_g.backward()

loss_d.backward(retain_graph=True)
loss_g.backward()
optimizer_d.step()       # good: both steps after both backwards
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG102", "parameter-changed-before-backward"
_WHY = "the pending backward would mix the old activations with the new parameters: an error, or a wrong gradient"
TEXTS = {
    "step": Text(
        "the optimizer steps while a backward through `{module}` (line {victim}) is still to come",
        _WHY,
        "run every backward that needs the old parameters before the step, or run the forward again, or detach",
    ),
    "inplace": Text(
        "parameters of `{module}` are written while a backward through line {victim} is still to come",
        _WHY,
        "write the parameters before the forward or after the backward",
    ),
}
