"""The few entrances of torch that no dispatch mode sees, wrapped while a watch is open and put back after it."""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradgate.watch import compiled, transforms
from gradgate.watch.gradients import _grad_of
from gradgate.watch.places import OPTIMIZER, USER, kind_of

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

_LOCAL = threading.local()
_LOCK = threading.Lock()
_UNDO: list[Callable[[], None]] = []
_open = 0


def active() -> Recorder | None:
    """The recorder of this thread; none for code that is being compiled, which must not find us in it."""
    recorder = None if torch.compiler.is_compiling() else latest()
    return None if recorder is None or recorder.closed else recorder


def latest() -> Recorder | None:
    """The recorder of this thread, also where it has been closed."""
    return getattr(_LOCAL, "recorder", None)


def enter(recorder: Recorder) -> None:
    """Make a recorder this thread's, and wrap torch if it is the first of all."""
    global _open
    with _LOCK:
        if not _open:
            _install()
        _open += 1
    _LOCAL.recorder = recorder


def leave(recorder: Recorder) -> None:
    """Undo `enter`."""
    global _open
    if latest() is recorder:
        _LOCAL.recorder = None
    with _LOCK:
        _open -= 1
        if not _open:
            while _UNDO:
                _UNDO.pop()()


def _replace(owner: Any, name: str, made: Any) -> None:
    """Set an attribute, and remember how to put back what was there, inherited or its own."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, made)
    _UNDO.append(functools.partial(delattr, owner, name) if before is missing else lambda: setattr(owner, name, before))


def _install() -> None:
    engine = torch.autograd.graph._engine_run_backward

    def run_backward(roots: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = active()
        return (
            engine(roots, *args, **kwargs) if recorder is None else recorder.backward.run(engine, roots, args, kwargs)
        )

    _replace(torch.autograd, "_engine_run_backward", run_backward)
    _install_function_apply()
    _install_exposures()
    _install_constructors()
    _install_hooks()
    _install_optimizers()
    _install_grad()
    _install_grad_mode()
    transforms.step_aside()
    _UNDO.append(transforms.stay)
    _install_strangers()
    compiled.install(_replace, active)
    for register, method in (
        (register_optimizer_step_pre_hook, "updates.before"),
        (register_optimizer_step_post_hook, "updates.after"),
        (register_module_parameter_registration_hook, "registered.parameter"),
        (register_module_module_registration_hook, "registered.module"),
    ):
        _UNDO.append(register(_forwarding(method)).remove)


def _forwarding(method: str) -> Callable[..., None]:
    find = operator.attrgetter(method)

    def forward(*args: Any) -> None:
        recorder = active()
        if recorder is not None:
            find(recorder)(*args)

    return forward


def _install_function_apply() -> None:
    original = vars(torch.autograd.Function)["apply"].__func__

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        recorder = active()
        if recorder is None or torch._C._are_functorch_transforms_active():
            return original(cls, *args, **kwargs)
        return recorder.functions.apply(functools.partial(original, cls), cls, args, kwargs)

    _replace(torch.autograd.Function, "apply", classmethod(apply))


def _install_exposures() -> None:
    for name in ("numpy", "__dlpack__", "data_ptr", "untyped_storage", "storage"):
        original = getattr(Tensor, name)

        def exposing(tensor: Tensor, *args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            recorder = active()
            if recorder is not None and (_name in ("numpy", "__dlpack__") or _by_user(2)):
                recorder.entrances.exposed(tensor, numpy=_name == "numpy")
            return _original(tensor, *args, **kwargs)

        _replace(Tensor, name, functools.wraps(original)(exposing))

    to_dlpack = torch._C._to_dlpack

    def exporting(tensor: Tensor) -> Any:
        recorder = active()
        if recorder is not None:
            recorder.entrances.exposed(tensor, numpy=False)
        return to_dlpack(tensor)

    _replace(torch.utils.dlpack, "to_dlpack", exporting)


def _by_user(depth: int) -> bool:
    return kind_of(sys._getframe(depth).f_code) == USER


def _install_constructors() -> None:
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch, "from_numpy"), (Tensor, "new_tensor")):
        original = getattr(owner, name)

        def building(*args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            made = _original(*args, **kwargs)
            recorder = active()
            if recorder is not None:
                recorder.entrances.built(made, args[-1] if args else kwargs.get("data"), _name)
            return made

        _replace(owner, name, functools.wraps(original)(building))


def _install_optimizers() -> None:
    original = torch.optim.Optimizer.__init__

    def building(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        recorder = active()
        if recorder is not None:
            recorder.updates.built(optimizer)

    _replace(torch.optim.Optimizer, "__init__", functools.wraps(original)(building))


def _install_hooks() -> None:
    for name in ("register_hook", "register_post_accumulate_grad_hook"):
        original = getattr(Tensor, name)

        def registering(tensor: Tensor, hook: Any, _original: Any = original) -> Any:
            recorder = active()
            if recorder is not None:
                recorder.python_in_backward = True
            return _original(tensor, hook)

        _replace(Tensor, name, functools.wraps(original)(registering))


def _install_grad() -> None:
    descriptor: Any = torch._C.TensorBase.grad

    def about_to_touch(tensor: Tensor) -> Recorder | None:
        recorder = active()
        if recorder is not None and recorder.gradients.before_use:
            recorder.gradients.before_use(tensor)
        return recorder

    def read(tensor: Tensor) -> Tensor | None:
        recorder = about_to_touch(tensor)
        if recorder is not None:
            caller = sys._getframe(1).f_code
            kind = kind_of(caller)
            if kind == USER:
                recorder.entrances.grad_read(tensor)
            elif kind == OPTIMIZER and caller.co_name != "zero_grad":
                recorder.gradients.read(tensor, by_user=False)
        return _grad_of(tensor)  # type: ignore[no-any-return]

    def write(tensor: Tensor, value: Tensor | None) -> None:
        recorder = about_to_touch(tensor)
        if recorder is not None and value is None:
            recorder.entrances.cleared([tensor])
        descriptor.__set__(tensor, value)

    def delete(tensor: Tensor) -> None:
        about_to_touch(tensor)
        descriptor.__delete__(tensor)

    _replace_data()
    _replace(Tensor, "grad", property(read, write, delete, descriptor.__doc__))


def _replace_data() -> None:
    descriptor: Any = torch._C.TensorBase.data

    def read(tensor: Tensor) -> Tensor:
        recorder = active()
        data: Tensor = descriptor.__get__(tensor)
        if recorder is not None and _by_user(2):
            recorder.entrances.data_read(tensor, data)
        return data

    def write(tensor: Tensor, value: Tensor) -> None:
        recorder = active()
        if recorder is None:
            descriptor.__set__(tensor, value)
        else:
            recorder.entrances.data_set(tensor, functools.partial(descriptor.__set__, tensor, value))

    _replace(Tensor, "data", property(read, write, None, descriptor.__doc__))


def _install_strangers() -> None:
    """Hooks of others inside the block: ours go around them."""
    original = torch._C._autograd._push_saved_tensors_default_hooks

    def push(pack: Any, unpack: Any) -> None:
        recorder = active()
        if recorder is not None and pack != recorder.shelf.pack:
            recorder.python_in_backward = True
            pack, unpack = recorder.strangers.around(pack, unpack)
        original(pack, unpack)

    _replace(torch._C._autograd, "_push_saved_tensors_default_hooks", push)


def _install_grad_mode() -> None:
    original = torch._C._set_grad_enabled

    def set_enabled(mode: bool) -> Any:
        recorder = active()
        if recorder is not None and not mode:
            recorder.entrances.grad_disabled()
        return original(mode)

    _replace(torch._C, "_set_grad_enabled", set_enabled)
