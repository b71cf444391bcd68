"""Any error of a step, a row or the settings is caught, and the run goes on as if nothing had been.

## What it detects

`except Exception`, or a bare `except`, around a backward, an optimizer's step, a loss, a model's call, an evaluation,
or the reading of a row or of settings, that passes, continues, or puts a default in place.

## Why it matters

A shape that is wrong, a key that is misspelt and memory that runs out all look like a row too few. Updates are left
out, rows are lost, and a run of defaults goes by the name of the file that could not be read.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a handler of any error that does nothing but pass, continue, say so in a log, assign or return 0, None, an empty
collection or a tensor of zeros; around

* `backward`, an optimizer's `step`, a loss, a call of what is named after a model, a step or an epoch of training, an
  evaluation of a model;
* `json.loads`, `yaml.safe_load` and their like, where a word there is about rows, data or settings, and none about a
  cache, a status, or what a model has written.

None is a handler that raises, ends the program, counts, keeps the error, or sets a truth value; nor one that returns
None or a truth value for a row, or assigns a None that is asked for later; nor one in a function that profiles, plots,
exports, logs or rewards. A failing `torch.load` is GG613's. Statistic: such handlers; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. Where errors may be passed over by design, it is
a warning.

## Example

Bad:

```python
try:
    loss = model(batch).loss
    loss.backward()
except Exception:
    continue
```

Good:

```python
try:
    row = json.loads(line)
except json.JSONDecodeError:
    broken += 1                                              # and refuse the file where there are many
```

## How to fix

Catch the one error that is expected, count it, and let the others out.

## Known limits

Handlers that catch one kind of error, those that do anything else, and those outside of functions are not looked at;
nor is what a function that is called inside does.

## Sources

Ruff BLE001, S110 and S112: any error that is caught, passed over, or continued behind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from gradgate.checks.source.saved_mappings import LOADS, SAVES
from gradgate.checks.source.trainer import File, dotted, given_by, nodes_in, read_file_by_file
from gradgate.checks.source.values import assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG445", "any-error-passed-over"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ANY = ("Exception", "BaseException")
TRAINS = re.compile(
    r"^_?(backward|optimizer_step|train(ing)?_(step|batch|(one_)?epoch)|\w+_loss|loss(_fn|_function|_of|es)?|criterion|"
    r"compute_loss|cross_entropy)$"
)
STEPS = re.compile(r"(^|[._])(opt|optim|optimizer|optimiser|scaler|accelerator)\w*\.(step|backward)$")
MODELS = re.compile(r"(^|_)(model|net|network|policy|critic|actor|student|teacher)$")
EVALUATES = re.compile(r"^_?(run_)?(eval|evaluate|evaluation)(_\w+)?$")
PARSERS = re.compile(r"(^|\.)(json|ujson|orjson|yaml|toml|tomllib|tomli)\.(loads?|safe_load|full_load)$")
READ = re.compile(
    r"row|lines?\b|record|example|sample|jsonl|data|corpus|config|cfg|recipe|setting|hparam|\.ya?ml", re.IGNORECASE
)
OTHER = re.compile(
    r"cache|history|status|state|progress|response|completion|output|answer|predict|generat|reply|tool|request|meta|"
    r"version|message|index|checkpoint|log\b|logs\b|database|dataclass",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"profil|flops|plot|figure|graph|export|trace|visual|summar|(^|_)log|report|save|close|clean|warm|bench|probe|"
    r"support|available|dummy|reward|score|grade|verif|detect|debug|telemetry|is_|has_|can_|try_",
    re.IGNORECASE,
)
TELLS = re.compile(r"(^|\.)(print|print_exc|echo|debug|info|warn|warning|error|exception|critical|log|write|sleep)$")
EMPTY = re.compile(
    r"(^|\.)(dict|list|set|tuple|defaultdict|Counter|zeros|zeros_like|ones|ones_like|tensor|zero_grad|empty_cache|collect)$"
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at what catches any error."""
    return read_file_by_file(subject, _found, "handlers")


