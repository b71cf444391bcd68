"""Exact counters of one step: what it runs, saves, allocates and leaves behind, each with the lines behind it.

They are bit-equal between fresh processes, so that they are compared at tolerance 0. One dispatch mode sees every
operation; it rides along for a few steps first, so that what a later step frees is known. Autograd's sequence number
ties a backward operation to the forward line that made it.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from gradgate.gates.allocations import Allocations, Peak, storages
from gradgate.gates.counts import Counts, Operation
from gradgate.gates.lines import Line, Lines

WARM_UP, CENSUS = 2, 3  # steps before the counted ones; steps of the leak census, the last of which is counted in full
STEPS = WARM_UP + CENSUS
SYNCS = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"})
_sequence = torch._C._autograd._get_sequence_nr
_running_node = torch._C._current_autograd_node


def count(step: Callable[[], Any], relative: Callable[[str], str | None]) -> Counts:
    """Run a fresh step `STEPS` times and count.

    Args:
        step: runs one step.
        relative: a file's path within the checkout; None for a file outside it.

    Returns:
        The counters of the last step; the leak is over the last `CENSUS` steps.

    Raises:
        Exception: whatever the step raises.
    """
    recorder = Recorder(relative)
    with _uncollected(), recorder:
        for _ in range(WARM_UP):
            step()
        before = recorder.live_bytes()
        for _ in range(CENSUS - 1):
            step()
        with recorder.in_full():
            step()
        leak = max(0, recorder.live_bytes() - before)
    return recorder.counts(leak)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected by itself in the block: what others left behind may compute when it is freed."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def recompiles(step: Callable[[], Any], steps: int = 2) -> int | None:
    """Frames that torch.compile compiles in further steps; None where it is not in use."""
    if not is_compiled():
        return None
    frames = sys.modules["torch._dynamo.utils"].counters["frames"]
    before = frames["total"]
    for _ in range(steps):
        step()
    return int(frames["total"] - before)


def is_compiled() -> bool:
    """Whether torch.compile has compiled anything here. Under a dispatch mode what it compiled runs eagerly."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"])


class Recorder(TorchDispatchMode):
    """Follows every allocation while it is on; counts everything while `in_full`."""

    def __init__(self, relative: Callable[[str], str | None]) -> None:
        super().__init__()
        self._lines = Lines(relative)
        self._allocations = Allocations()
        self._full = False
        self._stack: list[nn.Module] = []
        self._forward_lines: dict[int, Line] = {}
        self._sequence = 0
        self._operations: list[Operation] = []
        self._by_line: dict[str, Counter[Line]] = {}
        self._inputs: list[str] = []
        self._calls: Counter[int] = Counter()
        self._call_line: dict[int, Line] = {}
        self._kept: set[tuple[int, int]] = set()
        self._nodes = 0
        self._peak: Peak | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        line = self._line(sys._getframe(1))
        given = {storage._cdata for storage in storages([args, tuple(kwargs.values())])}
        result = func(*args, **kwargs)
        for storage in storages(result):
            if storage._cdata not in given or self._allocations.knows(storage):
                self._allocations.made(storage, line)
        if self._full:
            self._note(func, args, kwargs, result, line)
        return result

    def live_bytes(self) -> int:
        """Bytes alive of what was made since the recording began, after collecting cycles."""
        gc.collect()
        return self._allocations.live_bytes

    def live_by_line(self, without: Collection[int] = ()) -> Counter[Line]:
        """The same, by the line that made it, less the storages at some addresses."""
        gc.collect()
        return self._allocations.live_by_line(without)

    def live_addresses(self, line: Line) -> set[int]:
        """Addresses of the storages alive that a line made."""
        return self._allocations.addresses_of(line)

    def begin(self) -> None:
        """Open a window for its peak alone, without the hooks of `in_full`: a program's own checks stay as they are."""
        self._allocations.begin()

    def end(self) -> Peak:
        """Close it."""
        return self._allocations.end()

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """Count everything in the block."""
        hooks = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        self._full, self._sequence = True, _sequence()
        self._allocations.begin()
        try:
            with saved_tensors_hooks(self._saved, lambda kept: kept), tolist_noted(self._note_tolist):
                yield
        finally:
            self._full = False
            self._peak = self._allocations.end()
            self._stack.clear()
            for hook in hooks:
                hook.remove()

    def course(self) -> Sequence[int]:
        """Bytes alive after each allocation and release of the block that was counted in full."""
        assert self._peak is not None  # noqa: S101 - `in_full` has run
        return self._peak.course

    def saved_by_line(self) -> Mapping[Line, int]:
        """Bytes that the block counted in full saved for backward, by the line that saved them."""
        return self._by_line.get("saved_bytes", Counter())

    def counts(self, leak: int) -> Counts:
        """What was counted."""
        assert self._peak is not None  # noqa: S101 - `in_full` has run
        sums = {name: sum(self._by_line.get(name, Counter()).values()) for name in _SUMMED}
        most = max(self._calls, key=lambda module: self._calls[module], default=None)
        by_line: dict[str, Mapping[Line, int]] = {
            **self._by_line,
            "live_peak_bytes": self._peak.by_line,
            "total_bytes": self._peak.total_by_line,
            "leak": self._allocations.live_by_line(),
        }
        values: dict[str, int | str] = {
            "op_signature": _digest(operation.signature for operation in self._operations),
            "op_count": len(self._operations),
            **sums,
            "autograd_nodes": self._nodes,
            "live_peak_bytes": self._peak.live_bytes,
            "total_bytes": self._peak.total_bytes,
            "leak": leak,
        }
        if most is not None:
            values["forwards"] = self._calls[most]
            by_line["forwards"] = {self._call_line[most]: self._calls[most]}
        return Counts(values, by_line, tuple(self._operations), tuple(self._inputs))

    def _line(self, frame: Any) -> Line:
        node = _running_node()
        if node is not None:
            made = self._forward_lines.get(node._sequence_nr())
            if made is not None:
                return made
        return self._lines.of(frame, " > ".join(type(module).__name__ for module in self._stack))

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any, line: Line) -> None:
        self._operations.append(Operation(_signature(func, args, kwargs), line))
        self._add("op_count", line)
        self._add("flops", line, _flops(func, args, kwargs, result))
        self._add("host_syncs", line, int(_is_sync(func, args, kwargs, result)))
        self._claim_nodes(line)

    def _claim_nodes(self, line: Line) -> None:
        """The nodes made since the last look belong to this line."""
        now = _sequence()
        for number in range(self._sequence, now):
            self._forward_lines[number] = line
        self._nodes += now - self._sequence
        self._add("autograd_nodes", line, now - self._sequence)
        self._sequence = now

    def _saved(self, tensor: Tensor) -> Tensor:
        line = self._line(sys._getframe(1))
        self._add("saved_calls", line)
        owner = tensor if tensor._base is None else tensor._base
        for storage in storages(tensor):
            identity = self._allocations.identity(storage)
            if identity not in self._kept and not (owner.is_leaf and owner.requires_grad):  # a parameter costs nothing
                self._kept.add(identity)
                self._add("saved_bytes", line, storage.nbytes())
        with torch._C._DisableTorchDispatch():
            return (
                tensor.detach()
            )  # kept as it is, an output would tie its own node into a knot; autograd reattaches it

    def _enter(self, module: nn.Module, args: Any) -> None:
        line = self._line(sys._getframe(1))
        self._calls[id(module)] += 1
        self._call_line.setdefault(id(module), line)
        if not self._stack:
            self._inputs.append(f"{type(module).__name__}({', '.join(_shape(t) for t in _tensors(args))})")
        self._stack.append(module)

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:  # noqa: ARG002
        if module in self._stack:
            del self._stack[self._stack.index(module) :]

    def _note_tolist(self) -> None:
        self._add("host_syncs", self._line(sys._getframe(2)))

    def _add(self, metric: str, line: Line, amount: int = 1) -> None:
        if amount:
            self._by_line.setdefault(metric, Counter())[line] += amount


