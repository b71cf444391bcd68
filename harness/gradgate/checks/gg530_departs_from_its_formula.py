"""A number that a function of the trainer gives departs from the formula that is declared for it.

## What it detects

Whatever a formula of the paper or of the README says otherwise than the code: a divergence the wrong way round, an
order of clipping and scaling, a mean over other places, a mask that is forgotten, values of another copy or in other
units, a ramp or a temperature that is one step off or never moves, a smoothing that enters twice, a metric over
padding. In the configured run, in each setting of `options`, and in an evaluation.

## Why it matters

A trainer computes some ten numbers of its own, and each has one line in its documentation. Nothing else compares the
two.

## How it decides

`Run.formulas` has a function of the declared variables for each place, written from the documentation. Two steps are
made, an evaluation, and a third step, in float64, as configured and with each option moved; every call of the place's
function (six at most of each setting) is held against the declared formula on the arguments as they were when the call
began, and on the other local variables as they were when it ended. Where the formula gives NaN, nothing is declared.

A formula that says `detach` somewhere is held to its gradients, too: of the number by each variable of the formula that
has one, in a random direction, to 1e-3 of the larger. So a weight that is to be a constant, a target that is to stay
where it is, and a term that was computed without a gradient are told. Where the numbers depart as well, a gradient is
told by variables of which the formula has none. What a decorated function returns is not held to them: a decorator may
stop them.

Tolerance of values: 1e-4 of the largest magnitude that the formula gives for the call: trainers cast to float32 inside,
whose sums over a batch are good to 1e-5, and what is computed by another formula is some percent away.

False-alarm rate: 0 where the formula is the documentation's.

## Example

Bad:

```python
kl = F.kl_div(log_pi, log_ref, log_target=True)              # KL(ref || pi), and the README says KL(pi || ref)
```

In the adapter, a line each:

```python
formulas = {
    "compute_loss:kl": lambda log_pi, log_ref: (log_pi.exp() * (log_pi - log_ref)).sum(-1).mean(),
    "head_weights:return": lambda scores, valid: softmax(scores.detach(), valid),  # constants
    "Weighter.temperature:return": lambda self, step: self.start * self.decay ** min(step, self.steps),
}
```

## How to fix

Read the declared line beside the code. Where the code is right, mend the documentation, and the adapter with it.

## Known limits

A formula sees what its function has: an argument that is wrong already is its caller's. A local variable that is
overwritten on the way is seen as it is in the end, an argument as it was given; a module among the arguments as it is
in the end, too.

## Sources

Faults of eight trainers that the catalogue was tried on, most of them departures from a README.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.formula_gradients import gradients_apart, says_what_is_constant
from gradgate.checks.moved import in_words, plain_and_moved
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.recorded_calls import Call, Recorded
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.errors import SubjectError, nearest
from gradgate.core.finding import Finding
from gradgate.core.origin import at_line, in_one_line
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate.subjects.own_files import defines
from gradgate.subjects.places import RETURN, Place

CODE, NAME = "GG530", "departs-from-its-formula"
NEEDS: tuple[str, ...] = ("formulas",)
PER_STAGE = True
STEPS, MOST = 2, 6
HAND_ON = ("@staticmethod", "@classmethod", "@property")
ALLOWED = 1e-4
NOT_THERE = ", and no file of the trainer defines such a function"
FIX = "read the declared line beside the code; where the code is right, mend the documentation and the adapter"

Formula = Callable[..., Any]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Record the calls of each place's function, and compute what it was to give."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    formulas = {_place(text): formula for text, formula in (run.formulas or {}).items()}
    ledger = _Ledger(formulas)
    _start_again(stage, context, ledger)
    for options, each in plain_and_moved(run, stage, context):
        ledger.options = options
        _drive(each, ledger, context.seed, strict=not options)
    measured = {"distance": ledger.worst, "calls": sum(ledger.compared.values())}
    never = [text for text, count in ledger.compared.items() if not count]
    if never and len(never) == len(ledger.compared):
        why = _of_no_call(never, ledger.called)
        return Outcome((), measured, {"distance": ALLOWED}, inconclusive=why)
    unknown = [text for text in never if not defines(Place.of(text).function)]  # others are another stage's
    notes = [Finding(CODE, NAME, _of_no_call([text], ledger.called), severity="note") for text in unknown]
    return Outcome((*ledger.found.values(), *notes), measured, {"distance": ALLOWED})


class _Ledger:
    """What was compared, and what departs.

    Args:
        formulas: by place.
    """

    def __init__(self, formulas: Mapping[Place, Formula]) -> None:
        self.formulas = formulas
        self.options: Mapping[str, Any] = {}
        self.found: dict[str, Finding] = {}
        self.compared = {place.text: 0 for place in formulas}
        self.called: set[str] = set()
        self.writes: dict[CodeType, bool] = {}
        self.worst = 0.0

    def tell(self, function: str, call: Call) -> None:
        """Hold a call that ends against the formulas of its function."""
        self.called.add(function)
        for place, formula in self.formulas.items():
            if place.function == function:
                try:
                    self._judge(place, formula, call)
                except Exception as error:  # of the adapter, or of what it names; the trainer goes on
                    said = str(error) if isinstance(error, SubjectError) else in_one_line(error)
                    self.compared[place.text] += 1
                    self.found.setdefault(place.text, Finding(CODE, NAME, said, fix="mend the formula in the adapter"))

    def _judge(self, place: Place, formula: Formula, call: Call) -> None:
        judged = _judge(place, formula, call, self.options)
        if judged is not None:
            distance, finding = judged
            self.compared[place.text] += 1
            self.worst = max(self.worst, distance)
            if finding is not None:
                self.found.setdefault(place.text, finding)
            if says_what_is_constant(formula) and not _is_finished_outside(place, call):
                names, departs = list(_parameters(formula)), finding is not None
                said = gradients_apart(place, formula, names, call, constants_alone=departs)
                if said:
                    self.found.setdefault(f"{place.text}, gradient", _finding(place, call, said, self.options))


def _is_finished_outside(place: Place, call: Call) -> bool:
    """Whether what is returned goes through a decorator, which may be what stops its gradient."""
    first = linecache.getline(call.code.co_filename, call.code.co_firstlineno).strip()
    returned = place.text.partition(":")[2].startswith(RETURN)
    return returned and first.startswith("@") and not first.startswith(HAND_ON)


def _of_no_call(texts: Sequence[str], called: set[str]) -> str:
    """Why places were compared in no setting."""
    said = []
    for text in texts:
        function = Place.of(text).function
        why = (
            "has no value in the calls that ended"
            if function in called
            else "is of no call of a start, a step or an evaluation"
        )
        said.append(f"{text!r} {why}{'' if function in called or defines(function) else NOT_THERE}")
    return "; ".join(said)


def _place(text: str) -> Place:
    place = Place.of(text)
    if not place.function:
        raise SubjectError(f"formulas: {text!r} names no function, expected `function:variable` or `function:return`")
    return place


def _start_again(stage: Stage, context: Context, ledger: _Ledger) -> None:
    """A start, in which what builds the data and the model is called."""
    recorded = Recorded({place.function for place in ledger.formulas}, MOST, ledger.tell, ledger.writes)
    with calling("start()"), recorded.on():
        stage.start(context.seed, dtype=torch.float64, device=context.device)


def _drive(run: Run, ledger: _Ledger, seed: int, *, strict: bool) -> None:
    """Steps and an evaluation, in which every call of a declared function is told to the ledger."""
    recorded = Recorded({place.function for place in ledger.formulas}, MOST, ledger.tell, ledger.writes)
    try:
        with seeded(seed), calling("step()"), recorded.on():
            batches = run.batches()
            for batch in islice(batches, STEPS):
                run.step(batch)
            if "evaluate" in declared(run):
                run.evaluate()
            run.step(next(batches))
    except Exception:
        if strict:
            raise


def _judge(
    place: Place, formula: Formula, call: Call, options: Mapping[str, Any]
) -> tuple[float, Finding | None] | None:
    """How far a call is from its formula, relative to the largest that this gives, and what is wrong; None: it has no
    value there."""
    given = place.value(call.variables)
    value = _number(place, call)
    if value is None:
        if given is None:
            return None
        held = f"is a {type(given).__name__} in {at_line(call.code, call.code.co_firstlineno)}"
        raise SubjectError(f"formulas: {place.text!r} {held}, expected a tensor or a number")
    expected = _expected(place, formula, call)
    if expected.shape != value.shape and expected.numel() != 1 and value.numel() != 1:
        shapes = f"{list(value.shape)}, and by the declared formula {list(expected.shape)}"
        return float("inf"), _finding(place, call, f"has the shape {shapes}", options)
    value, expected = torch.broadcast_tensors(value, expected)
    told = ~expected.isnan()
    if not bool(told.any()):
        return 0.0, None
    scale = max(
        float(expected[told & expected.isfinite()].abs().max()) if bool((told & expected.isfinite()).any()) else 0.0,
        1e-6,
    )
    apart = torch.where(told & (value != expected), (value - expected).abs().nan_to_num(nan=torch.inf), 0.0) / scale
    at = tuple(int(i) for i in torch.unravel_index(apart.argmax(), apart.shape))
    distance = float(apart[at])
    if distance <= ALLOWED:
        return distance, None
    where = f" at {list(at)}" if at else ""
    text = f"is {float(value[at]):.6g}{where}, and by the declared formula {float(expected[at]):.6g}"
    return distance, _finding(place, call, f"{text}; allowed: {ALLOWED * scale:.2g} apart", options)


def _number(place: Place, call: Call) -> Tensor | None:
    value = place.tensor(call.variables)
    return None if value is None else value.detach().cpu().double()


def _expected(place: Place, formula: Formula, call: Call) -> Tensor:
    names, variables = list(_parameters(formula)), {**call.variables, **call.given}
    for name in names:
        if name not in variables:
            has = sorted(key for key in variables if key != RETURN)
            near = nearest(name, has)
            raise SubjectError(
                f"formulas[{place.text!r}] takes {name!r}, no variable of the function{near}; it has {has}"
            )
    try:
        with torch.no_grad(), without_dropout():
            expected = formula(**{name: variables[name] for name in names})
    except Exception as error:
        raise SubjectError(f"formulas[{place.text!r}] raised {in_one_line(error)}") from error
    return torch.as_tensor(expected).detach().cpu().double()


def _parameters(formula: Formula) -> Iterator[str]:
    for name, parameter in inspect.signature(formula).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            yield name


def _finding(place: Place, call: Call, said: str, options: Mapping[str, Any]) -> Finding:
    return Finding(
        CODE,
        NAME,
        f"`{place.text}` {said}{in_words(options)}",
        culprit=at_line(call.code, call.code.co_firstlineno),
        fix=FIX,
        detail={"place": place.text},
    )
