"""Where a trainer's source drops units at random, for the checks that ask whether two passes differ."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.trainer import calls_in, dotted

DROPS = re.compile(r"(^|\.)(\w*Dropout\d?d?|DropPath|StochasticDepth)$")
DROPS_NOW = re.compile(r"^(F|torch|(torch\.)?nn\.functional)\.\w*dropout\w*$")  # first what it drops of
DROPS_BY_DEFAULT = re.compile(r"(^|\.)Transformer((En|De)coderLayer)?$")
RATE = re.compile(r"dropout|drop_path|drop_rate|pdrop")


def drops(tree: ast.AST, zero: frozenset[str] = frozenset()) -> bool:
    """Whether dropout stands somewhere with a rate that is not 0.

    Args:
        tree: to be looked at.
        zero: names of rates that are 0.
    """
    for call in calls_in(tree):
        name, words = dotted(call.func), {word.arg: word.value for word in call.keywords if word.arg}
        rates = [value for word, value in words.items() if RATE.search(word)]
        if DROPS.search(name) or DROPS_NOW.search(name):
            given = [words["p"]] if "p" in words else call.args[1:2] if DROPS_NOW.search(name) else call.args[:1]
            rates += given or [call.func]
        elif DROPS_BY_DEFAULT.search(name) and not rates:
            return True
        for rate in rates:
            none = isinstance(rate, ast.Constant) and not rate.value
            if not none and dotted(rate).rpartition(".")[2] not in zero:
                return True
    return False
