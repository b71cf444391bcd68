"""The stage of a function that trains: what it is given is made, its loop is lent its batches, its locals are read."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
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
from gradgate.commands.command_line import declared_arguments, parses, words_of
from gradgate.commands.construction import GIVEN
from gradgate.commands.given import Given, given_to, tree_of
from gradgate.commands.lent import Lent, loader_argument
from gradgate.commands.own_loaders import loader_class
from gradgate.commands.owned import method_text, required
from gradgate.commands.owned_stage import EDGES, RATES, ROWS
from gradgate.commands.rewriting import Rewriter, import_of
from gradgate.commands.stage_text import BATCHES, BY_TOKENS, LOSS, OWN_ROWS, STAGE, Part, Target

STEP = """
    def step(self, batch):
        return {call}(batch)
"""
ENDLESS = ("epoch", "step", "iter")
NOT_MOVED = (*ENDLESS, "seed", "batch", "worker", "log", "save", "eval", "size", "length", "len")
_OF_VALUES, _OF_WEIGHTED = re.compile(r"(value|critic)\w*_loss"), re.compile(r"weighted\w*_loss|wmtp")
_LOADS = re.compile(r"^(load|restore)_")


def function_part(number: int, target: Target) -> Part:
    """What a function gives to the adapter.

    Args:
        number: of the stage.
        target: the function.
    """
    return FunctionStage(number, target).part()


class FunctionStage:
    """A function that trains, as a stage of the adapter.

    Args:
        number: of the stage.
        target: the function.
    """

    def __init__(self, number: int, target: Target) -> None:
        self.title, self.target = f"Stage{number}", target
        node = parsed(target.function) or ast.parse(f"def {target.name.rpartition('.')[2]}(): ...").body[0]
        assert isinstance(node, ast.FunctionDef)  # noqa: S101 - `parsed` gives no other, nor does the line above
        self.node, self.loop = node, loop_of(node)
        self.own = loader_class(target.module, target.alias, node, self.loop.iter) if self.loop is not None else None
        is_lent = self.loop is not None and self.own is None
        self.lent = Lent.of(target, node, self.loop) if is_lent and self.loop is not None else None
        self.loader = loader_argument(node, self.loop) if self.loop is not None else ""
        self.has_argv = parses(target.function)
        asked = [each for each in required(node) if each not in (*GIVEN, self.loader)]
        wanted = [*asked, *([self.loader] if self.loader else [])]
        self.given = given_to(target.module, target.name, target.function, wanted) if self.loop is not None else Given()

    def held(self, name: str) -> str:
        """A variable of the function, with its attributes, as the adapter reads it."""
        first, *rest = name.split(".")
        return ".".join([f'self.local("{first}")', *rest]) if self.loop is not None else "..."

    def part(self) -> Part:
        """The stage."""
        node, target, made = self.node, self.target, self.given.made
        batches, own_rows = self._batches(), self.lent.rows() if self.lent is not None else ""
        modules = {name.rpartition(".")[2]: self.held(name) for name in self._modules()}
        build = [*(["self.seed = seed"] if batches == BATCHES else []), *self._build()]
        text = STAGE.format(
            title=self.title,
            rows="" if own_rows else BY_TOKENS,
            note="" if own_rows else OWN_ROWS,
            base="OwnLoop" if self.loop is not None else "StepLosses",
            target=f"{target.module}.{target.name}",
            terms=", ".join(f'"{term}": "{place}"' for term, place in self._terms().items()),
            attributes="".join(self._attributes(modules)),
            build="\n".join(f"        {line}" for line in build),
            modules=", ".join(f'"{name}": {found}' for name, found in modules.items()),
            optimizers=", ".join(map(self.held, optimizers_of(node))),
            step="" if self.loop is not None else STEP.format(call=f"{target.alias}.{target.name}"),
            batches=batches,
            behind="".join(f"        self.max_norm = {norm}\n" for norm in self._norms()[:1] if made.config),
            more=own_rows,
        )
        is_standard = ("from pathlib", "from tempfile", "from unittest", "import argparse", "import sys", "import iter")
        imports = [*made.imports, *(self.lent.imports if self.lent is not None else [])]
        imports += ["from unittest.mock import patch"] * ("patch.object(" in text)
        paths = [line for line in imports if line.startswith(is_standard)]
        others = [line for line in imports if line not in paths]
        return Part(text, self._stage(), tuple(paths), (*others, import_of(target.module)), tuple(made.constants))

    def _stage(self) -> str:
        name = self.target.alias if self.target.name == "main" else self.target.name.lower()
        if self.given.made.config:
            options = ", options=gradgate.options_of(CONFIG)"
            told = " " * 12 + "# options_of(CONFIG, leave_out=(...)) for the keys that are the other stage's\n"
            return f'{EDGES}{told}            gradgate.Stage("{name}", {self.title}{options}),'
        options = ", ".join(f'"{key}": {values}' for key, values in _options(self.target)) if self.has_argv else ""
        given = f", options={{{options}}}" if self.has_argv else ""
        return f'            gradgate.Stage("{name}", {self.title}{given}),'

    def _attributes(self, modules: dict[str, str]) -> Iterator[str]:
        if self.given.made.config:
            yield RATES.format(", ".join(f'"{each}": ...' for each in modules))
        else:
            yield from (f"    max_norm = 1.0  # REPLACE: {norm}, as configured\n" for norm in self._norms(False)[:1])
            rates = ", ".join(f'"{name}": 1e-2' for name in modules)
            yield f"    rates = {{{rates}}}  # REPLACE: as configured; each `...`, too\n"
        yield ROWS
        yield from (f"    {line}\n" for line in schedule_question(self.node))

    def _norms(self, is_known: bool = True) -> list[str]:
        """What the function clips at, as it has it; or, known, as `__init__` has it."""
        calls = [call for call in calls_in(self.node) if last(call) == CLIPPING and len(call.args) > 1]
        if not is_known:
            return [ast.unparse(call.args[1]) for call in calls]
        rewriter = Rewriter(self.target.module, vars(sys.modules[self.target.module]), self.given.config)
        texts = [rewriter.text(call.args[1]) for call in calls]
        return [text for text in texts if text is not None]

    def _terms(self) -> dict[str, str]:
        """Loss term -> the local variable that holds it, under the names that the checks ask for where it is such."""
        made = _calls_by_variable(self.node)
        found: dict[str, str] = {}
        for place in terms_of(self.node):
            makes = [name for name in made.get(place, []) if name]
            if LOSS.search(place) or any(map(LOSS.search, makes)):
                words = [place, *makes]
                term = next((term for term, form in (("value_loss", _OF_VALUES), ("wmtp_loss", _OF_WEIGHTED))
                             if any(map(form.search, words))), place)  # fmt: skip
                found[place if term in found else term] = place
        return found

    def _modules(self) -> list[str]:
        """What has its parameters trained, by the names that the function has for it."""
        found = map(ast.unparse, receivers_in(self.node, *HELD))
        return [name for name in dict.fromkeys(found) if all(map(str.isidentifier, name.split(".")))]

    def _build(self) -> Iterator[str]:
        """What lets the loop begin."""
        if self.loop is None:
            return
        arguments = []
        given, extra = self.given, ""
        yield from given.made.lines
        positional = [argument.arg for argument in (*self.node.args.posonlyargs, *self.node.args.args)]
        for name in required(self.node):
            if name == self.loader:
                value = "loader"
                if name in given.known:
                    yield f"self.own = {given.known[name]}"
            elif name in given.known or name in GIVEN:
                value = given.known.get(name, name)
            else:
                yield f"{name} = ...  # REPLACE: small"
                value = name
            arguments.append(value if name in positional else f"{name}={value}")
        if self.own:
            extra = f", loader_class={self.own}"
        elif self.lent is not None:
            extra = f', loader_in={self.lent.holder}, made_by="{self.lent.name}"'
        elif not self.loader and "DataLoader" in ast.unparse(self.node):
            extra = f", loader_in={self.target.alias}"
        if self.has_argv:
            yield f"argv = [{', '.join(self._words())}]  # and what else your command line needs"
            yield 'argv += [word for key, value in (options or {}).items() for word in (f"--{key}", str(value))]'
            extra += ", argv=argv"
        call = f"{self.target.alias}.{self.target.name}({', '.join(arguments)})"
        source = self.own or (f"{self.lent.holder}.{self.lent.name}" if self.lent is not None else None)
        lines = list(begun(self.loop, call, source, extra))
        loads = [name for name in self._loads() if hasattr(sys.modules[self.target.module], name)]
        if loads:
            names = ", ".join(f"{name}()" for name in loads)
            yield f"# REPLACE: {names} is left out here: let the files that it reads lie there, where there are such"
            patches = ", ".join(f'patch.object({self.target.alias}, "{name}")' for name in loads)
            lines = [*lines[:-1], f"with {patches}:", f"    {lines[-1]}"]
        yield from lines

    def _loads(self) -> list[str]:
        """Functions that bring something back from files and whose result is dropped, of a run that resumes nothing."""
        optional = {argument.arg for argument in self.node.args.args[-len(self.node.args.defaults) or None :]}
        optional = optional if self.node.args.defaults else set()
        found = []
        waiting: list[ast.AST] = list(self.node.body)
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, ast.If) and optional & set(names_of(node.test)):
                waiting += node.orelse
                continue
            called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
            if isinstance(called, ast.Name) and _LOADS.search(called.id):
                found.append(called.id)
            waiting += ast.iter_child_nodes(node)
        return list(dict.fromkeys(found))

    def _words(self) -> list[str]:
        """The command line of a run: words that let its loop go on for longer than checks do, and its seed."""
        tree = tree_of(self.target.module)
        declared = declared_arguments(tree)
        numbers = [name for name, _ in _arguments(self.target)]
        words = [f'"--{name}", "1000000"' for name in numbers if any(word in name for word in ENDLESS)]
        seed = ['"--seed"', "str(seed)"] if any(each.flag == "--seed" for each in declared) else []
        # without files of the folder: the adapter has no ROOT for these
        return [*words_of(tree, self.target.name, None), *words, *seed]

    def _batches(self) -> str:
        if self.own:
            return ""
        if self.lent is not None:
            return self.lent.batches()
        if self.loader in self.given.known and self.loop is not None:
            return method_text("batches(self)", ["while True:", "    yield from self.own"])
        return BATCHES


def _calls_by_variable(node: ast.FunctionDef) -> dict[str, list[str]]:
    """Local variable -> the names of the functions whose result it is given."""
    found: dict[str, list[str]] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call):
            for target in part.targets:
                found.setdefault(ast.unparse(target), []).append(ast.unparse(part.value.func).rpartition(".")[2])
    return found


def _arguments(target: Target) -> Iterator[tuple[str, Any]]:
    """The command-line arguments of the target's file with a number for a default."""
    for each in declared_arguments(tree_of(target.module)):
        if each.takes and isinstance(each.default, int | float) and not isinstance(each.default, bool):
            yield each.flag.lstrip("-"), each.default


def _options(target: Target) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Arguments to move, each with its default and another number."""
    for name, value in _arguments(target):
        if not any(word in name for word in NOT_MOVED):
            yield name, (value, value / 2 if isinstance(value, float) and value else value + 1)