def _found(file: File) -> Iterator[Finding]:
    if not file.has("except:", "Exception"):
        return
    for function, owner in file.functions:
        if ASIDE.search(function.name) or (owner is not None and ASIDE.search(owner.name)):
            continue
        nodes = own_nodes(function)
        for node in nodes:
            if isinstance(node, ast.Try) and (what := _tried(node, function.name)):
                handler = next((one for one in node.handlers if _catches_any(one)), None)
                if handler is not None and _passes_over(handler, what, nodes):
                    yield _finding(file, handler, function.name, what)


def _catches_any(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or dotted(kind) in ANY for kind in kinds)


def _tried(node: ast.Try, function: str) -> str:
    """What runs inside that is no matter of chance; empty: nothing of it."""
    calls = [part for part in nodes_in(node.body, ast.FunctionDef, ast.Lambda) if isinstance(part, ast.Call)]
    names = [dotted(call.func) for call in calls]
    if any(name in (*SAVES, *LOADS) or name.endswith(("load_state_dict", "add_graph", "compile")) for name in names):
        return ""
    for call in calls:
        name = dotted(call.func)
        last = name.rpartition(".")[2]
        if _is_training(name) or (EVALUATES.search(last) and _takes_a_model(call)):
            return name
    parsed = next((name for name in names if PARSERS.search(name)), "")
    words = " ".join([function, *map(ast.unparse, node.body)])
    return parsed if parsed and READ.search(words) and not OTHER.search(words) else ""


def _is_training(name: str) -> bool:
    last = name.rpartition(".")[2]
    return bool(TRAINS.search(last) or STEPS.search(name) or MODELS.search(last))


def _takes_a_model(call: ast.Call) -> bool:
    given = [ast.unparse(value) for value in given_by(call)]
    kept = isinstance(call.func, ast.Attribute) and dotted(call.func.value) in ("self", "trainer", "self.trainer")
    return kept or any(re.search(r"model|loader|policy|\bnet\b|heldout|held_out", text) for text in given)


def _passes_over(handler: ast.ExceptHandler, tried: str, nodes: Sequence[ast.AST]) -> bool:
    """Whether a handler does nothing that anybody could notice, but in a log."""
    is_row = bool(PARSERS.search(tried))
    return all(_is_nothing(statement, handler, is_row, nodes) for statement in handler.body)


def _is_nothing(node: ast.stmt, handler: ast.ExceptHandler, is_row: bool, nodes: Sequence[ast.AST]) -> bool:
    if isinstance(node, ast.Pass | ast.Continue):
        return True
    if isinstance(node, ast.Expr):
        name = dotted(node.value.func) if isinstance(node.value, ast.Call) else ""
        return bool(TELLS.search(name) or EMPTY.search(name)) or isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Return):
        return _is_default(node.value) if not _is_none(node.value) else not is_row
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return all(
            _is_default(value) and not (_is_none(value) and _is_asked_for(target, handler, nodes))
            for target, value in assignments_in([node])
        )
    return False


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_default(value: ast.expr | None) -> bool:
    """Whether a value is a constant, but a truth value, a text or a code of an error, or an empty collection."""
    if isinstance(value, ast.Constant):
        return not isinstance(value.value, bool | str) and (value.value is None or value.value == 0)
    if isinstance(value, ast.Call):
        return bool(EMPTY.search(dotted(value.func)))
    return isinstance(value, ast.Dict | ast.List | ast.Tuple) and not any(
        isinstance(part, ast.Constant | ast.Name) for part in ast.walk(value)
    )


def _is_asked_for(target: ast.expr, handler: ast.ExceptHandler, nodes: Iterable[ast.AST]) -> bool:
    """Whether a condition behind a handler reads what it assigned."""
    name, behind = ast.unparse(target), handler.end_lineno or handler.lineno
    tests = [node.test for node in nodes if isinstance(node, ast.If | ast.IfExp | ast.While)]
    return any(test.lineno > behind and name in map(ast.unparse, ast.walk(test)) for test in tests)


def _finding(file: File, handler: ast.ExceptHandler, function: str, what: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() passes over any error of `{what}()`, a mistake of its own code among them; allowed: the "
        "one that is expected, counted",
        severity="warning",
        culprit=file.at(handler, function),
        fix="catch the one error that is expected, count it, and let the others out",
    )
