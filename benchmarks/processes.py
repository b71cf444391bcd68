"""Memory of a step by the way of training: `python -m benchmarks.processes [--world 2]`.

What each process holds between steps (parameters, gradients, moments, DDP's buckets are counted by the kernel only) and
how far its resident memory rises above what it was before the stage was built, at its highest, over three steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fixtures.small_runs import settings
from gradgate.checks.ranks import together
from wmtp.processes import ALONE, Processes
from wmtp.progress import quiet
from wmtp.stages import build_stage
from wmtp.trainer import build

SHAPE = (
    "model.width=512", "model.layers=6", "model.attention_heads=8", "data.batch_size=8", "data.tasks=16",
    "train.horizon=4", "pretrain.trunk_steps=0", "critic.reward=verifiable",
)  # fmt: skip
STEPS = 3


def kilobytes(field: str) -> int:
    """A line of the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def local_bytes(tensors: Any) -> int:
    """Bytes that this process holds of tensors that may be spread."""
    parts = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


def measure(processes: Processes) -> dict[str, float]:
    """Megabytes, after and during three steps of Stage 2."""
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = kilobytes("VmRSS")
    trainer = build(*settings("nowhere", *SHAPE), quiet(), processes)
    work, position = build_stage("stage2", trainer), 0
    for _ in range(STEPS):
        _, position = work.advance(position)
    parameters = list(trainer.model.parameters())
    moments = [value for state in work.update.optimizer.state.values() for value in state.values()]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    held = {"parameters": parameters, "gradients": gradients, "moments": moments}
    numbers = {name: local_bytes(tensors) / 1e6 for name, tensors in held.items()}
    return numbers | {"rss_peak": (kilobytes("VmHWM") - before) * 1024 / 1e6}


def main() -> None:
    """One process, then each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=int, default=2)
    world = parser.parse_args().world
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, Any] = {"1 process": together(lambda _: measure(ALONE), Path(folder) / "one", world=1)}
        for way in ("ddp", "fsdp2"):
            rows[f"{world} x {way}"] = together(
                lambda rank, way=way: measure(Processes(rank, world, way)),  # type: ignore[misc]
                Path(folder) / way, world=world, seconds=240,
            )  # fmt: skip
    for name, ranks in rows.items():
        print(name, *(each.error or each.stack or {k: round(v, 1) for k, v in each.value.items()} for each in ranks))


if __name__ == "__main__":
    main()
