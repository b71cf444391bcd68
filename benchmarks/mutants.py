"""`python -m benchmarks.mutants`: the harness's own tests under mutation; the scores as JSON.

mutmut finds sources under `src` alone, so the library is laid out so in a folder of its own for each group; nothing
here is changed. What a group mutates, and by which tests, stands in pyproject.toml under [tool.mutants.GROUP].
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", ".*")
KILLED = ("killed", "timeout", "segfault", "caught by type check")
COMMON = {"source_paths": ["src"], "also_copy": ["conftest.py", "fixtures", "suites", "wmtp"]}
PYTEST = ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib"]


def main() -> int:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutants"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *groups], help="of pyproject.toml; all where none is named")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation", help="where to work")
    parser.add_argument("--json", type=Path, default=ROOT / "reports" / "mutation.json", help="write the scores there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--least", type=float, default=0.9, help="exit code 1 where a group is below this score")
    given = parser.parse_args()
    results = {name: run(given.folder / name, groups[name], given.jobs) for name in given.groups or groups}
    score = scored(results)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
    for name, group in score["groups"].items():
        print(f"{name}: {_words(group)}")
        for module, part in group["modules"].items():
            print(f"  {module}: {_words(part)}")
    print(f"all: {_words(score)}; written: {given.json}")
    return 0 if all(group["score"] >= given.least for group in score["groups"].values()) else 1


def run(folder: Path, group: Mapping[str, Any], jobs: int) -> dict[str, str]:
    """What became of each mutant of a group.

    Args:
        folder: where to work; what mutmut knows there of an earlier run stays.
        group: as pyproject.toml has it.
        jobs: processes at a time.
    """
    lay_out(folder, group)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run", "--max-children", str(jobs)], cwd=folder, env=environment, check=True)  # noqa: S603
    said = subprocess.run(  # noqa: S603
        [*mutmut, "results", "--all", "true"], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return dict(line.strip().rsplit(": ", 1) for line in said.stdout.splitlines() if ": " in line)  # type: ignore[misc]


def lay_out(folder: Path, group: Mapping[str, Any]) -> None:
    """The project as mutmut wants it, with the settings of one group."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in (("harness", "src"), ("suites", "suites"), ("fixtures", "fixtures"), ("wmtp", "wmtp")):
        shutil.copytree(ROOT / source, folder / target, ignore=IGNORED, dirs_exist_ok=True)
    for name in ("conftest.py", "README.md"):
        shutil.copy2(ROOT / name, folder / name)
    settings = {**COMMON, **group, "pytest_add_cli_args": [*PYTEST, *group.get("pytest_add_cli_args", [])]}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]  # lists of texts: JSON is TOML
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text("\n".join([project, "[tool.mutmut]", *lines, ""]), "utf-8")


def scored(results: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What the report shows.

    Args:
        results: by group, what became of each mutant.
    """
    groups = {}
    for name, fates in results.items():
        modules: dict[str, dict[str, str]] = {}
        for mutant, fate in fates.items():
            modules.setdefault(mutant.rsplit(".", 1)[0], {})[mutant] = fate
        groups[name] = {**_score(fates), "modules": {module: _score(part) for module, part in sorted(modules.items())}}
    fates = {mutant: fate for group in results.values() for mutant, fate in group.items()}
    survivors = [mutant for mutant, fate in fates.items() if fate not in (*KILLED, "skipped")]
    return {"schema_version": 1, **_score(fates), "groups": groups, "survivors": survivors}


def _score(fates: Mapping[str, str]) -> dict[str, Any]:
    counts = Counter(fates.values())
    killed, mutants = sum(counts[fate] for fate in KILLED), counts.total() - counts["skipped"]
    return {"killed": killed, "mutants": mutants, "score": killed / mutants}


def _words(score: Mapping[str, Any]) -> str:
    return f"killed {score['killed']} of {score['mutants']} mutants, {score['score']:.1%}"


if __name__ == "__main__":
    sys.exit(main())
