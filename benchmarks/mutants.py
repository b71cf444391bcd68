"""`python -m benchmarks.mutants`: the harness's own tests under mutation; the score as JSON.

mutmut finds sources under `src` alone, so the library is laid out so in a folder of its own; nothing here is changed.
What is mutated, and by which tests it is judged, stands in pyproject.toml under [tool.mutmut].
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", ".*")
KILLED = ("killed", "timeout", "segfault", "caught_by_type_check")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation", help="where to work")
    parser.add_argument("--json", type=Path, default=ROOT / "reports" / "mutation.json", help="write the score there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--least", type=float, default=0.9, help="exit code 1 below this score")
    given = parser.parse_args()
    lay_out(given.folder)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    mutmut = [sys.executable, "-m", "mutmut"]
    for words in (["run", "--max-children", str(given.jobs)], ["export-cicd-stats"]):
        subprocess.run([*mutmut, *words], cwd=given.folder, env=environment, check=True)  # noqa: S603
    survivors = subprocess.run(  # noqa: S603
        [*mutmut, "results"], cwd=given.folder, env=environment, check=True, capture_output=True, text=True
    )
    counts = json.loads((given.folder / "mutants" / "mutmut-cicd-stats.json").read_text("utf-8"))
    score = scored(counts, survivors.stdout)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
    print(f"killed {score['killed']} of {score['mutants']} mutants: {score['score']:.1%}; written: {given.json}")
    return 0 if score["score"] >= given.least else 1


def lay_out(folder: Path) -> None:
    """The project as mutmut wants it; what it knows of an earlier run stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in (("harness", "src"), ("suites", "suites"), ("fixtures", "fixtures"), ("wmtp", "wmtp")):
        shutil.copytree(ROOT / source, folder / target, ignore=IGNORED, dirs_exist_ok=True)
    for name in ("pyproject.toml", "conftest.py", "README.md"):
        shutil.copy2(ROOT / name, folder / name)


def scored(counts: dict[str, int], survivors: str) -> dict[str, object]:
    """What the report shows.

    Args:
        counts: mutants by what became of them, as mutmut exports them.
        survivors: a mutant a line, `name: survived`.
    """
    killed = sum(counts.get(name, 0) for name in KILLED)
    mutants = counts["total"] - counts.get("skipped", 0)
    names = [line.split(":")[0].strip() for line in survivors.splitlines() if ": " in line]
    return {"schema_version": 1, "killed": killed, "mutants": mutants, "score": killed / mutants, "survivors": names}


if __name__ == "__main__":
    sys.exit(main())
