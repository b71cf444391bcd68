"""Which of two scores is the better one does not fit what the score is, or no score beats the first one.

## What it detects

A loss that is kept as the best where it is larger, an accuracy where it is smaller, `mode="max"` beside a loss; or a
best that begins with a number that nothing beats.

## Why it matters

The checkpoint that is called best is the worst one, early stopping ends a run that improves, and nothing raises. Where
no score beats the first number, there is no best checkpoint at all, or patience runs out at once.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A best is what is called so
and is assigned where a comparison by `<` or `>` with it holds (or in the `else`), by `x if x > best else best`, by
`max(best, x)`, or by `max` and `argmax` of many, of rows by what they begin with. A call of the trainer's own that
compares two of its arguments is that comparison, and an argument is what a method of an object named after the class is
given. Its direction has to fit the names of what is compared: losses, cross entropies (`ce`), perplexities and errors
are better where they are smaller, accuracies, rewards, F1, BLEU and explained variances where they are larger. A minus
turns it. `monitor=` and `mode=`, or `metric_for_best_model=` and `greater_is_better=`, are held against each other
where both are written down in one call or one mapping; alone, `metric_for_best_model` of a trainer on transformers'
TrainingArguments, in a call, by an argument that is given to a function which makes one, in a mapping, a field of a
class of such arguments or a YAML file, is kept where it is larger unless it ends in "loss", if nothing gives that
mapping, class or object `greater_is_better`. A direction that is chosen
by a part of a score's name (`"min" if "loss" in monitor else "max"`) has to fit each name that the trainer, or a YAML
file in its folder, gives what is called after monitoring (`best_metric`), and each that it allows there: by `Literal`,
by `choices`, by `in`, or in a call that is given both. The parts may stand in a constant, a field or a pattern, the
name may be cut or its ends be asked, and a table that gives directions (`WAYS.get(monitor, "min")`) is such a choice. A
first number is a finding where each that is written down is infinite on the better side, or 0 for losses that have to
be below it.

Names that say neither or both, and functions or classes that ask for a direction, are none. Statistic: such places;
allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if val_loss > best_loss:
    best_loss = val_loss
    torch.save(model.state_dict(), "best.pt")
```

Good:

```python
if val_loss < best_loss:
```

## How to fix

Turn the comparison, or the sign; begin a best that has to fall at `float("inf")`, and one that has to rise at
`-float("inf")`.

## Known limits

Names decide. A score whose name says neither is not judged, and neither is one that is compared in another function
than it is kept. Whether early stopping stops is GG608's, which drives it.

## Sources

The `mode` of PyTorch's ReduceLROnPlateau, and `greater_is_better` of transformers' TrainingArguments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from gradgate.checks.source.compared_bests import Compared, compared_bests
from gradgate.checks.source.directions_by_default import directions_by_default
from gradgate.checks.source.given_scores import Given
from gradgate.checks.source.guessed_directions import guesses_in
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import File, Function, called_name, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes
from gradgate.checks.source.watched_scores import named_to, watched_in
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG627", "better-is-worse"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WORDS = re.compile(r"[A-Z]?[a-z]+\d?|[A-Z]+(?![a-z])|\d+")
FALLS = re.compile(r"loss(es)?|perplexity|ppl|nll|err(ors?)?|r?mse|mae|wer|cer|xent|ce|bpb|bpc")
RISES = re.compile(r"acc|accurac(y|ies)|rewards?|f1|bleu|rouge|auc|auroc|r2|explained|winrate")
OTHERWISE = re.compile(  # says that a name is of something else than the score, or of its opposite
    r"improve\w*|reduc\w*|drop|gain|decrease|increase|delta|diff|ratio|weight|scale|count|steps?|epoch|idx|index|id"
    r"|threshold|worst|adv|attack|neg|negative|minus|inverse|inv|hard|range|fn"
)
ASKED = re.compile(r"\bmode\b|(great|high|low|larg|small|bigg)er_(is_)?better|maximi[sz]e|minimi[sz]e|direction")
THROUGH = ("item", "mean", "cpu", "detach", "numpy", "tolist", "compute", "sum")
AROUND = ("float", "abs", "round", "np.mean", "numpy.mean", "torch.mean", "statistics.mean", "mean")
SWITCHES = (("monitor", "mode"), ("metric_for_best_model", "greater_is_better"))
FIX = "turn the comparison or the sign, and begin at infinity on the worse side"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the direction of each best against its name."""
    files = files_of(subject)
    given = Given(files)
    names_one = any(file.has("monitor", "metric", "watch", "_on", "_by") for file in files)
    guessed = [*_guessed(places_in(files), subject)] if names_one else []
    outcome = read_file_by_file(
        subject,
        lambda file: (*_of_file(file, given), *(_finding(*each) for each in guessed if each[0] is file)),
        "directions",
    )
    by_default = [
        _by_default(at, name)
        for at, name in (directions_by_default(files, places_in(files), subject) if names_one else ())
        if _said(name)
    ]
    findings = (*outcome.findings, *by_default)
    return replace(outcome, findings=findings, measured={"directions": len(findings)}) if by_default else outcome


