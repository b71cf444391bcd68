"""In a custom `autograd.Function`: a tensor argument or result is kept as `ctx.name = tensor` instead of by
`ctx.save_for_backward`, so that no version check guards it and it may leak; or an argument is written in place
without `ctx.mark_dirty`. Where a tensor that was kept on `ctx` is seen to be overwritten later, the writing
line is the finding.

```python
def forward(ctx, x):
    ctx.x = x                    # bad: unchecked
    return x * x

def forward(ctx, x):
    ctx.save_for_backward(x)     # good
    return x * x
```
"""

from __future__ import annotations

from gradgate.scan.rules.text import Text

CODE, NAME = "GG107", "function-breaks-contract"
TEXTS = {
    "overwritten": Text(
        "`{name}` is overwritten by {op}; {saver} on line {victim} keeps it on ctx, where no version check guards it",
        "backward of the function computes with the overwritten numbers: a silently wrong gradient",
        "use `ctx.save_for_backward`, and write to a new tensor",
    ),
    "kept": Text(
        "the tensor `{name}` is kept as ctx.{attribute}, not by ctx.save_for_backward",
        "no version check guards it: a later write gives a silently wrong gradient; an output kept so leaks its graph",
        "`ctx.save_for_backward({name})`, and read it from `ctx.saved_tensors`",
        "warning",
    ),
    "dirty": Text(
        "forward writes its argument `{name}` by {op} without ctx.mark_dirty",
        "autograd does not know that the input changed: gradients of its other uses are wrong, without an error",
        "call `ctx.mark_dirty({name})` and return it, or write to a new tensor",
    ),
}
