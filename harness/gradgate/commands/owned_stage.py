"""The stage of a method that trains: the trainer's class is made, brought to where its loop begins, and run."""

from __future__ import annotations

import ast
from textwrap import indent

from gradgate.commands.backwards import begun, schedule_question
from gradgate.commands.construction import construction
from gradgate.commands.methods import Methods
from gradgate.commands.own_loaders import loader_class, passed
from gradgate.commands.owned import Owned, method_text, required
from gradgate.commands.rewriting import import_of
from gradgate.commands.stage_text import BATCHES, BY_TOKENS, OWN_ROWS, STAGE, Part, Target

_COUNTED = ("epoch", "step", "iteration")
RATES = "    # rates = {{{}}}  # REPLACE: what each module is configured to be trained with (GG607)\n"
EDGES = " " * 12 + '# REPLACE: and objective="value" or "tokens", edges={term: ("module", ...)}\n'
ROWS = "    # end_token, max_length = 2, 512  # the token that ends a row, and where rows are cut (GG413)\n"


def owned_part(number: int, target: Target, methods: Methods) -> Part:
    """What a method gives to the adapter.

    Args:
        number: of the stage.
        target: the method.
        methods: of its class.
    """
    name = target.name.rpartition(".")[2]
    owned, loop = Owned(methods, name), methods.loop(name)
    made = construction(target.module, methods.kind)
    modules, locals_ = owned.modules(), owned.local_modules()
    held = {each: f"self.trainer.{each}" for each in modules if not modules[each]}
    held |= {each: f'self.local("{each}")' if loop is not None else "..." for each in locals_}
    moved = [f"{text}.to(device, dtype)" for text in held.values() if text.startswith("self.trainer.")]
    own = loader_class(target.module, target.alias, owned.node, loop.iter) if loop is not None else None
    batches = owned.batches_text() if loop is None else _own_batches(owned, loop, own)
    build = [*made.lines, *moved, *owned.seeded(), *owned.prepared(), *_beginning(owned, loop, own)]
    if batches == BATCHES:
        build.insert(0, "self.seed = seed")
    text = STAGE.format(
        title=f"Stage{number}",
        rows=BY_TOKENS,
        note=OWN_ROWS,
        base="OwnLoop" if loop is not None else "StepLosses",
        target=f"{target.module}.{target.name}",
        terms=", ".join(f'"{term}": "{place}"' for term, place in owned.terms().items()),
        attributes=RATES.format(", ".join(f'"{each}": ...' for each in held))
        + ROWS
        + "".join(f"    {line}\n" for node in owned.below for line in schedule_question(node)),
        build="\n".join(f"        {line}" for line in build),
        modules=", ".join(f'"{each}": {text}' for each, text in held.items()),
        optimizers=", ".join(owned.optimizers()),
        behind=indent("".join(f"{line}\n" for line in _rest(owned, modules)), " " * 8),
        step=owned.step_text() if loop is None else "",
        batches=batches,
        more=owned.more_text(),
    )
    options = ", options=gradgate.options_of(CONFIG)" if made.config else ""
    stage = f'{EDGES}            gradgate.Stage("{target.name.lower()}", Stage{number}{options}),'
    paths = [line for line in made.imports if line.startswith(("from pathlib", "from tempfile"))]
    imports = [line for line in made.imports if line not in paths]
    return Part(text, stage, tuple(paths), (*imports, import_of(target.module), *owned.imports), tuple(made.constants))


def _rest(owned: Owned, modules: dict[str, bool]) -> list[str]:
    """Lines of `__init__` behind the optimizers."""
    norm = owned.max_norm()
    or_none = "" if norm.replace(".", "").isdigit() else " or None"
    lines = [f"self.max_norm = {norm}{or_none}"] if norm else []
    lines += [] if modules or owned.local_modules() else ["# REPLACE: modules, each under a name of its own"]
    maybe = [each for each in modules if modules[each]]
    return lines + [
        f"# REPLACE: self.trainer.{each} is None at first; add it to modules where it is there" for each in maybe
    ]


def _beginning(owned: Owned, loop: ast.For | None, own: str | None) -> list[str]:
    """What lets a loop begin; nothing for a step."""
    if loop is None:
        return []
    lines, arguments, over = [], [], passed(loop.iter)
    for given in required(owned.node):
        if given in ast.unparse(loop.iter).replace(".", " ").replace("(", " ").replace(")", " ").split():
            arguments.append("loader")
        elif given in _COUNTED:
            arguments.append("0")
        else:
            lines.append(f"{given} = ...  # REPLACE: small")
            arguments.append(given)
    call = f"self.trainer.{owned.name}({', '.join(arguments)})"
    if own is None and (attribute := _attribute(over)):
        return [*lines, f"self.own = self.trainer.{attribute}", "self.begin(self.loop, dtype=dtype)"]
    return [*lines, *begun(loop, call, own)]


def _attribute(over: ast.expr) -> str:
    """The attribute of the trainer that a loop goes over; empty where that is something else."""
    is_own = isinstance(over, ast.Attribute) and ast.unparse(over.value) == "self"
    return ast.unparse(over).removeprefix("self.") if is_own else ""


def _own_batches(owned: Owned, loop: ast.For, own: str | None) -> str:
    """The methods that lend a loop its own loader's batches; nothing where `begin` is told the loader's class."""
    attribute = _attribute(passed(loop.iter))
    if own is not None or not attribute:
        return "" if own is not None else BATCHES
    arguments = ", ".join("0" if given in _COUNTED else given for given in required(owned.node))
    lent = [f"self.trainer.{attribute} = loader", f"self.trainer.{owned.name}({arguments})"]
    drawn = ["while True:", "    yield from self.own"]
    return method_text("loop(self, loader)", lent) + method_text("batches(self)", drawn)
