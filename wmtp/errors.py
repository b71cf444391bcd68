"""Errors that a user of the trainer can cause; the command line prints one line of them and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WmtpError(Exception):
    """A mistake in what the user gave: the message names the place, what was expected and the nearest choice."""


class ConfigError(WmtpError):
    """A key of the configuration is missing, unknown or has an impossible value."""


class DataError(WmtpError):
    """A data file, or a row of one, cannot be used."""


class CheckpointError(WmtpError):
    """A checkpoint is missing, damaged or does not belong to this run."""


class NonFiniteError(WmtpError):
    """A loss or a gradient is not finite: training stopped before the update was made."""


class ProcessError(WmtpError):
    """The processes of a job cannot meet, disagree, or have lost one."""


class FollowerError(WmtpError):
    """What the leading process has met and told; without a message, so that it is told once."""


class RewardError(WmtpError):
    """A reward cannot be computed: nothing to run, nothing to score, or the platform cannot run it safely."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no choice is near.

    Args:
        word: what the user wrote.
        choices: what would have been valid.

    Returns:
        A clause to append to a message, starting with a semicolon; empty without a near choice.
    """
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
