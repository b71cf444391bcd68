"""What a launch of a program left in its folder: records of its logs, and values of the files that torch can load."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gradgate.checks.launches import TEXTS

Record = Mapping[str, Any]


def records_of(folder: Path) -> dict[str, list[Record]]:
    """What was logged: the records of each file of JSON lines, CSV, or a JSON list, by its path in the folder."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and (records := _records(file)):
            found[str(file.relative_to(folder))] = records
    return found


def _records(file: Path) -> list[Record]:
    try:
        if file.suffix in (".jsonl", ".ndjson", ".log", ".txt"):
            found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content if isinstance(content, list) else []
        elif file.suffix in (".csv", ".tsv"):
            with file.open(newline="", encoding="utf-8") as opened:
                rows = csv.DictReader(opened, delimiter="\t" if file.suffix == ".tsv" else ",")
                found = [{key: _number(text) for key, text in row.items() if key is not None} for row in rows]
        else:
            return []
    except (OSError, ValueError):
        return []
    return [dict(_values("", record)) for record in found if isinstance(record, dict)]


def _number(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text


_CLOCK = re.compile(
    r"time|sec(s|onds?)?$|elapsed|date|_per_|/s$|speed|throughput|memory|_mem$|^mem_|duration|timestamp|_at$"
)


def is_of_the_clock(key: str) -> bool:
    """Whether two equal runs need not log the same under this name."""
    return bool(_CLOCK.search(key.lower()))


def contents_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of the folder that torch can load: its values by name."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.suffix in TEXTS:
            continue
        try:
            content = torch.load(file, map_location="cpu", weights_only=False)  # the subject wrote it a moment ago
        except Exception:  # a format of its own  # noqa: S112
            continue
        found[str(file.relative_to(folder))] = dict(_values("", content))
    return found


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _values(f"{name}[{i}]", inner)
    elif hasattr(value, "tolist") and not isinstance(value, torch.Tensor):  # numpy's
        yield from _values(name, value.tolist())
    elif isinstance(value, torch.Tensor | int | float | str | bool | bytes | None):
        yield name, value


STEP = re.compile(r"(^|[._/])(global_)?(step|update|iter|iteration)s?$")
Series = tuple[str, ...]  # a number's name, its log, and the words that tell its record from others


def numbers_in(logs: Mapping[str, Sequence[Record]]) -> dict[Series, list[tuple[int | None, float]]]:
    """Each number that is no whole one, of each log and of each stage that it tells apart: steps, where records have
    one, and values."""
    found: dict[Series, list[tuple[int | None, float]]] = {}
    for file, records in logs.items():
        for record in records:
            words = tuple(f"{value}" for key, value in record.items() if isinstance(value, str) or key == "stage")
            steps = (value for key, value in record.items() if STEP.search(key.lower()) and type(value) is int)
            step = next(steps, None)
            for key, value in record.items():
                if isinstance(value, float):
                    found.setdefault((key, file, *words), []).append((step, value))
    return found
