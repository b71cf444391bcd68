"""Program: a trainer as its users start it, from its configuration to its last file; and command, which starts one.

What a stage's runs cannot show stands between them: which checkpoint a resume takes, what a finished stage does when it
is started again, what a log has behind an interruption. This module imports no torch.
"""

from __future__ import annotations

import inspect
import runpy
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgate.core.main_program import as_main

Launch = Callable[[Path, Mapping[str, Any], bool], Any]
Started = str | Callable[..., Any]
Entry = Started | tuple[Started, str]


@dataclass(frozen=True, eq=False)
class Program:
    """A trainer's whole program. It is started in a process of its own each time, and may be stopped at any update.

    Args:
        launch: `launch(folder, settings, resume)`: the program from its start to its end, all of its output under the
            folder, `settings` over its configuration, `resume` as its users ask for it; `gradgate.command` makes one.
            All stages, each of some ten to thirty updates with a checkpoint every few, in a second or two.
        watching: keys of settings that are to watch and not to train, how often it logs, evaluates and saves -> two or
            more values each, the configured one first.
        options: keys of settings that a resumed run may have changed -> two or more values each, the configured one
            first: rates, decay, coefficients, temperatures, sizes of batches.
        seed: the key of the seed; empty: it has none.
        equal: pairs of settings that are to make the same updates to rounding: one batch of 8 rows, and two
            micro-batches of 4 that are accumulated, for each stage.
        updates: steps of optimizers that the configuration asks for, all stages together; None: not declared.
        volatile: names of what is logged that two equal runs need not have alike, beside what they differ in.
    """

    launch: Launch
    watching: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    equal: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
    seed: str = ""
    updates: int | None = None
    volatile: Sequence[str] = ()


RESUME = "{resume}"


@dataclass(frozen=True)
class Command:
    """A command line as a `launch`: see `command`."""

    entries: tuple[Entry, ...]
    arguments: tuple[str, ...]
    resume: tuple[str, ...]
    setting: tuple[str, ...]

    def __call__(self, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
        """Run each entry as its own command line does, one after the other."""
        asked = self.resume if resume else ()
        at = self.arguments.index(RESUME) if RESUME in self.arguments else len(self.arguments)
        words = [word.format(folder=folder) for word in (*self.arguments[:at], *asked, *self.arguments[at + 1 :])]
        words += [word.format(key=key, value=_text(value)) for key, value in settings.items() for word in self.setting]
        for entry in self.entries:
            started, own = entry if isinstance(entry, tuple) else (entry, "")
            _run(started, [word.format(folder=folder) for word in shlex.split(own)] + words)

    @property
    def is_by_name(self) -> bool:
        """Whether all that it starts is named, and imported when it starts."""
        return all(isinstance(entry[0] if isinstance(entry, tuple) else entry, str) for entry in self.entries)


def command(*entries: Entry, arguments: str = "", resume: str = "", setting: str = "--{key}={value}") -> Command:
    """A `launch` of a `Program`, from the command line that starts the trainer.

    Args:
        entries: what is started, in turn: a module as `python -m` takes it, the path of a script, or a `main` that
            reads `sys.argv` or takes the list of words; with words of its own in front of the others where they differ,
            `("train_critic.py", "--out {folder}/critic")`.
        arguments: its words, as in a shell; `{folder}` is where everything goes. Those of `resume` stand
            where `{resume}` is a word of its own, or behind the others.
        resume: the words that ask for a resume; `{folder}` as above.
        setting: the words that set one key, of `{key}` and `{value}`: texts, whole numbers as they are, `true`, `false`
            and `null` in lower case.

    Raises:
        ValueError: no entry, or a setting without `{key}` and `{value}`.
    """
    if not entries:
        raise ValueError("command() got nothing to start, expected a module, a script or a main()")
    if "{key}" not in setting or "{value}" not in setting:
        raise ValueError(
            f"command(setting={setting!r}) lacks {{key}} or {{value}}, expected such as '--set {{key}}={{value}}'"
        )
    return Command(entries, *(tuple(shlex.split(words)) for words in (arguments, resume, setting)))


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)


def _run(entry: Started, words: list[str]) -> None:
    if not isinstance(entry, str):
        name = inspect.getsourcefile(entry) or "main"
        with as_main([name, *words]):
            takes = any(
                parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                for parameter in inspect.signature(entry).parameters.values()
            )
            entry(words) if takes else entry()
    elif entry.endswith(".py"):
        with as_main([entry, *words], str(Path(entry).resolve().parent)):
            runpy.run_path(entry, run_name="__main__")
    else:
        with as_main([entry, *words], str(Path.cwd())):
            runpy.run_module(entry, run_name="__main__", alter_sys=True)
