"""The command line: every mistake is one clear line and exit code 2, Ctrl-C is 130, and nothing is half written."""

from __future__ import annotations

import json
import pickle
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import wmtp as package
from fixtures.damaged_files import Bomb, file_limit, pickled, signed
from fixtures.small_runs import Ended, files_of, metrics_of, settings, small_trainer, wmtp, wmtp_train
from wmtp import checkpoint, cli
from wmtp.experiment import save_value_head
from wmtp.resume import find_checkpoint
from wmtp.rewards import known
from wmtp.stages import Stage1, Stage2, WarmUp
from wmtp.trainer import STAGES

PROGRESS = ("warmup", "stage1", "stage2", "computing", "running")


def said(ended: Ended) -> list[str]:
    """Lines of standard error but for progress."""
    return [line for line in ended.err.splitlines() if line and not line.startswith(PROGRESS)]


def refused(ended: Ended, message: str) -> None:
    """Exit code 2 and one line."""
    assert (ended.code, ended.out, said(ended)) == (2, "", [f"wmtp: {message}"])


def test_help_says_what_can_be_done() -> None:
    """Options, examples, and no work."""
    for arguments in (("--help",), ("-h",), ("train", "--help")):
        ended = wmtp(*arguments)
        assert (ended.code, "wmtp train --resume runs/embedded" in ended.out) == (0, True)
    assert wmtp("--version").out.startswith("wmtp, version ")


def test_recipes_are_listed_with_their_files() -> None:
    """To copy and change."""
    ended = wmtp("recipes")
    assert (ended.code, "mbpp_cpu" in ended.out, "recipes/mbpp_cpu.yaml" in ended.out) == (0, True, True)


def test_run_ends_with_where_it_is(tmp_path: Path) -> None:
    """Exit code 0, progress on standard error, one line on standard output."""
    ended = wmtp_train(tmp_path / "run")
    assert (ended.code, ended.out) == (
        0, f"done: {tmp_path}/run (metrics.jsonl, value_head.ckpt, best.ckpt, final.ckpt)\n",
    )  # fmt: skip
    assert "stage2 4/4" in ended.err
    assert said(ended) == []


def test_control_group_says_what_it_wrote(tmp_path: Path) -> None:
    """There is no value head to name."""
    ended = wmtp_train(tmp_path / "run", "--set", "loss.weighting=uniform")
    assert ended.out == f"done: {tmp_path}/run (metrics.jsonl, best.ckpt, final.ckpt)\n"


