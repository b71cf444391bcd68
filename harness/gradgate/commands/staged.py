"""The adapter that `gradgate init` writes for several targets: a stage each, filled in as far as the source tells."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from typing import Any

from gradgate.commands.backwards import (
    CLIPPING,
    HELD,
    begun,
    calls_in,
    last,
    loop_of,
    names_of,
    optimizers_of,
    parsed,
    receivers_in,
    schedule_question,
    terms_of,
)
from gradgate.commands.methods import Methods
from gradgate.commands.rewriting import import_of
from gradgate.commands.stage_text import BATCHES, LOSS, STAGE, Part, Target

HEAD = """{paths}import torch

import gradgate
{imports}
{constants}"""
STEP = """
    def step(self, batch):
        return {call}(batch)
"""
SUBJECT = """

def subject():
    return gradgate.Subject(
        name="{name}",
        stages=[
{stages}
        ],
{source}    )
"""
ENDLESS = ("epoch", "step", "iter")
NOT_MOVED = (*ENDLESS, "seed", "batch", "worker", "log", "save", "eval", "size", "length", "len")


def text_of(targets: list[Target], name: str) -> str:
    """The adapter, without its head."""
    parts = _apart(list(map(_part, enumerate(chain.from_iterable(map(resolved, targets)), 1))))
    paths = "\n".join(sorted({line for part in parts for line in part.paths}))
    constants = {line.partition(" = ")[0]: line for part in parts for line in part.constants}
    head = HEAD.format(
        paths=f"{paths}\n\n" if paths else "",
        imports="\n".join(dict.fromkeys(line for part in parts for line in part.imports)),
        constants="".join(f"\n{line}" for line in constants.values()) + "\n" * bool(constants),
    )
    stages = "\n".join(part.stage for part in parts)
    source = "        source=ROOT,\n" if "ROOT" in constants else ""
    return head + "".join(part.text for part in parts) + SUBJECT.format(name=name, stages=stages, source=source)


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
    text, stage = _stage(numbered)
    return Part(text, stage, imports=(import_of(target.module),))


def _stage(numbered: tuple[int, Target]) -> tuple[str, str]:
    from gradgate.commands.own_loaders import loader_class

    number, target = numbered
    node = parsed(target.function) or ast.parse(f"def {target.name.rpartition('.')[2]}(): ...").body[0]
    assert isinstance(node, ast.FunctionDef)  # noqa: S101 - `parsed` gives no other, nor does the line above
    loop, title = loop_of(node), f"Stage{number}"
    own = loader_class(target.module, target.alias, node, loop.iter) if loop is not None else None
    held = (lambda name: f'self.local("{name}")') if loop is not None else (lambda _: "...")
    modules = {name.rpartition(".")[2]: held(name) for name in _modules(node)}
    where = ", ".join(f'"{name}": {found}' for name, found in modules.items())
    rates = ", ".join(f'"{name}": 1e-2' for name in modules)
    norms = [ast.unparse(call.args[1]) for call in calls_in(node) if last(call) == CLIPPING and len(call.args) > 1]
    attributes = [f"    max_norm = 1.0  # REPLACE: {norms[0]}, as configured\n"] if norms else []
    attributes.append(f"    rates = {{{rates}}}  # REPLACE: as configured; each `...`, too\n")
    attributes.append(
        "    # end_token, max_length = 2, 512  # the token that ends a row, and where rows are cut (GG413)\n"
    )
    attributes += [f"    {line}\n" for line in schedule_question(node)]
    losses = [term for term in terms_of(node) if LOSS.search(term)]
    text = STAGE.format(
        title=title,
        base="OwnLoop" if loop is not None else "StepLosses",
        target=f"{target.module}.{target.name}",
        terms=", ".join(f'"{term}": "{term}"' for term in losses),
        attributes="".join(attributes),
        build="\n".join(f"        {line}" for line in _build(target, node, loop, own)),
        modules=where,
        optimizers=", ".join(map(held, optimizers_of(node))),
        step="" if loop is not None else STEP.format(call=f"{target.alias}.{target.name}"),
        batches="" if own else BATCHES,
        behind="",
        more="",
    )
    options = ", ".join(f'"{key}": {values}' for key, values in _options(target))
    name = target.alias if target.name == "main" else target.name.lower()
    return text, f'            gradgate.Stage("{name}", {title}, options={{{options}}}),'


def _build(target: Target, node: ast.FunctionDef, loop: ast.For | None, own: str | None) -> Iterator[str]:
    """What lets the loop begin."""
    if own is None:
        yield "self.seed = seed"
    if loop is None:
        return
    arguments = []
    for argument in node.args.args[: len(node.args.args) - len(node.args.defaults)]:
        if argument.arg == "device" or argument.arg in names_of(loop.iter):
            arguments.append("device" if argument.arg == "device" else "loader")
        else:
            yield f"{argument.arg} = ...  # REPLACE: small"
            arguments.append(argument.arg)
    extra = f", loader_in={target.alias}" if "loader" not in arguments and "DataLoader" in ast.unparse(node) else ""
    extra = f", loader_class={own}" if own else extra
    if any(last(call) == "parse_args" for call in calls_in(node)) or _parses(target):
        yield f'argv = [{", ".join(_endless(target))}, "--seed", str(seed)]  # and what else your command line needs'
        yield 'argv += [word for key, value in (options or {}).items() for word in (f"--{key}", str(value))]'
        extra += ", argv=argv"
    yield from begun(loop, f"{target.alias}.{target.name}({', '.join(arguments)})", own, extra)


def _modules(node: ast.FunctionDef) -> list[str]:
    """What has its parameters trained, by the names that the function has for it."""
    found = map(ast.unparse, receivers_in(node, *HELD))
    return [name for name in dict.fromkeys(found) if name.replace(".", "").isidentifier()]


def _parses(target: Target) -> bool:
    return bool(list(_arguments(target)))


def _arguments(target: Target) -> Iterator[tuple[str, Any]]:
    """The command-line arguments of the target's file with a number for a default."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[target.module]))
    except (OSError, TypeError, SyntaxError):
        return
    for call in calls_in(tree):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        default = given.get("default")
        if last(call) == "add_argument" and call.args and isinstance(default, ast.Constant):
            name = str(ast.literal_eval(call.args[-1])).lstrip("-")
            if isinstance(default.value, int | float) and not isinstance(default.value, bool):
                yield name, default.value


def _endless(target: Target) -> list[str]:
    """Words that let the loop go on for longer than checks do."""
    return [f'"--{name}", "1000000"' for name, _ in _arguments(target) if any(word in name for word in ENDLESS)]


def _options(target: Target) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Arguments to move, each with its default and another number."""
    for name, value in _arguments(target):
        if not any(word in name for word in NOT_MOVED):
            yield name, (value, value / 2 if isinstance(value, float) and value else value + 1)