def _by_default(at: Location, name: str) -> Finding:
    told = f"`metric_for_best_model={name!r}` is kept where it is larger: without `greater_is_better`, each score is "
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{told}whose name does not end in 'loss'; allowed: the way in which it is better",
        culprit=at,
        fix="give `greater_is_better=False`",
    )


def _guessed(own: Places, subject: Subject) -> Iterator[tuple[File, ast.expr, str, str]]:
    """The guesses from a score's name that are wrong for one of those that the trainer goes by."""
    guesses = list(guesses_in(own))
    watched = sorted(set(watched_in(own, [content for *_, content in yaml_files(subject)]))) if guesses else []
    for guess in guesses:
        asked = {*watched, *named_to(guess.place, guess.node, own)}
        wrong = [name for name in sorted(asked) if (falls := _said(name)) is not None and guess.of(name) is (not falls)]
        if wrong:
            way = "smaller" if guess.of(wrong[0]) else "larger"
            told = f"takes a {way} {wrong[0]!r} for the better one, by `{ast.unparse(guess.node)}`"
            yield guess.place.file, guess.node, guess.place.name, told


def _of_file(file: File, given: Given) -> Iterator[Finding]:
    if file.has("monitor", "metric_for_best_model"):
        yield from _switched(file)
    if not file.has("best"):
        return
    for function, owner in file.functions:
        kept = [] if ASKED.search(ast.unparse(owner or function)) else list(compared_bests(function, given))
        for one in kept:
            names = Names(function)
            falls = _falls(one.score, names)
            if falls is None and isinstance(one.score, ast.Name):
                ways = {_falls(each, Names(where)) for where, each in given.to(function, owner, one.score.id)}
                falls = ways.pop() if len(ways) == 1 else None
            falls = _falls(one.best, names) if falls is None else falls
            if falls is not None and falls is not (one.sign == "<"):
                told = f"takes a {'larger' if falls else 'smaller'} `{ast.unparse(one.score)}` for the better one"
                yield _finding(file, one.node, function.name, told)
            elif one.alone and (first := _unbeaten(file, function, owner, one, falls)):
                told = f"begins with `{ast.unparse(one.best)} = {first}`, and nothing is {_side(one.sign)} that"
                yield _finding(file, one.node, function.name, told)


def _side(sign: str) -> str:
    return "below" if sign == "<" else "above"