def test_config_and_recipe_come_from_files(tmp_path: Path) -> None:
    """The original split: where and what."""
    config, recipe = (tmp_path / name for name in ("c.yaml", "r.yaml"))
    where, what = settings(tmp_path / "run", "run.name=mine")
    config.write_text(where.model_dump_json())
    recipe.write_text(what.model_dump_json())
    ended = wmtp("train", "--config", str(config), "--recipe", str(recipe), "--dry-run")
    assert (ended.code, json.loads(ended.out)["stages"]) == (0, ["warmup", "stage1", "stage2"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "r.yaml"]


def test_verbose_run_says_every_step(tmp_path: Path) -> None:
    """A line a step where there is no terminal."""
    ended = wmtp_train(tmp_path / "run", "--verbose", "--set", "train.max_steps=25")
    assert sum(line.startswith("stage2 ") for line in ended.err.splitlines()) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "trian.horizon=3"), "--set trian.horizon=3: no key 'trian.horizon'; did you mean 'train.horizon'?"),
        (("--set", "loss.weight_temperature=0"), "embedded: loss.weight_temperature is 0: expected greater than 0"),
        (("--set", "train.horizon=0"), "embedded: train.horizon is 0: expected greater than or equal to 1"),
        (("--set", "data.max_length=1"), "embedded: data.max_length is 1: expected greater than or equal to 2"),
        (("--set", "data.path=none.jsonl"), "none.jsonl: no such file"),
        (("--set", "data.tokenizer=byte"),
         "data.tokenizer: 'byte' is neither 'bytes' nor a folder with a Hugging Face tokenizer; did you mean 'bytes'?"),
        (("--set", "model.hf=none"), "model.hf: 'none' is no folder with a Hugging Face model"),
        (("--set", "critic.reward=model"),
         "critic.reward is 'model': needs paths.reward_model, a reward model's file or folder"),
        (("--set", "pretrain.trunk_steps=0"),
         "critic.reward is 'reference': needs paths.reference, or pretrain.trunk_steps above 0"),
        (("--set", "paths.reference=no.ckpt"), "no.ckpt: could not be read: No such file or directory"),
        (("--set", "paths.value_head=no.ckpt"), "no.ckpt: could not be read: No such file or directory"),
        (("--recipe", "r.yaml"), "r.yaml: No such file or directory"),
        (("--config", "no.yaml"), "no.yaml: No such file or directory"),
        (("--resume", "nowhere"),
         "--resume nowhere: no checkpoint there; expected a run's folder, with checkpoints/ in it"),
    ],
)  # fmt: skip
def test_mistake_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, nothing written, no traceback."""
    monkeypatch.chdir(tmp_path)
    refused(wmtp_train(tmp_path / "run", *arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path}: the file is empty; expected at least one row"),
        (
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n',
            "{path}:2: no field 'completion', expected a string",
        ),
        (b'{"prompt": "\xff", "completion": "b"}\n', "{path}:1: not UTF-8: byte 0xff at offset 12"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp', "{path}:2: not JSON at column 17: Unterminated"),
        (b'{"prompt": "a", "completion": "b"}\n', "1 task(s) cannot be split"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    """File and line are named, and no folder is made."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    ended = wmtp_train(tmp_path / "run", "--set", f"data.path={path}")
    (line,) = said(ended)
    assert (ended.code, line.startswith(f"wmtp: {message.format(path=path)}")) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "word"), [(("--recpie", "x"), "--recipe"), (("--recipe",), "requires an argument")]
)
def test_option_that_is_wrong_is_an_error_of_use(arguments: tuple[str, ...], word: str, tmp_path: Path) -> None:
    """Exit code 2 with the nearest option."""
    ended = wmtp_train(tmp_path / "run", *arguments)
    assert (ended.code, word in ended.err, "Traceback" in ended.err) == (2, True, False)


def test_verbose_mistake_shows_where_it_was_found(tmp_path: Path) -> None:
    """The traceback, then the line, and the same exit code."""
    ended = wmtp_train(tmp_path / "run", "--verbose", "--set", "train.horizon=0")
    assert (ended.code, "Traceback" in ended.err) == (2, True)
    assert ended.err.splitlines()[-1] == "wmtp: embedded: train.horizon is 0: expected greater than or equal to 1"


def damaged(whole: bytes) -> bytes:
    return whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole, _: whole[:-10], "truncated or overlong: holds "),
        (lambda whole, _: damaged(whole), "damaged: its content does not match its checksum"),
        (
            lambda whole, made: signed(pickled({"kind": "run", "config": Bomb(made)})),
            "refused: holds more than tensors",
        ),
        (lambda whole, made: signed(pickle.dumps(Bomb(made), protocol=4)), "refused: holds more than tensors"),
        (lambda whole, _: signed(pickled({"kind": "value head"})), "holds a 'value head', expected a 'run'"),
        (lambda whole, _: signed(pickled({"kind": "run"})), "lacks 'config', 'recipe'"),
        (lambda whole, _: b"", "not a checkpoint of wmtp"),
    ],
)
def test_checkpoint_that_is_damaged_is_one_line(
    change: Callable[[bytes, str], bytes], message: str, tmp_path: Path
) -> None:
    """Truncated, tampered, a pickle bomb, another kind, half of one: named by its file, and the folder is unchanged."""
    folder, made = tmp_path / "run", tmp_path / "made"
    wmtp_train(folder)
    path = find_checkpoint(folder)
    path.write_bytes(change(path.read_bytes(), str(made)))
    before = files_of(folder)
    ended = wmtp("train", "--resume", str(folder))
    (line,) = said(ended)
    assert (ended.code, line.startswith(f"wmtp: {path}: {message}")) == (2, True)
    assert (files_of(folder) == before, made.exists()) == (True, False)


