"""A run as a whole: which stages it has, what is handed from one to the next, and a dry run that writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fixtures.small_runs import files_of, row, settings, small_trainer, train_small
from wmtp import checkpoint
from wmtp.data.batches import Batch
from wmtp.errors import CheckpointError, ConfigError
from wmtp.experiment import choose_device, load_value_head, save_value_head
from wmtp.loading import load_settings
from wmtp.progress import quiet
from wmtp.stages import Stage2, WarmUp
from wmtp.train import dry_run, train
from wmtp.trainer import build

STEP_KEYS = {
    "stage", "step", "loss", "wmtp_loss", "value_loss", "cross_entropy", "weight_entropy", "grad_norm", "lr", "tokens",
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ((), ["warmup", "stage1", "stage2"]),
        (("pretrain.trunk_steps=0", "critic.reward=verifiable"), ["stage1", "stage2"]),
        (("pretrain.num_epochs=0",), ["warmup", "stage2"]),
        (("loss.weighting=uniform",), ["warmup", "stage2"]),
    ],
)
def test_stages_are_those_that_the_recipe_has(overrides: tuple[str, ...], stages: list[str]) -> None:
    """No warm-up without steps, no Stage 1 without epochs or for the control group, always Stage 2."""
    assert small_trainer(*overrides).stage_names() == stages


def test_stage_1_is_left_out_when_a_value_head_is_given(tmp_path: Path) -> None:
    """`paths.value_head` is loaded before anything is trained."""
    donor = small_trainer("seed=5")
    save_value_head(tmp_path / "v.ckpt", donor.model)
    trainer = small_trainer(f"paths.value_head={tmp_path}/v.ckpt")
    assert trainer.stage_names() == ["warmup", "stage2"]
    assert torch.equal(trainer.model.value_head.inner.weight, donor.model.value_head.inner.weight)


def test_value_head_is_refused_when_it_has_another_shape(tmp_path: Path) -> None:
    """A mismatch is an error at the start, not a warning after hours; nothing is changed or written."""
    save_value_head(tmp_path / "v.ckpt", small_trainer("model.width=32").model)
    with pytest.raises(CheckpointError, match=r"value head: 'inner.weight' has shape \[16, 32\], this model's has"):
        train(*settings(tmp_path / "run", f"paths.value_head={tmp_path}/v.ckpt"), quiet())
    assert not (tmp_path / "run").exists()


def test_value_head_is_refused_when_it_is_another_kind_of_file(tmp_path: Path) -> None:
    """A whole model is no value head."""
    train_small(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"holds a 'model', expected a 'value head'$"):
        load_value_head(small_trainer().model, tmp_path / "run" / "final.ckpt")


def test_control_group_needs_no_value_head(tmp_path: Path) -> None:
    """Uniform weighting neither loads nor asks for one, and computes no reward."""
    lines = train_small(tmp_path / "run", "loss.weighting=uniform", "paths.value_head=missing.ckpt")
    assert {line["value_loss"] for line in lines if "loss" in line} == {None}
    assert not (tmp_path / "run" / "value_head.ckpt").exists()


def test_run_leaves_what_it_says(tmp_path: Path) -> None:
    """Metrics, value head, best and final model, and as many checkpoints as are kept."""
    lines = train_small(tmp_path / "run")
    assert sorted(files_of(tmp_path / "run")) == [
        "best.ckpt", "checkpoints/stage2-00000003.ckpt", "checkpoints/stage2-00000004.ckpt", "final.ckpt",
        "metrics.jsonl", "value_head.ckpt",
    ]  # fmt: skip
    assert all(line.keys() >= STEP_KEYS for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "heldout_cross_entropy" in line and line["stage"] == "stage2"] == [
        0,
        2,
        4,
    ]


def test_run_is_the_same_twice(tmp_path: Path) -> None:
    """One seed, one result, bit for bit; another seed, another."""
    runs = {name: tmp_path / name for name in ("one", "two", "other")}
    for name, folder in runs.items():
        train_small(folder, "model.dropout=0.2", *(("seed=1",) if name == "other" else ()))
    one, two, other = (files_of(folder) for folder in runs.values())
    assert {name for name in ("metrics.jsonl", "final.ckpt", "value_head.ckpt") if one[name] != two[name]} == set()
    assert one["metrics.jsonl"] != other["metrics.jsonl"]


def test_best_model_is_that_of_the_best_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`best.ckpt` carries the lowest held-out cross-entropy, `final.ckpt` the last."""
    scores = iter([3.0, 2.0, 4.0])
    evaluate = WarmUp.evaluate
    monkeypatch.setattr(Stage2, "evaluate", lambda self: (evaluate(self)[0], next(scores)))
    train_small(tmp_path / "run")
    best, final = (checkpoint.load(tmp_path / "run" / f"{name}.ckpt")["metrics"] for name in ("best", "final"))
    assert (best, final) == ({"heldout_cross_entropy": 2.0}, {"heldout_cross_entropy": 4.0})


