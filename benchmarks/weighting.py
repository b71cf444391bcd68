"""`python -m benchmarks.weighting`: critic or uniform, through or detach, over seeds. The numbers of decision 0002.

Each arm is the embedded recipe from the same seed: same rows, same warm-up, same Stage 1. What is compared is the
*unweighted* held-out cross-entropy behind Stage 2, so that no arm is judged by its own weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wmtp.loading import load_settings
from wmtp.progress import quiet
from wmtp.stages import build_stage
from wmtp.train import train
from wmtp.trainer import Trainer, build

ARMS = {
    "uniform": ("loss.weighting=uniform",),
    "critic, detach": ("loss.weight_gradient=detach",),
    "critic, through": ("loss.weight_gradient=through",),
}
FROZEN_STEPS = 100


def main() -> None:
    """Print a table of all arms and the paired differences to uniform."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides for every arm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    finals: dict[str, list[float]] = {}
    for arm, overrides in ARMS.items():
        rows = [outcome(seed, (*overrides, *arguments.set)) for seed in range(arguments.seeds)]
        finals[arm] = [row["heldout"][-1] for row in rows]
        fell = sum(row["heldout"][-1] < row["heldout"][0] for row in rows)
        print(
            f"{arm:16} held-out CE {spread([row['heldout'][0] for row in rows])} -> {spread(finals[arm])}, "
            f"fell on {fell} of {len(rows)}; weight entropy {spread([row['entropy'] for row in rows])}; "
            f"value loss/constant {spread([row['value_ratio'] for row in rows if row['value_ratio']])}; AUC "
            f"{spread([row['auc'] for row in rows if row['auc']])}",
            flush=True,
        )
    for arm in list(ARMS)[1:]:
        differences = [ours - control for ours, control in zip(finals[arm], finals["uniform"], strict=True)]
        print(f"{arm:16} minus uniform, paired by seed: {spread(differences)}  {[round(d, 4) for d in differences]}")
    for arm in list(ARMS)[1:]:
        falls = [frozen_fall(seed, (*ARMS[arm], *arguments.set)) for seed in range(arguments.seeds)]
        print(f"{arm:16} trunk and heads frozen, {FROZEN_STEPS} steps: main loss falls by {spread(falls)} of itself")


def outcome(seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """What one run led to."""
    with tempfile.TemporaryDirectory() as folder:
        place = (f"seed={seed}", "device=cpu", f"paths.output={folder}/run")
        train(*load_settings(None, "embedded", (*place, *overrides)), quiet())
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    stage2 = [line for line in lines if line["stage"] == "stage2"]
    quality = next((line for line in reversed(lines) if "heldout_auc" in line), None)
    return {
        "heldout": [line["heldout_cross_entropy"] for line in stage2 if "heldout_cross_entropy" in line],
        "entropy": statistics.mean(line["weight_entropy"] for line in stage2[-20:] if "weight_entropy" in line),
        "value_ratio": quality and quality["heldout_value_loss"] / quality["heldout_constant_loss"],
        "auc": quality and quality["heldout_auc"],
    }


def frozen_fall(seed: int, overrides: Sequence[str]) -> float:
    """By how much the main loss falls, of itself, when only the value head may learn: what weights alone can win."""
    config, recipe = load_settings(None, "embedded", (f"seed={seed}", "device=cpu", *overrides))
    trainer: Trainer = build(config, recipe, quiet())
    trainer.collator.reward_N = torch.arange(len(trainer.data.examples)).remainder(2).float()
    warm = build_stage("warmup", trainer)
    position = 0
    for _ in range(warm.total_steps):
        _, position = warm.advance(position)
    for module in (trainer.model.trunk, trainer.model.heads):
        module.requires_grad_(requires_grad=False)
    work = build_stage("stage2", trainer)
    losses = []
    for _ in range(FROZEN_STEPS):
        metrics, position = work.advance(position)
        losses.append(metrics["wmtp_loss"] / metrics["cross_entropy"])
    tenth = FROZEN_STEPS // 10
    return 1.0 - statistics.mean(losses[-tenth:]) / statistics.mean(losses[:tenth])


def spread(numbers: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(numbers) < 2:
        return "-" if not numbers else f"{numbers[0]:.4f}"
    return f"{statistics.mean(numbers):.4f} ± {statistics.stdev(numbers):.4f}"


if __name__ == "__main__":
    main()
