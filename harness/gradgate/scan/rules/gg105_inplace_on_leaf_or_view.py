"""A write with gradient on, to a leaf that requires grad (a parameter, or what `requires_grad_()` was called on),
to one of the views that `chunk`, `split` or `unbind` return, to a view that was made under `no_grad`, or to an
expanded tensor. Writes under `no_grad`, through `.data` or by `torch.nn.init` are updates and initialisations,
and are left alone.

```python
mean, log_std = net(x).chunk(2, dim=-1)
log_std.clamp_(-20, 2)                 # bad: autograd forbids it

log_std = log_std.clamp(-20, 2)        # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG105", "inplace-on-leaf-or-view"
TEXTS = {
    "leaf": Text(
        "`{name}` is a leaf that requires grad, and {op} writes it in place with gradient on",
        "autograd has no way to record a write to a leaf: it raises",
        "write out of place, or under `torch.no_grad()` where this is an initialisation or an update",
    ),
    "many": Text(
        "`{name}` is one of several views that an operation returned, and {op} writes it in place",
        "autograd forbids the write: it cannot tell the other views what changed",
        "use the out-of-place form, or clone the view first",
    ),
    "no_grad": Text(
        "`{name}` is a view that was made under no_grad, and {op} writes it in place with gradient on",
        "autograd forbids the write: the view does not know its base's history",
        "take the view in the same grad mode as the write",
    ),
    "expand": Text(
        "`{name}` is an expanded tensor, and {op} writes it in place",
        "several of its elements are one memory location: it raises, or one write shows in many places",
        "clone it first: `.expand(...).clone()`",
    ),
    "clobbered": Text(
        "{op} rewrites `{name}`, which is read again afterwards as if it had its old values",
        "the later use, a skip connection for one, sees the activation instead of the input",
        "drop `inplace=True` here, or give it a clone",
        "warning",
    ),
}
