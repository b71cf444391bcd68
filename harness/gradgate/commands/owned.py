"""What an adapter has of a trainer's class: its step, what drives it, its modules, and what saves and evaluates."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from textwrap import indent
from typing import Any

from torch import nn

from gradgate.checks.source.values import assignments_in
from gradgate.commands.backwards import CLIPPING, HELD, calls_in, last, names_of, optimizers_of, receivers_in, terms_of
from gradgate.commands.methods import Drive, Methods, stored_in
from gradgate.commands.own_loaders import passed
from gradgate.commands.rewriting import Rewriter
from gradgate.commands.stage_text import BATCHES, LOSS

EVALUATES = ("evaluate", "evaluation", "validate", "eval", "run_evaluation", "run_validation")
SAVES = ("save_checkpoint", "save", "_save_checkpoint", "save_state", "checkpoint")
LOADS = ("load_checkpoint", "load", "_load_checkpoint", "load_state", "resume", "resume_from", "restore")
LOADERS = ("train_loader", "train_dataloader", "loader", "dataloader", "data_loader", "train_dl", "train_data")
_DRAWS = re.compile(r"sampler|loader|data|generator|_set$")
_WINDOW = re.compile(r"^(typing\.)?(list|sequence|iterable|tuple)\b", re.IGNORECASE)
_MAPPING = re.compile(r"dict|mapping", re.IGNORECASE)


class Owned:
    """A method that trains, with the class that it belongs to.

    Args:
        methods: of the class.
        name: of the method.

    Attributes:
        imports: lines that what was written so far needs.
    """

    def __init__(self, methods: Methods, name: str) -> None:
        self.methods, self.name = methods, name
        self.below = methods.all_below(name)
        self.node = self.below[0]
        self.imports: list[str] = []
        self.drive: Drive | None = methods.drive(name)

    @property
    def kind(self) -> type[Any]:
        """The class."""
        return self.methods.kind

    def rewritten(self, method: str, local: Sequence[str] = ()) -> Rewriter:
        """What rewrites lines of a method; its imports are this one's."""
        rewriter = Rewriter(*self.methods.globals_of(method), local)
        rewriter.imports = self.imports
        return rewriter

    def terms(self) -> dict[str, str]:
        """Loss term -> its place: of what goes backward, or of what the method that gave it back made that of."""
        found: dict[str, str] = {}
        for node in self.below:
            handed = [call for call in calls_in(node) if self.methods.goes_backward_in(call)]
            names = [name for call in handed for given in call.args for name in names_of(given)]
            for term in dict.fromkeys([*terms_of(node), *names]):
                found |= self._parts(node, term) or {term: term}
        return {term: place for term, place in found.items() if LOSS.search(term)}

    def _parts(self, node: ast.FunctionDef, term: str) -> dict[str, str]:
        """Those of a local variable that a method of the class gave back."""
        for part in ast.walk(node):
            if not isinstance(part, ast.Assign) or not isinstance(part.value, ast.Call):
                continue
            names = ast.unparse(part.targets[0]).strip("()").split(", ")
            called = self.methods.nodes.get(last(part.value), [])
            if term in names and ast.unparse(part.value.func) == f"self.{last(part.value)}" and called:
                parts = terms_of(called[0], names.index(term) if len(names) > 1 else None)
                return {name: f"{last(part.value)}:{name}" for name in parts}
        return {}

    def prepared(self) -> list[str]:
        """What the methods that call the step do in front of that, as the adapter has it, the outermost's first."""
        lines: list[str] = []
        inner = self.name
        for caller in self.methods.callers(self.name):
            rewriter, body = self.rewritten(caller), self.methods.nodes[caller][0].body
            calls = [number for number, statement in enumerate(body) if _calls(statement, inner)]
            lines = rewriter.statements(body[: calls[0]] if calls else []) + lines
            inner = caller
        return lines

    def seeded(self) -> list[str]:
        """Lines that give what draws the batches by the run's seed one of its own: `load` is into a run of another."""
        found = []
        for name, value in stored_in(self._every()):
            if not isinstance(value, ast.Call) or not _DRAWS.search(name):
                continue
            given = map(ast.unparse, [*value.args, *(word.value for word in value.keywords)])
            if any(text.endswith("seed") for text in given):
                kind = self._globals().get(ast.unparse(value.func))
                begins = Methods(kind).nodes.get("__init__", []) if inspect.isclass(kind) else []
                line = f"self.trainer.{name}.seed = 0  # the data's own: `load` is into a run of another seed (GG602)"
                asked = f"# REPLACE: give self.trainer.{name} a seed of its own, for `load` to go on (GG602)"
                found.append(line if "seed" in dict(stored_in(begins)) else asked)
        return found

    def _globals(self) -> dict[str, Any]:
        """What names mean in the modules of the class's methods."""
        modules = [self.methods.globals_of(each)[1] for each in self.methods.nodes]
        return {name: value for known in modules for name, value in known.items()}

    def modules(self) -> dict[str, bool]:
        """Attributes that are modules -> whether they may be None."""
        every = self._every()
        held = (ast.unparse(each) for node in every for each in receivers_in(node, *HELD, "requires_grad_"))
        found = {name.removeprefix("self.") for name in held if name.startswith("self.")}
        known = self._globals()
        stored = list(stored_in(every))
        found |= {name for name, value in stored if value is not None and _is_module(value, known)}
        nones = {name for name, value in stored if isinstance(value, ast.Constant) and value.value is None}
        names = dict.fromkeys(name for name, _ in stored if name in found)
        return {name: name in nones for name in names}

    def local_modules(self) -> list[str]:
        """Local variables of the method that are modules."""
        receivers = receivers_in(self.node, *HELD)
        return list(dict.fromkeys(each.id for each in receivers if isinstance(each, ast.Name) and each.id != "self"))

    def optimizers(self) -> list[str]:
        """Expressions of the adapter for what steps; those that are kept in a container are spread."""
        texts = [ast.unparse(each) for node in self.below for each in receivers_in(node, "step", "zero_grad")]
        stepping = [call for node in self.below for call in calls_in(node) if last(call) == "step"]
        texts += [ast.unparse(given) for call in stepping for given in call.args]
        direct = [text for text in texts if re.fullmatch(r"self\.\w*opt\w*", text)]
        stored = dict(stored_in(self._every()))
        names = dict.fromkeys(text.removeprefix("self.") for text in direct)
        if self.methods.loop(self.name) is not None and not names:
            made = {ast.unparse(target) for target, _ in assignments_in(ast.walk(self.node))}
            if found := [name for name in optimizers_of(self.node) if name in made]:
                return [f'self.local("{name}")' for name in found]
        names = names or dict.fromkeys(name for name in stored if "optim" in name)
        return [_spread(name, stored.get(name)) for name in names]

    def _every(self) -> list[ast.FunctionDef]:
        return [node for nodes in self.methods.nodes.values() for node in nodes]

    def max_norm(self) -> str:
        """The norm that the step clips at, off the trainer; empty where it does not, or where that is a local."""
        for node in self.below:
            for call in calls_in(node):
                given = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "max_norm")]
                if last(call).startswith(CLIPPING.rstrip("_")) and given:
                    return self.rewritten(self.name).text(given[0]) or ""
        return ""

    def loader(self) -> str:
        """The attribute that looks like the loader of the training; empty where there is none."""
        stored = {name for name, _ in stored_in(self._every())}
        return next((name for name in LOADERS if name in stored), "")

    @cached_property
    def takes_window(self) -> bool:
        """Whether the step takes a list of micro-batches: it is declared so, or goes backward for each of it."""
        given = next((argument for argument in self.node.args.args if argument.arg != "self"), None)
        if given is None or self.methods.loop(self.name) is not None:
            return False
        if given.annotation is not None:
            return bool(_WINDOW.match(ast.unparse(given.annotation)))
        loops = [part for part in ast.walk(self.node) if isinstance(part, ast.For)]
        own = [loop for loop in loops if ast.unparse(passed(loop.iter)) == given.arg]
        return any(map(self.methods.goes_backward_in, own))

    def step_text(self) -> str:
        """The method `step`."""
        drive, needed = self.drive, required(self.node)
        result, handed = "metrics", "[batch] if not isinstance(batch, list) else batch" if self.takes_window else ""
        name = needed[0] if needed and handed else "batch"
        lines = [f"{name} = {handed}"] if handed else []
        behind: list[str] = []
        if drive is not None:
            target = _batch_of(drive.loop)
            statement = drive.loop.body[drive.number]
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                result = statement.targets[0].id if statement.value is drive.call else result
            behind = self._behind(drive, target, result)
            if isinstance(target, ast.Name) and (handed or behind):
                lines = [f"{target.id} = {handed or 'batch'}"] if target.id != "batch" or handed else []
                name = target.id
        call = f"self.trainer.{self.name}({self._arguments(name, needed)})"
        if not needed:
            lines += self._handed()
        return method_text(
            "step(self, batch)", [*lines, f"{result} = {call}", *behind, f"return {self._metrics(result)}"]
        )

    def _arguments(self, name: str, needed: list[str]) -> str:
        target = _batch_of(self.drive.loop) if self.drive is not None else None
        if isinstance(target, ast.Tuple) and len(needed) == len(target.elts):
            return "*batch"
        return ", ".join([name, *(f"{other}=..." for other in needed[1:])]) if needed else ""

    def _handed(self) -> Iterator[str]:
        """How a step that draws its batch itself gets one."""
        for call in calls_in(self.node):
            if ast.unparse(call.func) == "next" and ast.unparse(call.args[0]).startswith("self."):
                yield f"self.trainer.{ast.unparse(call.args[0]).removeprefix('self.')} = iter([batch])"
                return
        yield f"# REPLACE: {self.name}() takes no batch: put this one where it looks for it"

    def _behind(self, drive: Drive, target: ast.expr, result: str) -> list[str]:
        """What the loop does behind the step, up to where it branches."""
        rewriter = self.rewritten(drive.holder, [*names_of(target), result])
        rest = drive.loop.body[drive.number + 1 :]
        until = next((number for number, node in enumerate(rest) if isinstance(node, ast.If)), len(rest))
        found = [rewriter.statement(node) for node in rest[:until]]
        return [line for line in found if line is not None]

    def _metrics(self, result: str) -> str:
        """What `step` returns of what the trainer's own returned."""
        returned = [
            part.value for part in ast.walk(self.node) if isinstance(part, ast.Return) and part.value is not None
        ]
        if not returned:
            return "{}  # REPLACE: the trainer's own metrics by name, where it keeps them"
        made = {
            ast.unparse(target)
            for part in ast.walk(self.node)
            if isinstance(part, ast.Assign | ast.AnnAssign) and isinstance(part.value, ast.Dict | ast.DictComp)
            for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
        }
        declared = ast.unparse(self.node.returns) if self.node.returns is not None else ""
        value = returned[-1]
        if _MAPPING.search(declared) or isinstance(value, ast.Dict | ast.DictComp) or ast.unparse(value) in made:
            return result
        if isinstance(value, ast.Tuple) or declared.lower().startswith("tuple"):
            return f"{result}  # REPLACE: a mapping of the trainer's own metrics by name"
        return f'{{"loss": float({result})}}'

    def batches_text(self) -> str:
        """The method `batches`; one to write where nothing tells what a batch is."""
        if self.drive is None:
            loader = self.loader()
            return (
                method_text("batches(self)", ["while True:", f"    yield from self.trainer.{loader}"]) if loader else ""
            )
        drive, target = self.drive, _batch_of(self.drive.loop)
        rewriter = self.rewritten(drive.holder, names_of(target))
        over = rewriter.text(passed(drive.loop.iter))
        if over is None:
            return BATCHES
        around = next((part for part in ast.walk(drive.node) if drive.loop in getattr(part, "body", [])), None)
        front, behind = [], list(drive.loop.orelse)
        if isinstance(around, ast.While | ast.For):
            place = around.body.index(drive.loop)
            front, behind = around.body[:place], behind + around.body[place + 1 :]
        name = "batch" if isinstance(target, ast.Tuple) else ast.unparse(target)
        before = drive.loop.body[: drive.number] if isinstance(target, ast.Name) else []
        moved = [line for node in before if (line := rewriter.statement(node)) is not None]
        single = f"{name} if len({name}) > 1 else {name}[0]" if self.takes_window else name
        return method_text(
            "batches(self)",
            [
                f"while True:  # as {drive.holder}() has it",
                *(f"    {line}" for line in rewriter.statements(front)),
                f"    for {name} in {over}:",
                *(f"        {line}" for line in moved),
                f"        yield {single}",
                *(f"    {line}" for line in rewriter.statements(behind)),
            ],
        )

    def more_text(self) -> str:
        """The methods `window`, `evaluate`, `save` and `load`, as far as there are such."""
        window = method_text("window(self, parts)", ["return list(parts)"]) if self.takes_window else ""
        return window + self._evaluate() + self._saved()

    def _evaluate(self) -> str:
        name = next((name for name in EVALUATES if name in self.methods.nodes), "")
        if not name:
            return ""
        given = ", ".join(f"{each}=..." for each in required(self.methods.nodes[name][0]))
        asked = "  # REPLACE: held-out data" if given else ""
        return method_text("evaluate(self)", [f"return self.trainer.{name}({given}){asked}"])

    def _saved(self) -> str:
        nodes = self.methods.nodes
        saves = next((name for name in SAVES if name in nodes and required(nodes[name][0])), "")
        loads = next((name for name in LOADS if name in nodes and required(nodes[name][0])), "")
        file = 'str(path / "saved.pt")'
        if saves:
            lines = [f"self.trainer.{saves}({_with(nodes[saves][0], file)})"]
        elif "state_dict" in nodes:
            own = next((name for name in SAVES if name in nodes), "")
            asked = f"  # REPLACE: as {own}() does, into this folder" if own else ""
            lines = [f"torch.save(self.trainer.state_dict(), {file}){asked}"]
        else:
            return ""
        text = method_text("save(self, path)", lines)
        if loads:
            return text + method_text("load(self, path)", [f"self.trainer.{loads}({_with(nodes[loads][0], file)})"])
        if "load_state_dict" in nodes:
            load = f"self.trainer.load_state_dict(torch.load({file}, weights_only=False))"
            return text + method_text("load(self, path)", [load])
        return text