def test_checkpoint_without_settings_is_one_line(tmp_path: Path) -> None:
    """Of the right kind, but nothing that a run has saved."""
    path = tmp_path / "run" / "checkpoints" / "stage2-00000001.ckpt"
    for config in ("no json", "3"):
        checkpoint.save(path, {"kind": "run", "config": config, "recipe": "{}"})
        refused(wmtp("train", "--resume", str(path)), "the checkpoint that is resumed holds no settings of a run")


def test_trackers_see_the_run(tmp_path: Path) -> None:
    """TensorBoard's events lie in the run's folder, where it is installed."""
    pytest.importorskip("tensorboard", reason="needs the extra gradgate[tracking]")
    assert wmtp_train(tmp_path / "run", "--set", "tracking.tensorboard=true").code == 0
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) == 1


def test_checkpoint_of_another_shape_is_one_line(tmp_path: Path) -> None:
    """A resumed run keeps its own settings; with others it is refused by the first key that differs."""
    folder = tmp_path / "run"
    wmtp_train(folder)
    ended = wmtp("train", "--resume", str(folder), "--set", "model.width=32")
    (line,) = said(ended)
    assert (ended.code, "was written with model.width = 16, now it is 32; a resumed run may change" in line) == (
        2,
        True,
    )


def test_value_head_of_another_shape_is_one_line(tmp_path: Path) -> None:
    """The first tensor that does not fit is named with both shapes, before anything is trained."""
    path = tmp_path / "v.ckpt"
    save_value_head(path, small_trainer("model.width=32").model)
    ended = wmtp_train(tmp_path / "run", "--set", f"paths.value_head={path}")
    refused(ended, f"{path}: value head: 'inner.weight' has shape [16, 32], this model's has [8, 16]")
    assert not (tmp_path / "run").exists()


def test_run_is_refused_where_one_is(tmp_path: Path) -> None:
    """The message says how to go on."""
    folder = tmp_path / "run"
    wmtp_train(folder)
    before = files_of(folder)
    refused(
        wmtp_train(folder),
        f"paths.output: {folder} already holds a run; go on with --resume {folder}, or choose another run.name",
    )
    assert files_of(folder) == before


@pytest.mark.parametrize("option", ["paths.output", "--profile"])
def test_folder_is_refused_where_a_file_is(option: str, tmp_path: Path) -> None:
    """Before any work is done."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run" if option == "paths.output" else tmp_path / "run"
    profile = () if option == "paths.output" else ("--profile", f"{tmp_path}/file/run")
    refused(
        wmtp_train(folder, *profile),
        f"{option}: {tmp_path}/file/run: {tmp_path}/file is a file, expected a folder",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("limit", [150, 3_000, 60_000])
def test_full_disk_is_one_line_and_leaves_whole_files(limit: int, tmp_path: Path) -> None:
    """In metrics or in a checkpoint: what is there can be read, and the run can go on once there is room."""
    folder = tmp_path / "run"
    with file_limit(limit):
        ended = wmtp_train(folder)
    (line,) = said(ended)
    assert (ended.code, bool(re.search(r"could not be written: (File too large|No space left on device)$", line))) == (
        2,
        True,
    )
    assert len(metrics_of(folder)) == len((folder / "metrics.jsonl").read_bytes().splitlines())
    assert [path.name for path in folder.rglob("*.tmp")] == []
    for path in folder.rglob("*.ckpt"):
        checkpoint.load(path)
    again = ("train", "--resume", str(folder)) if list(folder.rglob("checkpoints/*.ckpt")) else ()
    assert (wmtp(*again) if again else wmtp_train(folder)).code == 0


def test_error_of_the_system_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody foresaw names its file too."""

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", "/dev/odd")

    monkeypatch.setattr(WarmUp, "advance", broken)
    refused(wmtp_train(tmp_path / "run"), "/dev/odd: Input/output error")


@pytest.mark.parametrize("override", ["train.horizon=100000000", "model.width=80000000"])
def test_model_that_does_not_fit_is_one_line(override: str, tmp_path: Path) -> None:
    """The allocator's error is a user's mistake too, and says how much was asked for."""
    ended = wmtp_train(tmp_path / "run", "--set", override)
    (line,) = said(ended)
    expected = r"wmtp: out of memory \(tried to allocate \d+ bytes\): make model, horizon, rows or batch smaller"
    assert (ended.code, bool(re.fullmatch(expected, line)), (tmp_path / "run").exists()) == (2, True, False)


