"""Settings: a trainer's configuration, read for keys that can be moved, and a copy of it in which some are."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gradgate.core.errors import SubjectError, nearest
from gradgate.subjects.named_values import named_values
from gradgate.subjects.revalidated import revalidated

# Words of keys that say where and how often, not what is trained: a short run shows nothing of them.
_ELSEWHERE = re.compile(
    r"(^|[._])(cache|checkpoint|comment|data|debug|description|device|dir|directory|dist|dtype|early|ema|epoch|eval|every|file|folder"
    r"|freq|frequency|host|id|interval|keep|last|length|log|logging|metric|min_delta|monitor|name|output|path|patience|persistent|pin|port|precision|prefetch|profile"
    r"|profiler|project|report|resume|run|save|seed|step|stop_after|stop_at|streaming|tag|thread|verbose|version|wandb|worker)s?([._]|$)"
)
_PROCESS = re.compile(
    r"(^|[._])((local|global|node|machine)_rank|world_size)$|^rank$"
)  # `rank.coef`, `lora.rank` train
_DATA = re.compile(r"^(\w+\.)*data\.")  # a section of which switches say what batches look like
_CEILING = re.compile(r"clip|max|limit|(^|_)cap(_|$)|bound|delta|threshold")  # half may be above all there is
# Steps over which something of the training comes in or goes: 0 is all of it at once.
_RAMP = re.compile(
    r"(warm_?up|ramp|anneal|blend|uniform|curriculum|freeze|frozen|delay|burn_?in|tau|temp|temperature|kl|beta|entropy|floor"
    r"|mix|detach|hold)_(up_|down_|in_|out_|trunk_)?steps$"
)
_OF_ACCUMULATION = re.compile(r"accum|micro_?(batches|steps)$|(batches|steps)_per_update$", re.IGNORECASE)
_OF_EVALUATION = re.compile(r"(^|[._])(eval|evaluation|val|valid|validation|test)[._](\w+_)?(batch(_?size)?|bs)$")


class Guessed(tuple[Any, ...]):
    """Values that nobody listed: a trainer may refuse one."""


_NOTHING: Mapping[str, Sequence[Any]] = MappingProxyType({})


def options_of(
    config: Any, *, also: Mapping[str, Sequence[Any]] = _NOTHING, leave_out: Sequence[str] = ()
) -> dict[str, Sequence[Any]]:
    """Every key of a configuration that a short run may show, with values to move it to: for `Stage.options`.

    A number goes to its half, a ceiling (`reward_clip`, `max_norm`) to a hundredth, 0 to 0.1 or 1, a switch to its
    opposite; steps that something comes in over (`warmup_steps`, `tau_steps`) go to 0, and 0 of them to 2; names go to
    the others of their Literal or Enum, or to those that the trainer's imported modules hold them against
    (`named_values`). Keys whose words say where and how often (`log_every`, `output_dir`, `seed`, `num_workers`,
    `max_steps`, `stop_after`) are left to `also`, but for the size of an evaluation's batches and the number of an
    update's micro-batches.

    Args:
        config: a mapping, dataclass, pydantic model, namespace or plain object, nested or not.
        also: keys to add, or whose values to set, where this guesses none.
        leave_out: keys, or what they begin with, to leave alone.

    Returns:
        Dotted key -> values, the configured one first.
    """
    acting = [(key, value, hint) for key, value, hint in _keys(config) if _acts(key, value)]
    texts = {key: value for key, value, _ in acting if isinstance(value, str)}
    names = named_values(texts, adapter=sys._getframe(1).f_code.co_filename)
    moved = {key: Guessed(_moved(key, value, hint, names.get(key, ()))) for key, value, hint in acting}
    found = {key: values for key, values in moved.items() if values}
    kept = {key: values for key, values in found.items() if not key.startswith(tuple(leave_out))}
    return {**(kept if leave_out else found), **also}


def configured(config: Any, options: Mapping[str, Any] | None) -> Any:
    """A copy of a configuration in which some keys are set; what `start(options=...)` trains with.

    What the configuration checks by itself is asked once more: pydantic models are validated, dataclasses go through
    `__post_init__`, and a `validate()` without arguments is called.

    Args:
        config: as for `options_of`.
        options: dotted key -> value; None: none.

    Raises:
        SubjectError: it has no such key.
        Exception: what the configuration raises where it refuses a value.
    """
    changed = copy.deepcopy(config)
    sections: set[tuple[str, ...]] = set()
    for key, value in (options or {}).items():
        *path, last = key.split(".")
        holder = _at(changed, path, key)
        _held(holder, last, key)
        _put(holder, last, value)
        sections.update(tuple(path[:depth]) for depth in range(len(path) + 1))
    for section in sorted(sections, key=len, reverse=True):
        made = revalidated(_at(config, section), _at(changed, section))
        if not section:
            return made
        _put(_at(changed, section[:-1]), section[-1], made)
    return changed


def _at(config: Any, path: Sequence[str], key: str = "") -> Any:
    """The section at the end of a path of names."""
    for name in path:
        config = _held(config, name, key)
    return config


def _put(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, Mapping):
        typing.cast("dict[str, Any]", holder)[name] = value
    else:
        object.__setattr__(holder, name, value)  # frozen ones, too: the copy is nobody else's
        given: set[str] = getattr(holder, "model_fields_set", set())
        given.add(name)


def _held(holder: Any, name: str, key: str) -> Any:
    fields = _fields(holder)
    if name not in fields:
        raise SubjectError(f"options[{key!r}]: the configuration has no {name!r}{nearest(name, fields)}")
    return fields[name]


def _fields(holder: Any) -> dict[str, Any]:
    if isinstance(holder, Mapping):
        return dict(holder)
    if dataclasses.is_dataclass(holder):
        return {field.name: getattr(holder, field.name) for field in dataclasses.fields(holder)}
    return {name: value for name, value in getattr(holder, "__dict__", {}).items() if not name.startswith("_")}


def _keys(holder: Any, before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value and annotation of everything that is no section."""
    hints = _hints(type(holder))
    for name, value in _fields(holder).items():
        if isinstance(value, bool | int | float | str | Enum) or value is None:
            yield before + name, value, hints.get(name)
        elif not isinstance(value, Sequence):
            yield from _keys(value, f"{before}{name}.")