def _falls(node: ast.expr, names: Names, hops: int = 3) -> bool | None:
    """Whether the smaller of a score is the better one; None: its name does not say."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _falls(node.operand, names, hops)
        return None if inner is None else not inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _falls(node.left, names, hops)
    if isinstance(node, ast.Call):
        called = called_name(node)
        if called in THROUGH and isinstance(node.func, ast.Attribute) and not node.args:
            return _falls(node.func.value, names, hops)
        if dotted(node.func) in AROUND and node.args:
            return _falls(node.args[0], names, hops)
        if called in ("get", "pop") and node.args and isinstance(node.args[0], ast.Constant):
            return _said(str(node.args[0].value))
        return _said(called)
    said = _said(last_name(node)) if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else None
    if said is None and isinstance(node, ast.Name) and hops and (held := names.held(node)) is not node:
        return None if _any(OTHERWISE, node.id) else _falls(held, names, hops - 1)
    return said


def _any(kind: re.Pattern[str], text: str) -> bool:
    """Whether one of the words of a name is of a kind."""
    return any(kind.fullmatch(word.lower()) for word in WORDS.findall(text))


def _said(text: str) -> bool | None:
    falls, rises = _any(FALLS, text), _any(RISES, text)
    return None if falls is rises or _any(OTHERWISE, text) else falls


def _unbeaten(file: File, function: Function, owner: ast.ClassDef | None, kept: Compared, falls: bool | None) -> str:
    """The first number of a best that no score beats; empty: some do, or it is not known."""
    name, of_self = ast.unparse(kept.best), dotted(kept.best).startswith("self.")
    local = isinstance(kept.best, ast.Name)
    scope: list[ast.AST] = own_nodes(function) if local else [*ast.walk(owner if owner and of_self else file.tree)]
    if local and any(isinstance(node, ast.arg) and node.arg == name for node in ast.walk(function)):
        return ""
    given = [value for target, value in assignments_in(scope) if ast.unparse(target) == name]
    first = [value for value in given if _number(value) is not None]
    others = [value for value in given if value not in first and not _is_update(value, kept) and not _is_read(value)]
    numbers = {_number(value) for value in first}
    if others or len(numbers) != 1:
        return ""
    (number,) = numbers
    nothing = number == (float("-inf") if kept.sign == "<" else float("inf"))
    turned = isinstance(kept.score, ast.UnaryOp)  # `-loss`: falls is of what it is with the minus
    of_losses = number == 0 and falls is (kept.sign == "<") and falls is not turned
    return ast.unparse(first[0]) if nothing or of_losses else ""


def _is_update(value: ast.expr, kept: Compared) -> bool:
    """Whether a best is given what was compared, or itself."""
    texts = {ast.unparse(part) for part in ast.walk(value) if isinstance(part, ast.expr)}
    return ast.unparse(kept.score) in texts or value is kept.node


def _is_read(value: ast.expr) -> bool:
    """Whether a value comes from a mapping, as from a checkpoint."""
    if isinstance(value, ast.Call) and dotted(value.func) == "float" and value.args:
        return _is_read(value.args[0])
    return isinstance(value, ast.Subscript) or (isinstance(value, ast.Call) and dotted(value.func).endswith(".get"))


def _number(value: ast.expr) -> float | None:
    """A number that is written down, or infinite."""
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
        inner = _number(value.operand)
        return None if inner is None else -inner
    if isinstance(value, ast.Call) and dotted(value.func) == "float" and len(value.args) == 1:
        text = getattr(value.args[0], "value", None)
        return float(text) if text in ("inf", "-inf", "+inf") else None
    if isinstance(value, ast.Attribute) and value.attr in ("inf", "Inf", "infty"):
        return float("inf")
    number = value.value if isinstance(value, ast.Constant) else None
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


def _switched(file: File) -> Iterator[Finding]:
    """Directions that are written down beside the name of the score."""
    for node in file.nodes:
        words: dict[str, ast.expr] = {}
        if isinstance(node, ast.Call):
            words = {word.arg: word.value for word in node.keywords if word.arg}
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            words = {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
        for score, way in SWITCHES:
            given, told = (getattr(words.get(name), "value", None) for name in (score, way))
            falls = _said(given) if isinstance(given, str) else None
            if falls is not None and told in (("max", True) if falls else ("min", False)):
                yield _finding(file, words[way], "", f"`{score}={given!r}` is kept by `{way}={told!r}`")


def _finding(file: File, node: ast.expr, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function + '() ' if function else ''}{told}; allowed: the way in which it is better",
        culprit=file.at(node, function),
        fix=FIX,
    )
