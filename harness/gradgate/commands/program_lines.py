"""The trainer's command, as an adapter launches it: found beside what trains, its words read off its arguments."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gradgate.commands.command_line import Argument, declared_arguments
from gradgate.commands.stage_text import Target

TRAINS = re.compile(r"train|main|run|cli|launch")
WORDS = {
    "config": ("config", "cfg", "conf"),
    "folder": ("out", "output", "out_dir", "output_dir", "run_dir", "workdir", "save_dir", "log_dir", "dir", "folder"),
    "resume": ("resume", "continue", "resume_from"),
    "setting": ("set", "override", "overrides", "opt", "opts"),
    "seed": ("seed",),
}
TEXT = """\
        # The whole program, as its users start it ("The whole program" in docs/adapters.md); all of it into {{folder}}:
        # program=gradgate.Program(
        #     gradgate.command({entries}, arguments="{arguments}"{resume}, setting="{setting}"),
        #     watching={{"eval_every": (5, 3), "save_every": (5, 7)}}, options={{"lr": (1e-3, 3e-3)}}, seed="seed",
        # ),
"""


def program_lines(targets: Iterable[Target]) -> str:
    """Comments that show how to launch the program; empty where no file of the trainer's is started as one."""
    files = [file for target in targets for file in _beside(target.module)]
    started = {name: tree for name, file in dict(files).items() if (tree := _started(file)) is not None}
    if not started:
        return ""
    trains = [name for name in started if TRAINS.search(name.removesuffix(".py").rpartition(".")[2].lower())]
    started = {name: started[name] for name in trains or started}
    arguments = [each for tree in started.values() for each in declared_arguments(tree)]
    found = {part: _argument(arguments, words) for part, words in WORDS.items()}
    config, folder, resume, setting = (found[part] for part in ("config", "folder", "resume", "setting"))
    words = [f"{config.flag} ..."] if config else []
    words += [f"{folder.flag} {{folder}}"] if folder else []
    way = f"{setting.flag} {{key}}={{value}}" if setting else "--{key}={value}"
    words += [] if folder else [way.format(key="out_dir", value="{folder}")]
    again = f', resume="{resume.flag}{" ..." if resume.takes else ""}"' if resume else ""
    entries = ", ".join(f'"{name}"' for name in started)
    return TEXT.format(entries=entries, arguments=" ".join(words), resume=again, setting=way)


def _beside(module: str) -> Iterator[tuple[str, Path]]:
    """The files of a module's package, or of its folder where it is in none, each by what starts it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return
    package = module.rpartition(".")[0]
    for each in sorted(Path(file).parent.glob("*.py")):
        yield f"{package}.{each.stem}" if package else each.name, each


def _started(file: Path) -> ast.Module | None:
    """A file's tree, where it is one that is started."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    asks = (node.test for node in tree.body if isinstance(node, ast.If))
    return tree if any("__name__" in ast.unparse(test) for test in asks) else None


def _argument(arguments: list[Argument], words: tuple[str, ...]) -> Argument | None:
    return next((each for word in words for each in arguments if each.flag.lstrip("-").replace("-", "_") == word), None)
