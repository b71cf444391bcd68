"""The adapter that `gradgate init` writes for several targets: a stage each, filled in as far as the source tells."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from typing import Any

from gradgate.commands.methods import Methods
from gradgate.commands.program_lines import program_lines
from gradgate.commands.stage_text import Part, Target

HEAD = """{paths}import torch

import gradgate
{imports}
{constants}"""
SUBJECT = """

def subject():
    return gradgate.Subject(
        name="{name}",
        stages=[
{stages}
        ],
{source}{program}    )
"""


def text_of(targets: list[Target], name: str) -> str:
    """The adapter, without its head."""
    parts = _apart(list(map(_part, enumerate(chain.from_iterable(map(resolved, targets)), 1))))
    paths = "\n".join(
        sorted({line for part in parts for line in part.paths}, key=lambda line: (line.startswith("from"), line))
    )
    constants = {line.partition(" = ")[0]: line for part in parts for line in part.constants}
    head = HEAD.format(
        paths=f"{paths}\n\n" if paths else "",
        imports="\n".join(dict.fromkeys(line for part in parts for line in part.imports)),
        constants="".join(f"\n{line}" for line in constants.values()) + "\n" * bool(constants),
    )
    stages = "\n".join(part.stage for part in parts)
    source = "        source=ROOT,\n" if "ROOT" in constants else ""
    return (
        head
        + "".join(part.text for part in parts)
        + SUBJECT.format(name=name, stages=stages, source=source, program=program_lines(targets))
    )


def _apart(parts: list[Part]) -> list[Part]:
    """The parts, of which a later one with another configuration than the first has one of another name."""
    first = next((part.constants[-2:] for part in parts if part.constants), ())
    found = []
    for number, part in enumerate(parts, 1):
        if part.constants[-2:] not in ((), first):
            rename = partial(re.sub, r"\b(CONFIG|SMALL)\b", rf"\g<1>_{number}")
            constants = tuple(map(rename, part.constants))
            part = replace(part, text=rename(part.text), stage=rename(part.stage), constants=constants)
        found.append(part)
    return found


def resolved(target: Target) -> list[Target]:
    """The methods that train, for a class, or for a method that calls them; else the target itself."""
    kind = _kind(target)
    if kind is None:
        return [target]
    methods, wanted = Methods(kind), "" if inspect.isclass(target.function) else target.name.rpartition(".")[2]
    owner = target.owner if wanted else target.name
    found = methods.stages(wanted)
    return [Target(target.module, f"{owner}.{name}", getattr(kind, name)) for name in found] or [target]


def _kind(target: Target) -> Any:
    """The class that a target is, or whose method it is; None: a function."""
    name = target.name if inspect.isclass(target.function) else target.owner
    return reduce(getattr, name.split("."), sys.modules[target.module]) if name else None


def _part(numbered: tuple[int, Target]) -> Part:
    number, target = numbered
    if target.owner:
        from gradgate.commands.owned_stage import owned_part

        return owned_part(number, target, Methods(_kind(target)))
    from gradgate.commands.function_stage import function_part

    return function_part(number, target)
