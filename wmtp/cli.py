"""The command line: `wmtp train`. Everything heavy is imported once it is needed."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wmtp.errors import WmtpError

if TYPE_CHECKING:
    from wmtp.settings import Config, Recipe

RESULTS = ("metrics.jsonl", "value_head.ckpt", "best.ckpt", "final.ckpt")
EXAMPLES = """\b
Examples:
  wmtp train                                        the embedded corpus, both stages, in seconds
  wmtp train --recipe mbpp_cpu --set data.path=mbpp.jsonl
  wmtp train --config mine.yaml --recipe my.yaml --dry-run
  wmtp train --resume runs/embedded                 go on where a run was stopped or killed
  wmtp train --set train.max_steps=50 --set critic.gamma=0.98
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradgate", prog_name="wmtp")
def cli() -> None:
    """Critic-WMTP: multi-token prediction whose heads are weighted by a value head, trained in two stages."""


@cli.command(epilog=EXAMPLES)
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="C.yaml",
              help="Where: seed, device, precision, paths, checkpoints. Default: all defaults.")  # fmt: skip
@click.option("--recipe", "recipe_path", metavar="R.yaml|NAME",
              help="What: data, model, both stages. A file or a ready recipe. Default: embedded.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of either; repeatable.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR",
              help="Go on in a run's folder, from its newest checkpoint or from one of its files.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Build everything, run one forward and backward, write nothing.")
@click.option("--profile", "profile_to", type=click.Path(path_type=Path), metavar="DIR",
              help="Write a torch.profiler trace of each stage's first steps there.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="A line for every step where there is no terminal; full tracebacks.")
def train(
    config_path: Path | None,
    recipe_path: str | None,
    overrides: tuple[str, ...],
    resume: Path | None,
    dry_run: bool,
    profile_to: Path | None,
    verbose: bool,
) -> None:
    """Train both stages: warm the trunk up, pretrain the value head, train the whole.

    Writes metrics.jsonl, value_head.ckpt, best.ckpt, final.ckpt and checkpoints/ into the run's folder
    (paths.output, runs/NAME by default).
    """
    resume = resume or _interrupted(config_path, recipe_path, overrides)
    checkpoint_path, config, recipe = _settings(config_path, recipe_path, overrides, resume)
    from rich.console import Console

    from wmtp.loop import StoppedError
    from wmtp.progress import Report
    from wmtp.train import dry_run as run_dry
    from wmtp.train import train as run_train

    report = Report(Console(stderr=True), verbose=verbose)
    if dry_run:
        numbers = run_dry(config, recipe, report)
        if _leads():
            click.echo(json.dumps(numbers))
        return
    folder = recipe.output_folder(config)
    try:
        run_train(config, recipe, report, resume=checkpoint_path, profile_to=profile_to)
    except StoppedError as stopped:
        if _leads():
            click.echo(f"stopped at {stopped}; the run is saved: wmtp train --resume {folder}", err=True)
        sys.exit(130)
    if not _leads():
        return
    written = [name for name in RESULTS if (folder / name).exists()]
    click.echo(f"done: {folder} ({', '.join(written)})")


@cli.command()
def recipes() -> None:
    """List the ready recipes and where they are, to copy and change."""
    from wmtp.loading import ready_recipes

    for name, path in ready_recipes().items():
        first = path.read_text().splitlines()[0].lstrip("# ")
        click.echo(f"{name:12} {first}\n{'':12} {path}")


def _leads() -> bool:
    """Whether this is the process that speaks, among those of torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _interrupted(config_path: Path | None, recipe_path: str | None, overrides: tuple[str, ...]) -> Path | None:
    """The run's own folder where torchrun has started the job again, and a checkpoint is there to go on from."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    from wmtp.loading import load_settings

    config, recipe = load_settings(config_path, recipe_path, overrides)
    folder = recipe.output_folder(config)
    return folder if any((folder / "checkpoints").glob("*-*.ckpt")) else None


def _settings(
    config_path: Path | None, recipe_path: str | None, overrides: tuple[str, ...], resume: Path | None
) -> tuple[Path | None, Config, Recipe]:
    """The checkpoint to resume, if any, and the settings: from files and overrides, else those of the resumed run."""
    from wmtp.loading import load_settings

    if resume is None:
        return None, *load_settings(config_path, recipe_path, overrides)
    from wmtp import checkpoint
    from wmtp.resume import RUN_KIND, at_home, find_checkpoint

    path = find_checkpoint(resume)
    state = checkpoint.load(path)
    checkpoint.require_kind(path, state, RUN_KIND, ("config", "recipe"))
    config, recipe = load_settings(config_path, recipe_path, overrides, saved=(state["config"], state["recipe"]))
    return path, at_home(config, path), recipe


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2; Ctrl-C and SIGTERM are 130."""
    with _signals_as_interrupts():
        try:
            code = cli.main(prog_name="wmtp", standalone_mode=False)
        except WmtpError as error:
            code = _fail(str(error))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            code = _fail(f"{place}{error.strerror or error}")
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("stopped; a checkpoint, where there is one, is whole: see wmtp train --resume", err=True)
            code = 130
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            tried = str(error).partition("you tried to ")[2].partition(".")[0]
            code = _fail(f"out of memory{tried and f' (tried to {tried})'}: make model, horizon, rows or batch smaller")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> int:
    if "--verbose" in sys.argv:
        traceback.print_exc()
    rank = f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""
    if message:  # none where the leading process has told it
        with suppress(OSError):  # standard error itself may be full
            click.echo(f"wmtp: {rank}{message}", err=True)
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own error, CUDA's, and the plain RuntimeError of torch's allocator for the CPU."""
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Outside the training loop, which has its own way, SIGTERM cleans up as Ctrl-C does; and Ctrl-C works in a job
    that a shell script started in the background, with the signal ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
