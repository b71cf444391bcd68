"""The model as several processes run it: replicas under DistributedDataParallel, or shards under FSDP2.

Every loss term is divided by its own count over all processes, so the gradient of the global batch is the *sum* of the
processes' gradients, not their mean; both wrappers are told so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wmtp.processes import Processes

if TYPE_CHECKING:
    from wmtp.model import CriticWmtp


def replicated(module: nn.Module, processes: Processes, *, partly: bool = False) -> nn.Module:
    """The module under DistributedDataParallel; the module itself where there is one process, or shards do the work.

    Args:
        module: all that is trained together, the value head included.
        processes: those that hold a replica each.
        partly: some of its parameters get no gradient (the value head in a uniform stage).
    """
    if processes.world == 1 or processes.sharded:
        return module
    replica = nn.parallel.DistributedDataParallel(module, find_unused_parameters=partly)
    replica.register_comm_hook(None, lambda _state, bucket: _sum(bucket.buffer()))  # it refuses annotations as text
    return replica


def _sum(flat: Tensor) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(flat, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]


def shard(model: CriticWmtp) -> None:
    """Share parameters, gradients and optimizer state: each process holds its part, and a block's whole parameters are
    there only while it runs."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Values are a view of the value head's output; no step writes to them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    blocks = getattr(model.trunk, "blocks", ())
    # Tied embeddings belong to trunk and heads, so both stay in the root's group; the value head runs alone in Stage 1.
    for module in (*blocks, model.value_head, model):
        state = fully_shard(module)
        state.set_gradient_divide_factor(1.0)
        state.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "features")


@contextmanager
def exchanging(module: nn.Module, processes: Processes, *, now: bool) -> Iterator[None]:
    """Gradients of the backward inside cross processes at its end, or wait for a later one."""
    if processes.world == 1:
        yield
    elif processes.sharded:
        module.set_requires_gradient_sync(now)  # type: ignore[operator]
        yield
    elif now:
        yield
    else:
        with module.no_sync():  # type: ignore[operator]
            yield


def whole(tensor: Tensor, processes: Processes) -> Tensor:
    """A tensor that may be spread over processes, whole. Collective where it is."""
    return tensor.full_tensor() if processes.sharded else tensor  # type: ignore[attr-defined]


def whole_state(module: nn.Module, processes: Processes) -> dict[str, Any]:
    """A module's whole state, on the leader. Collective where the module is sharded."""
    if not processes.sharded:
        return module.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(module, options=options))


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as another one is; itself where that is whole too, or it is spread already."""
    if not hasattr(like, "device_mesh") or hasattr(tensor, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)  # noqa: S101 - by its attribute
    there = tensor.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
