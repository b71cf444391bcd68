"""`wmtp train` as the catalogue launches it: all stages, small, with checkpoints, evaluations and log lines between."""

from __future__ import annotations

from gradgate.subjects.program import Program, command

_SMALL = (
    "data.tasks=6", "data.max_length=52", "data.batch_size=4", "model.width=16", "model.attention_heads=2",
    "pretrain.trunk_steps=5", "pretrain.num_epochs=3", "train.horizon=3", "train.max_steps=10", "train.eval_every=4",
    "optim.warmup_steps=2", "checkpoint.every=3", "model.dropout=0.1", "threads=1",
)  # fmt: skip

PROGRAM = Program(
    command(
        "wmtp",
        arguments="train --set paths.output={folder} " + " ".join(f"--set {setting}" for setting in _SMALL),
        resume="--resume {folder}",
        setting="--set {key}={value}",
    ),
    watching={"checkpoint.every": (3, 2, 100), "checkpoint.keep": (2, 1), "train.eval_every": (4, 3)},
    options={
        "optim.lr": (3e-3, 1e-3),
        "pretrain.lr": (1e-2, 1e-3),
        "optim.weight_decay": (0.01, 0.2),
        "loss.weight_temperature": (0.7, 0.1),
        "optim.warmup_steps": (2, 4),
        "optim.grad_clip": (1.0, 0.1),
        "data.batch_size": (4, 2),
        "train.accumulation_steps": (1, 2),
        "train.patience": ("null", 1),
    },
    equal=[
        (
            {"data.batch_size": 4, "train.accumulation_steps": 1, "pretrain.trunk_steps": 0, "pretrain.num_epochs": 0},
            {"data.batch_size": 2, "train.accumulation_steps": 2, "pretrain.trunk_steps": 0, "pretrain.num_epochs": 0},
        )
    ],
    seed="seed",
    updates=24,  # 5 of the trunk, 3 epochs of 3 batches of the value head, 10 of the whole
)
