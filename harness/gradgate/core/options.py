"""Option: the one table behind command-line flags, ini keys and their documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from gradgate.core.errors import GradgateError, nearest

Profile = Literal["quick", "pr", "nightly"]
PROFILES: tuple[str, ...] = get_args(Profile)
MAX_SEED = 2**32 - 1  # numpy's generators take no larger seed


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a run.

    Args:
        name: as `gradgate verify --NAME` has it.
        default: where neither the command line nor the ini file says otherwise.
        help: one sentence.
        choices: the valid words; empty where any will do.
    """

    name: str
    default: str | int
    help: str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """pytest's flag."""
        return f"--gradgate-{self.name}"

    @property
    def ini(self) -> str:
        """pytest's ini key."""
        return f"gradgate_{self.name}"

    def parse(self, given: str | int, source: str) -> str | int:
        """Read a value.

        Args:
            given: what the user wrote.
            source: the flag or ini key it comes from, for the message.

        Returns:
            The value in the default's type.

        Raises:
            GradgateError: it is none of the choices, or not a seed.
        """
        if isinstance(self.default, int):
            if not str(given).isdecimal() or int(given) > MAX_SEED:
                raise GradgateError(f"{source}: expected an integer from 0 to {MAX_SEED}, got {given!r}")
            return int(given)
        if self.choices and given not in self.choices:
            hint = nearest(str(given), self.choices)
            raise GradgateError(f"{source}: expected one of {', '.join(self.choices)}, got {given!r}{hint}")
        return str(given)

    def resolve(self, flag: str | int | None, ini: str | None) -> str | int:
        """The command line first, then the ini file, then the table.

        Args:
            flag: the flag's value; None where it was not given.
            ini: the ini key's value; None or empty where it was not given.

        Returns:
            The value that holds.

        Raises:
            GradgateError: the value that holds is not valid.
        """
        if flag is not None:
            return self.parse(flag, self.flag)
        return self.parse(ini, self.ini) if ini else self.default


PROFILE = Option(
    "profile", "quick", "how much work a check may do: quick (minutes), pr, or nightly (long suites)", PROFILES
)
SEED = Option("seed", 0, "every random choice derives from it")
DEVICE = Option("device", "cpu", "where the subject's runs are started: cpu, cuda, or cuda:N")
OPTIONS = (PROFILE, SEED, DEVICE)


def as_profile(name: str) -> Profile:
    """A profile by its name.

    Raises:
        GradgateError: there is no such profile.
    """
    return cast("Profile", PROFILE.parse(name, "profile"))


def as_markdown() -> str:
    """The table of options, for the documentation."""
    rows = [
        f"| `--{option.name}` | `{option.flag}` | `{option.ini}` | `{option.default}` | {option.help} |"
        for option in OPTIONS
    ]
    head = ["| gradgate verify | pytest | ini key | default | |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])
