"""Several processes as one trainer: who this one is, what they add up, and how they meet. One process does nothing.

Numbers and objects travel over gloo, also beside GPUs, so that none of these calls waits for a device; gradients and
tensors on a GPU travel over nccl.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from wmtp.errors import ConfigError, FollowerError, ProcessError, WmtpError
from wmtp.settings import Config, Parallel, Recipe

Item = TypeVar("Item")
Result = TypeVar("Result")
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STREAM = 1_000_003  # between the random seeds of neighbouring ranks


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number; 0 leads: it alone writes files and runs programs.
        world: how many there are.
        parallel: how they share the model.
    """

    rank: int = 0
    world: int = 1
    parallel: Parallel = "ddp"

    @property
    def leader(self) -> bool:
        """Whether this one writes what only one may write."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only."""
        return self.world > 1 and self.parallel == "fsdp2"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of what all have together: every item is in exactly one part."""
        return items if self.world == 1 else items[self.rank :: self.world]

    def total(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The sums over all processes. Collective."""
        if self.world == 1:
            return tuple(numbers)
        summed = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(summed)
        return tuple(summed.tolist())

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes. Collective."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether any process says so. Collective."""
        return flag if self.world == 1 else self.total((int(flag),))[0] > 0

    def gather(self, value: Item) -> list[Item]:
        """Everybody's value, by rank. Collective."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Item) -> Item:
        """The leader's value, where the processes' own may differ in the last bit. Collective."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def led(self, work: Callable[[], Result]) -> Result:
        """Do something on the leader alone; everybody gets its result. Collective.

        Raises:
            WmtpError: what the leader met, on the leader.
            FollowerError: the leader met one, on the others.
        """
        if self.world == 1:
            return work()
        told: list[Any] = [None]
        met: BaseException | None = None
        if self.leader:
            try:
                told = [(True, work())]
            except (WmtpError, OSError) as error:
                met, told = error, [(False, None)]
        dist.broadcast_object_list(told)
        if met is not None:
            raise met
        if not told[0][0]:
            raise FollowerError
        return told[0][1]  # type: ignore[no-any-return]

    def agreed(self, name: str, value: str) -> None:
        """Refuse what is not the same everywhere. Collective.

        Raises:
            ProcessError: names the first rank that has another, on the leader.
            FollowerError: the same, on the others.
        """
        values = self.gather(value)
        other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
        if other is None:
            return
        if not self.leader:
            raise FollowerError
        raise ProcessError(f"the processes disagree on {name}: rank 0 has {values[0]}, rank {other} {values[other]}")

    def own_stream(self, seed: int) -> None:
        """Random numbers of this process's own; the leader's stay those of a run on one process."""
        if not self.leader:
            torch.manual_seed((seed + self.rank * STREAM) % 2**63)


ALONE = Processes()


@contextmanager
def joined(config: Config) -> Iterator[Processes]:
    """Meet the other processes of a job that torchrun, or anything that sets its variables, has started.

    Inside a process group that is there already nothing is started and nothing ended.

    Yields:
        This process among them; alone where WORLD_SIZE is 1 or not set.

    Raises:
        ConfigError: a variable is missing, or no GPU is left for this process.
        ProcessError: the others cannot be reached in time, or were lost on the way.
    """
    section = config.distributed
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), section.parallel)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    place = _meet(config)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), section.parallel)
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise ProcessError(f"the other processes were lost or came too late ({place}): {reason}") from None
    dist.destroy_process_group()


@contextmanager
def _hushed() -> Iterator[None]:
    """Drop what C++ writes to standard error: two dozen frames an attempt, before the one line that says it all."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _meet(config: Config) -> str:
    """Start the process group; where it meets."""
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is set and {', '.join(missing)} not: start the processes with torchrun")
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    if on_gpu:
        _take_gpu(config.device)
    seconds = config.distributed.timeout
    limit = timedelta(seconds=seconds)
    try:
        with _hushed():
            store, rank, world = next(iter(rendezvous("env://", timeout=limit)))
        # torchrun keeps its store over restarts, with the addresses of processes that are gone.
        attempt = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=world, timeout=limit)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ProcessError(
            f"could not meet {os.environ['WORLD_SIZE']} processes at {place} within {seconds:g} s: {reason}"
        ) from None
    return place


def _take_gpu(device: str) -> None:
    local, held = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if ":" in device:
        raise ConfigError(f"device is {device!r}: with several processes each takes its own; use cuda, cpu or auto")
    if local >= held:
        raise ConfigError(f"process {local} of this machine has no GPU: there are {held}; start at most so many here")
    torch.cuda.set_device(local)


def _is_loss(error: RuntimeError) -> bool:
    """torch.distributed's own errors; gloo's are plain ones."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection closed by peer" in text


def require_same(processes: Processes, config: Config, recipe: Recipe, data: str) -> None:
    """Refuse processes that were given different settings or different rows. Collective.

    Raises:
        ProcessError: names the first key that differs.
    """
    if processes.world == 1:
        return
    ours = _leaves(config.model_dump(mode="json")) | _leaves(recipe.model_dump(mode="json"))
    everywhere = processes.gather(ours)
    apart = next((key for key in ours if any(theirs.get(key) != everywhere[0][key] for theirs in everywhere)), None)
    if apart is not None:
        processes.agreed(apart, repr(ours[apart]))
    processes.agreed("the rows of data.path (their checksum)", data[:12])


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
