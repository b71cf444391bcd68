"""An order is drawn anew in each epoch, from a seed that is the same in all of them.

## What it detects

`Generator().manual_seed(self.seed)` and `randperm`, in a sampler that counts its epochs.

## Why it matters

Each epoch has the order of the first: the same rows make the same batches, next to the same others, and `drop_last`
leaves the same ones out for ever. The sampler counts its epochs and saves them, so a look at it shows nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions that
seed (`manual_seed`, `Random`, `default_rng`, `RandomState`) and draw an order behind that (`randperm`, `shuffle`,
`permutation`, `sample`), themselves or by a function that they give the seed. A finding is one whose seed is made of no
more than attributes that only `__init__` assigns, fixed numbers and arguments of such,

* in a method of a class that counts an epoch or is told one (an attribute called after it, which `set_epoch`, a setter
  or a loop changes), where no other method seeds by it, and which `__init__` does not call; what `__init__` alone runs
  is drawn once;
* in a function, or a method, that is given an epoch and reads it nowhere.

Not so where the class is one for an evaluation or a split by its name, or the method is. Statistic: such functions;
allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def order(self):
    gen = torch.Generator().manual_seed(self.seed)
    return torch.randperm(self.n_rows, generator=gen)
```

Good:

```python
def order(self):
    gen = torch.Generator().manual_seed(self.seed + self.epoch)
    return torch.randperm(self.n_rows, generator=gen)
```

## How to fix

Seed by the seed and the epoch together.

## Known limits

Epochs are known by their names. An epoch that is in the seed and that nobody sets is GG648's.

## Sources

A convergence fault of a trainer that was read for the catalogue; PyTorch's `DistributedSampler` seeds by `self.seed +
self.epoch`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.gg648_epoch_never_set import EPOCH
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG665", "epoch-not-in-the-seed"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SEEDS = ("manual_seed", "Random", "default_rng", "RandomState", "seed")
DRAWS = ("randperm", "shuffle", "permutation", "permuted", "sample", "multinomial")
FIXED = re.compile(r"eval|valid|(^|_)val(_|$)|test|split|hold|fold|init|setup|subset|few_?shot", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for orders that each epoch shares."""
    return read_place_by_place(subject, _may_seed, _of_place, "orders")


def _may_seed(file: File) -> bool:
    return file.has("epoch") and file.has(*SEEDS)


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    owner = place.owner
    if place.name in ("__init__", "set_epoch") or FIXED.search(f"{place.name} {owner.name if owner else ''}"):
        return
    seed = next(_seeds(place, own), None)
    if seed is None or _holds_epoch(place, seed):
        return
    given = [name for name in place.parameters if EPOCH.search(name)]
    if given and not any(isinstance(node, ast.Name) and node.id == given[0] for node in place.nodes):
        if not place.does_nothing:
            yield _finding(place, seed, f"is given `{given[0]}`")
    elif owner is not None and not given:
        methods = own.methods_of(owner)
        epoch = _epoch_of(methods)
        used = not epoch or any(_uses(each, epoch, own) for each in methods)
        if not used and not _is_part_of_making(place, methods) and _is_fixed(seed, place, methods):
            yield _finding(place, seed, f"has `self.{epoch}`")


def _seeds(place: Place, own: Places) -> Iterator[ast.Call]:
    """The calls that seed what an order is drawn from, in a function, or in one that it gives the seed."""
    calls = [node for node in place.nodes if isinstance(node, ast.Call)]
    draws = any(called_name(call) in DRAWS and not _goes_on(call, place) for call in calls)
    for call in calls:
        if draws and called_name(call) in SEEDS and given_by(call):
            yield call
            continue
        called = own.called(call, place)
        if called is None or called is place or called.owner is not None or called.name == "__init__":
            continue
        inner = [node for node in called.nodes if isinstance(node, ast.Call)]
        seeding = [node for node in inner if called_name(node) in SEEDS and given_by(node)]
        if seeding and any(called_name(node) in DRAWS for node in inner):
            yield call


def _goes_on(draw: ast.Call, place: Place) -> bool:
    """Whether what is drawn from is kept by the object, and neither made nor seeded in this function."""
    source = next((word.value for word in draw.keywords if word.arg == "generator"), None)
    name = dotted(source if source is not None else getattr(draw.func, "value", draw))
    seeded = {dotted(call.func).rpartition(".")[0] for call in place.nodes if isinstance(call, ast.Call)
              if called_name(call) in SEEDS}  # fmt: skip
    made = {dotted(target) for target, _ in assignments_in(place.nodes)}
    return name.startswith("self.") and name not in seeded | made


def _holds_epoch(place: Place, seed: ast.Call) -> bool:
    """Whether what is given has something to do with an epoch."""
    parts = (part for each in given_by(seed) for part in place.names.parts(each))
    return any("epoch" in dotted(part).lower() for part in parts if isinstance(part, ast.expr))


def _epoch_of(methods: list[Place]) -> str:
    """The epoch that a class counts or is told; empty: it has none."""
    for method in methods:
        if method.name == "__init__":
            continue
        targets = [each for target, _ in assignments_in(method.nodes) for each in places_of(target)]
        targets += [node.target for node in method.nodes if isinstance(node, ast.AugAssign)]
        for target in targets:
            before, _, name = dotted(target).rpartition(".")
            if before == "self" and EPOCH.search(name):
                return name
    return ""


def _is_part_of_making(place: Place, methods: list[Place]) -> bool:
    """Whether `__init__` alone calls a method."""
    callers = {
        method.name
        for method in methods
        for node in method.nodes
        if isinstance(node, ast.Call) and dotted(node.func) == f"self.{place.name}"
    }
    return callers == {"__init__"}


def _uses(method: Place, epoch: str, own: Places) -> bool:
    """Whether a method seeds by the epoch, or moves what it draws by it."""
    seeds = [node for node in method.nodes if isinstance(node, ast.Call) and called_name(node) in (*SEEDS, *DRAWS)]
    if any(_holds_epoch(method, call) for call in (*seeds, *_seeds(method, own))):
        return True
    return any(
        isinstance(node, ast.For | ast.BinOp | ast.Subscript) and isinstance(part, ast.Attribute) and part.attr == epoch
        for node in method.nodes
        for part in (ast.walk(node) if not isinstance(node, ast.For) else ast.walk(node.iter))
    )


def _is_fixed(seed: ast.Call, place: Place, methods: list[Place]) -> bool:
    """Whether a seed is made of numbers and of attributes that only `__init__` assigns."""
    changed = {
        dotted(each)
        for method in methods
        if method.name not in ("__init__", "load_state_dict")
        for node in method.nodes
        for each in (
            [node.target]
            if isinstance(node, ast.AugAssign)
            else [one for target, _ in assignments_in([node]) for one in places_of(target)]
        )
    }
    for part in (part for each in given_by(seed) for part in place.names.parts(each)):
        if isinstance(part, ast.Call) and called_name(part) not in ("int", "hash", "len", "SeedSequence"):
            return False
        if isinstance(part, ast.Attribute) and dotted(part) in changed:
            return False
        if isinstance(part, ast.Name) and part.id in place.parameters and part.id not in ("self", "cls"):
            return False
    return True


def _finding(place: Place, seed: ast.Call, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() {told}, and draws its order from `{ast.unparse(seed)}`: the same in each epoch; "
        "allowed: a seed with the epoch in it",
        culprit=place.file.at(seed, place.name),
        fix="seed by the seed and the epoch together",
    )