def _hints(kind: type) -> Mapping[str, Any]:
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):
        return {}


def is_of_evaluation(key: str) -> bool:
    """Whether a key says how many rows a batch of an evaluation has: no step shows it, `evaluate` may."""
    return bool(_OF_EVALUATION.search(key.lower()))


def is_of_accumulation(key: str) -> bool:
    """Whether a key, or a text of the source, says of how many micro-batches an update is made."""
    return bool(_OF_ACCUMULATION.search(key))


def _acts(key: str, value: Any) -> bool:
    part = _DATA.sub("", key.lower()) if isinstance(value, bool | str | Enum) else key.lower()
    if is_of_evaluation(key) or is_of_accumulation(key) or _RAMP.search(part):
        return True
    return not (_ELSEWHERE.search(part) or _PROCESS.search(part))


def _moved(key: str, value: Any, hint: Any, names: Sequence[str]) -> tuple[Any, ...]:
    if get_origin(hint) is Literal or isinstance(value, Enum):
        named = [*type(value)] if isinstance(value, Enum) else get_args(hint)
        return (value, *[other for other in named if other != value]) if len(named) > 1 else ()
    if isinstance(value, str):
        return (value, *[other for other in names if other != value]) if value in names and len(names) > 1 else ()
    if isinstance(value, bool):
        return (value, not value)
    if isinstance(value, int) and _RAMP.search(key.lower()):
        return (value, 0 if value else 2)
    if isinstance(value, int):
        return (value, value // 2 if value > 1 else value + 1)
    if isinstance(value, float):
        return (value, value / (100 if _CEILING.search(key.lower()) else 2) if value else 0.1)
    return ()
