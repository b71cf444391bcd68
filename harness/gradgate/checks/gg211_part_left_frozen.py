"""What one function of a trainer freezes, another one releases in part; or a trunk is frozen by parts, and not whole.

## What it detects

`model.trunk.blocks.requires_grad_(True)` behind a stage that froze the whole trunk: its embeddings are parts of it too
and stay frozen. Or a list of modules that one function freezes, and a shorter one that another releases.
Or `freeze_trunk`, which freezes the embeddings and the blocks, and not the norm behind them.

## Why it matters

The second stage is to train everything, and a part keeps its first weights for ever. Nothing fails: the loss falls by
what the other parts learn, and a run that starts with the second stage alone, which freezes nothing, trains all. A norm
that is left out moves the features of a trunk that is thought to stand still, and that others are compared with.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. `requires_grad_(...)` and
`requires_grad = ...` with True or False are followed to the modules that are meant, through loops over parameters and
lists of modules, and through functions that are given a module. A function that releases at least two modules and
freezes none is held against what others freeze: where it releases `trunk.blocks`, the class of `trunk` is looked up,
and what else it makes in `__init__` with parameters is to be released there as well; of a list of modules that another
function freezes, those that it shares one with, each is to be released somewhere; `blocks[:n]` that are frozen count as
`blocks` there.

A function that is named after freezing and freezes at least two parts of a module one by one is held against the
module's class: parts that it does not mention at all are left out where its name says the module (`freeze_trunk`), or
where they are norms alone; unless another function freezes or releases them.

Statistic: modules that stay frozen, or are left out; allowed: 0. A warning: a part may be meant to stay as it is.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def release_trunk(model):
    for module in (model.trunk.blocks, model.heads):
        module.requires_grad_(True)
```

Good:

```python
def release_trunk(model):
    for module in (model.trunk, model.heads):
        module.requires_grad_(True)
```

## How to fix

Release what was frozen: the same list in both, or `model.requires_grad_(True)`.

## Known limits

Modules that are chosen by the names of their parameters, and slices of lists, are not followed.

## Sources

PyTorch, `torch.nn.Module.requires_grad_`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gradgate.checks.source.frozen_parts import Switch, frozen_in_part, parts_of, switches_in
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG211", "part-left-frozen"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
RELEASED = (
    "{place}() releases `{part}` and leaves {names} frozen; allowed: all that was",
    "release what was frozen: the same list of modules in both, or `model.requires_grad_(True)`",
)
FROZEN = (
    "{place}() freezes `{part}` and others, and leaves {names} to train; allowed: all",
    "freeze the module itself: `model.trunk.requires_grad_(False)`",
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for modules that one function freezes and none releases, among others that are."""
    return read_as_one(subject, [("requires_grad_(", "requires_grad = ")], _findings, "parts")


def _findings(places: Places) -> Iterator[Finding]:
    by_place = {place: found for place in places.functions if (found := switches_in(place, places))}
    released = {name for found in by_place.values() for each in found if each.trains for name in each.part}
    frozen = {name for found in by_place.values() for each in found if not each.trains for name in each.part[-1:]}
    for place, found in by_place.items():
        if all(each.trains for each in found) and len({each.part for each in found}) > 1:
            for part, names in _left(place, found, by_place, released, places):
                yield _finding(place, part, names, *RELEASED)
        for part, names in frozen_in_part(place, found, places):
            if not ({name.rpartition(".")[2] for name in names} & frozen | set(names) & released):
                yield _finding(place, part, names, *FROZEN)


def _left(
    place: Place,
    found: Sequence[Switch],
    by_place: Mapping[Place, Sequence[Switch]],
    released: set[str],
    places: Places,
) -> Iterator[tuple[Switch, list[str]]]:
    """Of a function that releases several parts, one of those and the names of what stays frozen beside it."""
    parts = {each.part for each in found}
    for each in found:
        above, name = each.part[:-1], each.part[-1:]
        if len(above) > 1 and above not in parts:
            beside = parts_of(places, above[-1])
            left = beside - {part[-1] for part in parts if part[:-1] == above}
            if left and set(name) <= beside:
                yield each, sorted(f"{above[-1]}.{one}" for one in left)
                return
    own = {part[-1] for part in parts if part}
    for other, switches in by_place.items():
        frozen = {each.part[-1] for each in switches if not each.trains and each.part}
        if other is not place and len(frozen) > 1 and frozen & own and (missing := frozen - released):
            yield found[0], sorted(missing)
            return


def _finding(place: Place, each: Switch, left: Sequence[str], told: str, fix: str) -> Finding:
    names = ", ".join(f"`{name}`" for name in left)
    return Finding(
        code=CODE,
        name=NAME,
        message=told.format(place=place.name, part=".".join(each.part), names=names),
        severity="warning",
        culprit=place.file.at(each.node, place.name),
        fix=fix,
    )