def test_stage_2_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `train.patience` evaluations without a better one; the final model is written all the same."""
    scores = iter([1.0, 2.0, 2.0, 0.5])
    monkeypatch.setattr(Stage2, "evaluate", lambda self: ({"heldout_cross_entropy": 0.0}, next(scores)))
    lines = train_small(tmp_path / "run", "train.max_steps=20", "train.patience=2")
    assert lines[-1]["step"] == 4
    assert (tmp_path / "run" / "final.ckpt").exists()


def test_rewards_come_from_the_trunk_behind_its_warm_up(tmp_path: Path) -> None:
    """Reference rewards without a path: zeros in the warm-up's checkpoint, cross-entropies from Stage 1 on."""
    train_small(tmp_path / "run", "checkpoint.keep=100")
    rewards = {
        stage: checkpoint.load(sorted((tmp_path / "run" / "checkpoints").glob(f"{stage}-*"))[-1])["reward_N"]
        for stage in ("warmup", "stage1", "stage2")
    }
    assert not rewards["warmup"].any()
    assert bool((rewards["stage1"] < 0).all())
    assert torch.equal(rewards["stage1"], rewards["stage2"])


def test_run_completes_when_no_row_has_a_label(tmp_path: Path) -> None:
    """All rows are cut inside their prompts: every step says 0 positions and a token loss of 0."""
    lines = train_small(tmp_path / "run", "data.train_on=completion", "data.max_length=5")
    steps = [line for line in lines if "positions" in line]
    assert {(line["positions"], line["wmtp_loss"], line["cross_entropy"]) for line in steps} == {(0, 0.0, 0.0)}
    assert {line["heldout_cross_entropy"] for line in lines if "heldout_cross_entropy" in line} == {None}


@pytest.mark.parametrize("overrides", [("data.batch_size=1",), ("data.tasks=2", "data.batch_size=64")])
def test_run_completes_with_odd_batches(overrides: tuple[str, ...], tmp_path: Path) -> None:
    """One row a batch, or more room than rows."""
    assert train_small(tmp_path / "run", *overrides)[-1]["step"] == 4


def test_packed_run_completes(tmp_path: Path) -> None:
    """Packing, accumulation across epochs and tied embeddings together."""
    lines = train_small(
        tmp_path / "run", "data.packing=true", "data.max_length=130", "train.accumulation_steps=3",
        "model.tie_embeddings=true", "recompute=true",
    )  # fmt: skip
    assert lines[-1]["heldout_cross_entropy"] < lines[0]["heldout_cross_entropy"]


def test_cut_rows_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody loses the end of a row unawares."""
    said: list[str] = []
    report = quiet()
    report.say = said.append  # type: ignore[method-assign]
    build(*settings("nowhere", "data.max_length=10"), report)
    assert said == ["12 of 12 rows are longer than data.max_length 10: cut"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99"])
def test_device_is_refused_when_it_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how many there are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=f"^device is '{name}': this machine has 0 CUDA devices; use cpu or auto$"):
        choose_device(name)


def test_device_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA where it is available."""
    found = []
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        found += [str(choose_device("auto")), str(choose_device("cuda:0") if available else "cpu")]
    assert found == ["cpu", "cpu", "cuda", "cuda:0"]


@pytest.mark.parametrize("weighting", ["critic", "uniform"])
def test_dry_run_writes_nothing(weighting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is built, one forward and backward is made, and no file appears."""
    monkeypatch.chdir(tmp_path)
    said = dry_run(*settings("run", f"loss.weighting={weighting}"), quiet())
    assert (said["training_rows"], said["heldout_rows"], said["device"]) == (10, 2, "cpu")
    assert said["parameters"] > 1000
    assert said["loss"] == pytest.approx(5.6, abs=0.3)
    assert list(tmp_path.iterdir()) == []


def test_dry_run_finds_what_would_fail_later(tmp_path: Path) -> None:
    """A value head of another shape, a reference that is missing, a reward without its model."""
    save_value_head(tmp_path / "v.ckpt", small_trainer("model.width=32").model)
    for override in (
        f"paths.value_head={tmp_path}/v.ckpt",
        "paths.reference=no.ckpt",
        "pretrain.trunk_steps=0",
        "critic.reward=model",
    ):
        with pytest.raises((CheckpointError, ConfigError)):
            dry_run(*settings("run", override), quiet())


@pytest.mark.nightly
def test_dry_run_of_the_gpu_recipe_fits_a_cpu(tmp_path: Path) -> None:
    """The GPU-sized recipe builds and takes a step's forward and backward anywhere."""
    data = tmp_path / "mbpp.jsonl"
    rows = [{"task_id": n, "text": "Add.", "code": f"x = {n}", "test_list": [f"assert x == {n}"]} for n in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, recipe = load_settings(None, "gpu", [f"data.path={data}", "device=cpu", "precision=bf16", "recompute=true"])
    assert dry_run(config, recipe, quiet())["loss"] == pytest.approx(5.6, abs=0.5)


def test_batches_hold_rows_of_one_run_only() -> None:
    """A batch of chosen packs is what the collator makes of them."""
    trainer = small_trainer()
    batch = trainer.collator.batch([(row(5, 0),)])
    assert isinstance(batch, Batch)
    assert batch.tokens == 5