def test_other_errors_of_the_runtime_are_bugs_and_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a user can cause becomes one line."""
    monkeypatch.setattr(WarmUp, "advance", lambda *_: (_ for _ in ()).throw(RuntimeError("odd")))
    with pytest.raises(RuntimeError, match="odd"):
        wmtp_train(tmp_path / "run")


def test_full_standard_error_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be told, but a script still sees the 2."""
    monkeypatch.setattr(
        cli.click, "echo", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert wmtp("train", "--set", "train.horizon=0").code == 2


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["recipes"], ["train", "--set", "train.horizon=0"]])
def test_torch_is_not_imported_for_help_and_mistakes(words: list[str]) -> None:
    """They are there at once; torch costs seconds."""
    code = "import sys, wmtp.cli as c\ntry: c.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_function_is_there(name: str) -> None:
    """What `__all__` promises can be had, and an unknown name is an error like any other."""
    assert (callable(getattr(package, name)), name in dir(package)) == (True, True)
    with pytest.raises(AttributeError, match="module 'wmtp' has no attribute 'make_label'"):
        package.make_label  # noqa: B018 - the access is the test


@pytest.mark.parametrize(("stage", "step"), [(WarmUp, 1), (Stage1, 3), (Stage2, 2)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_is_saved_and_goes_on(
    stage: type, step: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and SIGTERM: exit code 130, a line that says how to go on, and the same result in the end."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    wmtp_train(whole)
    evaluate = stage.advance
    calls: list[int] = []

    def asked(self: Stage1, position: int) -> object:
        calls.append(1)
        if isinstance(self, stage) and len(calls) == step:
            signal.raise_signal(number)
        return evaluate(self, position)

    monkeypatch.setattr(stage, "advance", asked)
    ended = wmtp_train(folder)
    monkeypatch.undo()
    name = {WarmUp: "warmup", Stage1: "stage1", Stage2: "stage2"}[stage]
    assert (ended.code, said(ended)) == (
        130, [f"stopped at {name} step {step}; the run is saved: wmtp train --resume {folder}"],
    )  # fmt: skip
    assert wmtp("train", "--resume", str(folder)).code == 0
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (folder / "final.ckpt").read_bytes() == (whole / "final.ckpt").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_before_training_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While programs are run for their rewards: exit code 130, and no folder; also in a script's background job, where
    the signal was ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr(known, "verifiable_rewards", lambda *_, **__: signal.raise_signal(number))
    ended = wmtp_train(tmp_path / "run", "--set", "critic.reward=verifiable")
    found = signal.signal(number, before)
    assert (ended.code, len(said(ended))) == (130, 1)
    assert said(ended)[0].startswith("stopped; a checkpoint, where there is one, is whole")
    assert (list(tmp_path.iterdir()), found) == ([], signal.SIG_IGN)


def test_loss_that_is_not_finite_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage, step and the first tensor are named; the run stands at its last checkpoint."""
    monkeypatch.setattr(known, "reference_rewards", lambda _m, batches, _d: reward_of_nan(len(list(batches))))
    refused(wmtp_train(tmp_path / "run"), "stage1 step 1: the loss is nan; first non-finite: reward_BS")
    assert find_checkpoint(tmp_path / "run").name == "warmup-00000002.ckpt"


def reward_of_nan(batches: int) -> torch.Tensor:
    return torch.full((12,), float("nan") if batches else 0.0)


def test_profile_is_written_for_each_stage(tmp_path: Path) -> None:
    """`--profile DIR` leaves traces that chrome://tracing reads, named by their stage."""
    ended = wmtp_train(tmp_path / "run", "--profile", str(tmp_path / "profile"))
    traces = sorted((tmp_path / "profile").iterdir())
    assert (ended.code, {trace.name for trace in traces}) == (0, {f"{name}.trace.json" for name in STAGES})
    assert all("traceEvents" in json.loads(trace.read_text()) for trace in traces)


def test_entry_point_is_python_m_wmtp() -> None:
    """`python -m wmtp` is `wmtp`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(cli.sys, "argv", ["wmtp", "recipes"])
        runpy.run_module("wmtp", run_name="__main__")
    assert ended.value.code == 0
