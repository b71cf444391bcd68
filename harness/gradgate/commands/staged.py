"""The adapter that `gradgate init` writes for several targets: a stage each, filled in as far as the source tells."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gradgate.commands.backwards import (
    CLIPPING,
    calls_in,
    last,
    loop_of,
    optimizers_of,
    parsed,
    schedule_question,
    terms_of,
)

HEAD = """import torch

import gradgate
{imports}
"""
STAGE = '''

class {title}(gradgate.TokenRows, gradgate.{base}):  # without TokenRows: select_rows, tokens, pad of your own
    """{target}"""

    # Call a critic's loss value_loss, that of weighted heads wmtp_loss: the name, then the local variable.
    terms = {{{terms}}}
{attributes}
    def __init__(self, seed, *, dtype=torch.float32, device="cpu", options=None):
        torch.manual_seed(seed)
{build}
        self.modules = {{{modules}}}
        self.optimizers = [{optimizers}]
{step}{batches}'''
BATCHES = """
    def batches(self):  # REPLACE: rows of tokens with a reward each to what your loop takes for a batch
        for rows in gradgate.toy_rows(self.seed):
            yield collate(rows)
"""
SUBJECT = """

def subject():
    return gradgate.Subject(
        name="{name}",
        stages=[
{stages}
        ],
    )
"""
LOSS = re.compile(r"loss|kl|entropy|nll|(^|_)(ce|mse|main|extra|aux)")
ENDLESS = ("epoch", "step", "iter")
NOT_MOVED = (*ENDLESS, "seed", "batch", "worker", "log", "save", "eval", "size", "length", "len")


@dataclass(frozen=True)
class Target:
    """One of the functions or methods that train.

    Args:
        module: where it is.
        name: its name there: `main`, `Trainer.fit`.
        function: what was loaded.
    """

    module: str
    name: str
    function: Any

    @property
    def alias(self) -> str:
        """What the adapter calls the module."""
        return self.module.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The class whose method it is; empty: a function."""
        return self.name.rpartition(".")[0]


def text_of(targets: list[Target], name: str) -> str:
    """The adapter, without its head."""
    parts = list(map(_stage, enumerate(targets, 1)))
    imports = "\n".join(dict.fromkeys(_import(target) for target in targets))
    stages = "\n".join(stage for _, stage in parts)
    return HEAD.format(imports=imports) + "".join(text for text, _ in parts) + SUBJECT.format(name=name, stages=stages)


def _import(target: Target) -> str:
    package = target.module.rpartition(".")[0]
    return f"from {package} import {target.alias}" if package else f"import {target.module}"


def _stage(numbered: tuple[int, Target]) -> tuple[str, str]:
    from gradgate.commands.own_loaders import loader_class

    number, target = numbered
    node = parsed(target.function) or ast.parse(f"def {target.name.rpartition('.')[2]}(): ...").body[0]
    assert isinstance(node, ast.FunctionDef)  # noqa: S101 - `parsed` gives no other, nor does the line above
    loop, title = loop_of(node), f"Stage{number}"
    own = loader_class(target.module, target.alias, node, loop.iter) if loop is not None else None
    modules = {name.rpartition(".")[2]: _found(name, loop is not None) for name in _modules(target, node)}
    where = ", ".join(f'"{name}": {found}' for name, found in modules.items())
    rates = ", ".join(f'"{name}": 1e-2' for name in modules)
    optimizers = optimizers_of(node) or _attributes(target, "optim")
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
        optimizers=", ".join(_found(name, loop is not None) for name in optimizers),
        step="" if loop is not None else f"\n    def step(self, batch):\n        return {_call(target)}(batch)\n",
        batches="" if own else BATCHES,
    )
    options = ", ".join(f'"{key}": {values}' for key, values in _options(target))
    name = target.alias if target.name == "main" else target.name.lower()
    return text, f'            gradgate.Stage("{name}", {title}, options={{{options}}}),'


def _call(target: Target) -> str:
    method = target.name.rpartition(".")[2]
    return f"self.trainer.{method}" if target.owner else f"{target.alias}.{method}"


def _build(target: Target, node: ast.FunctionDef, loop: ast.For | None, own: str | None) -> Iterator[str]:
    """What makes the trainer and lets its loop begin."""
    if own is None:
        yield "self.seed = seed"
    if target.owner:
        required = ", ".join(f"{name}=..." for name in _required(target))
        yield f"self.trainer = {target.alias}.{target.owner}({required})  # REPLACE: small"
    if loop is None:
        return
    over = f"`{ast.unparse(loop.iter)}`" + (", whose batches are the run's" if own else "")
    arguments = []
    for argument in node.args.args[: len(node.args.args) - len(node.args.defaults)]:
        if argument.arg == "self":
            continue
        if argument.arg == "device" or argument.arg in [n.id for n in ast.walk(loop.iter) if isinstance(n, ast.Name)]:
            arguments.append("device" if argument.arg == "device" else "loader")
        else:
            yield f"{argument.arg} = ...  # REPLACE: small"
            arguments.append(argument.arg)
    called = _call(target)
    extra = f", loader_in={target.alias}" if "loader" not in arguments and "DataLoader" in ast.unparse(node) else ""
    extra = f", loader_class={own}" if own else extra
    if any(last(call) == "parse_args" for call in calls_in(node)) or _parses(target):
        yield f'argv = [{", ".join(_endless(target))}, "--seed", str(seed)]  # and what else your command line needs'
        yield 'argv += [word for key, value in (options or {}).items() for word in (f"--{key}", str(value))]'
        extra += ", argv=argv"
    yield f"# The loop goes over {over}. What it loads from files: patches around begin() that hand out small ones."
    yield f"self.begin(lambda {'_' if own else 'loader'}: {called}({', '.join(arguments)}), dtype=dtype{extra})"


def _required(target: Target) -> list[str]:
    """The arguments without a default of the class."""
    parameters = inspect.signature(getattr(sys.modules[target.module], target.owner)).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [given.name for given in parameters if given.default is given.empty and given.kind in named]


def _modules(target: Target, node: ast.FunctionDef) -> list[str]:
    """What has its parameters trained, by the names that the function, or its class's beginning, has for it."""
    nodes = [node, *_beginning(target)]
    found = [
        ast.unparse(call.func.value)
        for one in nodes
        for call in calls_in(one)
        if last(call) in ("parameters", "train", "named_parameters") and isinstance(call.func, ast.Attribute)
    ]
    return [name for name in dict.fromkeys(found) if name != "self" and name.replace(".", "").isidentifier()]


def _attributes(target: Target, word: str) -> list[str]:
    """Attributes of the class with this word in their name."""
    stored = [
        f"self.{inner.attr}"
        for one in _beginning(target)
        for inner in ast.walk(one)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and word in inner.attr
    ]
    return list(dict.fromkeys(stored))


def _beginning(target: Target) -> list[ast.FunctionDef]:
    kind = getattr(sys.modules[target.module], target.owner or target.name, None)
    found = parsed(kind.__init__) if inspect.isclass(kind) else None
    return [found] if found is not None else []


def _found(name: str, loops: bool) -> str:
    """Where the adapter gets it: off the trainer, or from the loop's local variables."""
    if name.startswith("self."):
        return f"self.trainer.{name.removeprefix('self.')}"
    return f'self.local("{name}")' if loops else "..."


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