class Totals(TorchDispatchMode):
    """Counts operations and reads of the device while it is on, at a fraction of the time and without lines.

    Attributes:
        values: `op_count` and `host_syncs`, as `count` counts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.values["op_count"] += 1
        self.values["host_syncs"] += int(_is_sync(func, args, kwargs, result))
        return result


def totals(step: Callable[[], Any]) -> Counter[str]:
    """Operations and reads of the device of one step.

    Raises:
        Exception: whatever the step raises.
    """
    mode = Totals()
    with mode, tolist_noted(lambda: mode.values.update(host_syncs=1)):
        step()
    return mode.values


@contextmanager
def tolist_noted(note: Callable[[], None]) -> Iterator[None]:
    """`tolist()` waits for the device like `item()`, but is not dispatched: `note` is called for each in the block."""

    def tolist(tensor: Tensor) -> Any:
        note()
        return torch._C.TensorBase.tolist(tensor)

    torch.Tensor.tolist = tolist  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del torch.Tensor.tolist


_SUMMED = ("flops", "saved_bytes", "saved_calls", "host_syncs")


def _digest(signatures: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(signatures).encode()).hexdigest()[:16]


def _signature(func: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
    parts = [_shape(tensor) for tensor in _tensors([args, tuple(kwargs.values())])]
    return f"{func}({', '.join(parts)})"


def _shape(tensor: Tensor) -> str:
    layout = str(tuple(tensor.stride())) if tensor.layout == torch.strided else str(tensor.layout)
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}{layout}{tensor.device.type}"


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for value in values:
            yield from _tensors(value)


def _flops(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    formula = flop_registry.get(func._overloadpacket)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=result))
    name = func._schema.name
    if name == "aten::_scaled_dot_product_flash_attention_for_cpu":  # torch counts its twin on the GPU alone
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if name == "aten::_scaled_dot_product_flash_attention_for_cpu_backward":
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))
    return 0


def _is_sync(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> bool:
    if func._schema.name.removeprefix("aten::") in SYNCS:
        return True
    made = next(_tensors(result), None)
    given = next(_tensors([args[1:] if func._schema.name == "aten::copy_" else args, tuple(kwargs.values())]), None)
    return made is not None and given is not None and made.device.type == "cpu" != given.device.type
