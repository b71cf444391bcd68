"""The recorder: run an unchanged block of training code and name the lines that broke its gradients.

The package is called like a function: `with gradgate.watch(model) as watch: ...`. Torch is imported when that happens.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgate.watch.block import Watch


class _Callable(types.ModuleType):
    """Lets `gradgate.watch(...)` work once the import system has bound the name to this package."""

    def __call__(self, *subjects: Any, stacks: bool = False) -> Watch:
        from gradgate.watch.block import watch

        return watch(*subjects, stacks=stacks)


sys.modules[__name__].__class__ = _Callable
