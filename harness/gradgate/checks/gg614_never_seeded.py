"""The trainer draws random numbers, and no file of it sets a seed.

## What it detects

A shuffle, a sample, dropout or a random initial weight in a trainer whose files seed nothing; numbers from Python's or
NumPy's generator where torch's alone is seeded; a function that seeds and that nothing calls; one that seeds NumPy's
generator for its rows and draws them from Python's.

## Why it matters

No run can be repeated: a fault that showed once is gone, and two settings cannot be told apart from two seeds. A small
run under a harness does not show it, since the harness sets the seeds itself.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Draws are calls of `random`,
`numpy.random` and torch's functions of random numbers without a generator of their own, loaders that shuffle, and
dropout where something is put into train mode. Seeds are `manual_seed`, `random.seed`, `numpy.random.seed` and any call
with `seed` in its name that the trainer does not define itself, which is taken for one that seeds everything; what
stands in a function that is named after seeding counts where something calls that function. A `TrainingArguments` or a
`Trainer` of transformers seeds by itself. `np.random.default_rng()`, `RandomState()` and `random.Random()` that are
given no seed, and whose name is given none either, draw one from the system.

A function that seeds a generator of the whole program, and that draws, itself or by what it calls, from others of these
alone, seeds the wrong one; so does one that makes a generator of its own with a seed, reads it nowhere, and draws from
one of the whole program. Not so where something is called that may draw from the first: layers, models, splits of other
packages, or all that a `main` of a file with such a package starts.

Statistic: generators that are drawn from and never seeded, or made without a seed; allowed: 0.

Looked at only where there is an entry: `if __name__ == "__main__"`, a `main`, a command line, or a function outside a
class that loops and saves. A library leaves seeds to those who use it.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
torch.manual_seed(args.seed)
random.shuffle(rows)                                         # Python's generator has no seed
```

Good:

```python
torch.manual_seed(args.seed)
random.Random(args.seed).shuffle(rows)
```

## How to fix

Seed every generator that is drawn from, first thing, from one setting that the log shows.

## Known limits

A seed that is set after the first draw, and one that a file sets that is not among those read, are not told apart:
name the whole folder with `Subject(source=...)`. Whether one seed gives one run is GG601's.

## Sources

PyTorch notes, "Reproducibility".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain

from gradgate.checks.source.other_seeds import other_seeds
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, Function, called_name, calls_in, dotted, files_of
from gradgate.checks.source.values import assignments_in, is_true, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG614", "never-seeded"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GENERATORS = {"torch": "torch's generator", "random": "Python's generator", "numpy": "NumPy's generator"}
OF_TORCH = (
    *("rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "rand_like", "randn_like"),
    *("random_split", "RandomSampler"),
)
DROPOUT = ("dropout", "Dropout")  # draws where something is put into train mode
OF_PYTHON = ("shuffle", "choice", "choices", "sample", "random", "randint", "randrange", "uniform", "gauss")
NOT_DRAWN = ("seed", "default_rng", "RandomState", "Generator", "SeedSequence", "get_state", "set_state")
UNSEEDED = ("random.default_rng", "random.RandomState", "random.Random")  # of which each one has its own seed
SEEDS_ITSELF = ("transformers", "trl")  # their Trainer seeds everything, from its arguments
COMMAND_LINE = ("parse_args", "parse_known_args", "fire.Fire", "Fire", "tyro.cli", "HfArgumentParser")
SAVES = ("torch.save", "save_pretrained", "save_model", "save_file")
FIX = "seed every generator that is drawn from, first thing: torch.manual_seed(seed), random.seed(seed), ..."


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is drawn from against what is seeded."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    if not any(_has_entry(file) for file in files):
        return Outcome(not_applicable="no file of the trainer has an entry: seeds are its users' to set")
    trains = any(
        isinstance(call.func, ast.Attribute) and call.func.attr == "train"
        for file in files
        for call in calls_in(file.tree)
    )
    drawn = list(chain.from_iterable(_draws(file, (*OF_TORCH, *DROPOUT) if trains else OF_TORCH) for file in files))
    seeded = _seeded(files)
    findings = [
        _finding(generator, places, bool(seeded))
        for generator in GENERATORS
        if generator not in seeded and (places := [place for place in drawn if place[0] == generator])
    ]
    findings += [_of_its_own(file, call) for file in files for call in _never_given_a_seed(file)]
    findings += [
        _of_another(place, seed, draw, generator)
        for place, seed, draw, generator in other_seeds(places_in(files))
        if generator in seeded
    ]
    measured = {"generators_never_seeded": len(findings), "draws": len(drawn)}
    return Outcome(tuple(findings), measured, {"generators_never_seeded": 0})


def _has_entry(file: File) -> bool:
    if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in file.tree.body):
        return True
    if any(dotted(node.func).endswith(COMMAND_LINE) for node in calls_in(file.tree)):
        return True
    return any(owner is None and _trains(function) for function, owner in file.functions)


def _trains(function: Function) -> bool:
    """Whether a function outside a class is called `main`, or loops and saves."""
    if function.name == "main":
        return True
    loops = any(isinstance(node, ast.For | ast.While) for node in ast.walk(function))
    return loops and any(dotted(call.func).endswith(SAVES) for call in calls_in(function))


def _draws(file: File, of_torch: tuple[str, ...]) -> Iterator[tuple[str, File, ast.Call]]:
    """Which generator is drawn from, and where."""
    modules = {
        alias.asname or alias.name: alias.name
        for node in file.nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for call in calls_in(file.tree):
        name = dotted(call.func)
        before, _, last = name.rpartition(".")
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        if modules.get(before) == "random" and last in OF_PYTHON:
            yield "random", file, call
        elif before.endswith(".random") and modules.get(before.partition(".")[0]) == "numpy" and last not in NOT_DRAWN:
            yield "numpy", file, call
        elif "generator" in options or "random_state" in options:
            continue
        elif (last == "DataLoader" and is_true(options.get("shuffle"))) or (
            last in of_torch and _is_torch(before, modules)
        ):
            yield "torch", file, call


def _never_given_a_seed(file: File) -> Iterator[ast.Call]:
    """The generators that a file makes without a seed, and gives none behind."""
    if not file.has(*UNSEEDED):
        return
    drawn_seeds = {  # a seed that is asked of the system
        id(part)
        for target, value in assignments_in(file.nodes)
        if "seed" in last_name(target).lower()
        for part in ast.walk(value)
    }
    named = {id(value): dotted(target) for target, value in assignments_in(file.nodes)}
    seeded = {
        before
        for call in calls_in(file.tree)
        if (name := dotted(call.func)).endswith((".seed", ".setstate", ".set_state"))
        for before in [name.rpartition(".")[0]]
    }
    for call in calls_in(file.tree):
        is_made = dotted(call.func).endswith(UNSEEDED) and not call.keywords
        is_given = any(not isinstance(each, ast.Constant) or each.value is not None for each in call.args)
        if is_made and not is_given and id(call) not in drawn_seeds and named.get(id(call), "") not in seeded:
            yield call


def _is_torch(before: str, modules: dict[str, str]) -> bool:
    return modules.get(before.partition(".")[0], "").partition(".")[0] == "torch" or before in ("nn", "F")


def _seeded(files: tuple[File, ...]) -> set[str]:
    """The generators that some line seeds."""
    own = {function.name for file in files for function, _ in file.functions if "seed" in function.name.lower()}
    called = {called_name(call) for file in files for call in calls_in(file.tree)}
    seeded: set[str] = set()
    for file in files:
        if any(_seeds_itself(node) for node in file.nodes):
            return set(GENERATORS)
        idle = {
            id(call) for function, _ in file.functions if function.name in own - called for call in calls_in(function)
        }
        for call in calls_in(file.tree):
            name = dotted(call.func)
            if (
                id(call) not in idle
                and "seed" in name.rpartition(".")[2].lower()
                and name.rpartition(".")[2] not in own
            ):
                seeded |= _seeded_by(name)
    return seeded


def _seeded_by(name: str) -> set[str]:
    before, _, last = name.rpartition(".")
    if last.startswith("manual_seed"):
        return {"torch"}
    if last == "seed":
        return {"random"} if before == "random" else {"numpy"} if before.endswith("random") else set(GENERATORS)
    return set(GENERATORS) if last != "initial_seed" else set()


def _seeds_itself(node: ast.AST) -> bool:
    """Whether a Trainer or its arguments are imported that seed everything."""
    if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in SEEDS_ITSELF:
        return False
    return any(alias.name.endswith(("Trainer", "TrainingArguments")) for alias in node.names)


def _of_its_own(file: File, call: ast.Call) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(call)}` is a generator that is given no seed: the system draws one; allowed: none",
        culprit=file.at(call),
        fix=f"give it the run's: `{dotted(call.func)}(seed)`",
    )


def _of_another(place: Place, seed: ast.Call, draw: ast.Call, generator: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name or 'the file'} seeds a generator by `{ast.unparse(seed)}` and draws from another, "
        f"{GENERATORS[generator]}, by `{ast.unparse(draw)}`; allowed: none",
        culprit=place.file.at(seed, place.name),
        fix="draw from a generator of its own that is given the seed: `random.Random(seed)`",
        detail={"generator": generator, "places": 1},
    )


def _finding(generator: str, places: list[tuple[str, File, ast.Call]], others: bool) -> Finding:
    _, file, call = places[0]
    what = f"`{dotted(call.func)}` draws from {GENERATORS[generator]}"
    more = f" ({len(places)} places do)" if len(places) > 1 else ""
    told = "nothing seeds it, only another" if others else "no file of the trainer sets a seed"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{what}{more}, and {told}; allowed: none",
        culprit=file.at(call),
        fix=FIX,
        detail={"generator": generator, "places": len(places)},
    )