def _calls(node: ast.AST, name: str) -> bool:
    return any(ast.unparse(call.func) == f"self.{name}" for call in calls_in(node))


def _is_module(value: ast.expr, known: dict[str, Any]) -> bool:
    """Whether a value is `Module(...)`, or `Module(...).to(...)`, of a class of modules."""
    while isinstance(value, ast.Call):
        found: Any = known.get(ast.unparse(value.func).split(".")[0])
        for part in ast.unparse(value.func).split(".")[1:] if "(" not in ast.unparse(value.func) else []:
            found = getattr(found, part, None)
        if inspect.isclass(found) and issubclass(found, nn.Module):
            return True
        value = value.func.value if isinstance(value.func, ast.Attribute) else value.func
    return False


def _spread(name: str, value: ast.expr | None) -> str:
    if isinstance(value, ast.Dict | ast.DictComp):
        return f"*self.trainer.{name}.values()"
    is_many = isinstance(value, ast.List | ast.ListComp | ast.Tuple) or name.endswith("s")
    return f"*self.trainer.{name}" if is_many else f"self.trainer.{name}"


def required(node: ast.FunctionDef) -> list[str]:
    """The arguments without a default of a method."""
    given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    required = given[: len(given) - len(node.args.defaults)]
    required += [
        word.arg for word, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is None
    ]
    return [name for name in required if name != "self"]


def _with(node: ast.FunctionDef, file: str) -> str:
    return ", ".join([file, *(f"{name}=..." for name in required(node)[1:])])


def _batch_of(loop: ast.For) -> ast.expr:
    """What a loop calls its batch, without a number in front of it."""
    is_numbered = isinstance(loop.target, ast.Tuple) and "enumerate(" in ast.unparse(loop.iter)
    return loop.target.elts[-1] if is_numbered and isinstance(loop.target, ast.Tuple) else loop.target


def method_text(head: str, lines: list[str]) -> str:
    """A method of the stage's class."""
    return f"\n    def {head}:\n" + indent("\n".join(lines), " " * 8) + "\n"
