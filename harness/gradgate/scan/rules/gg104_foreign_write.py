"""The memory of a saved tensor is written through a NumPy array or a buffer that shares it: `t.detach().numpy()`
without a copy, or the array behind `torch.from_numpy`. Reported where the array is seen to be written in place.

```python
action = policy(state)
array = action.detach().numpy()
np.clip(array, -1, 1, out=array)              # bad: this is the memory that tanh saved

array = action.detach().numpy().copy()        # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG104", "foreign-write"
_WHY = "the memory is written with no torch operation, so PyTorch cannot notice; the gradient is silently wrong"
TEXTS = {
    "overwritten": Text(
        "the memory of `{name}` is written by {op}; {saver} on line {victim} saved {what} for backward",
        _WHY,
        "give the outside a copy: `.detach().cpu().numpy().copy()`, or clone what came from outside",
    ),
    "hook": Text(
        "a forward hook writes the memory of the module's output by {op}",
        _WHY,
        "copy first: `output.detach().cpu().numpy().copy()`",
        "warning",
    ),
    "direct": Text(
        "`{name}` is written through `.numpy()` in a file that defines autograd functions",
        _WHY,
        "write to a new tensor",
        "warning",
    ),
}
