"""Weights that a run is to start from are missing, and it starts without them.

## What it detects

A file of pretrained weights, such as the value head of an earlier stage, a base model, a reference, a reward model, or
of a tokenizer, that is loaded where it exists, and passed over, in silence or with a line of print, where it does not.

## Why it matters

A mistyped path, or an earlier stage that has failed, trains from random weights. The run goes through, its curve looks
almost right, and the comparison with the baseline says that the method brings nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a condition that asks whether a file exists, or a `glob` gave one, and behind which something is loaded, with no error
where it does not, or a `FileNotFoundError` that is passed over, by `except` or `suppress`; the file, its setting or the
function is named after what a run starts from or scores by (critic, value head, base, pretrained, initial, reference,
teacher, reward, scorer, judge, verifier, tokenizer), and none of them after resuming, a cache or the latest checkpoint,
or the best one that is no stage's. Statistic: such conditions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. A file that may be missing by design is a
warning.

## Example

Bad:

```python
path = Path(config.critic_checkpoint)
if path.exists():
    model.value_head.load_state_dict(torch.load(path))
```

Good:

```python
if not path.exists():
    raise FileNotFoundError(f"critic_checkpoint: {path} does not exist")
```

## How to fix

Raise where a file that is configured is missing; let `None` say that none is wanted.

## Known limits

What asks in another function, and a `try` around the loading, are not looked at; GG613 sees the latter.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.passed_over import EXISTS, LOADS, MISSING, Asks, asked_for, is_passed_over, loads
from gradgate.checks.source.trainer import File, Function, called_name, nodes_in, read_file_by_file
from gradgate.checks.source.values import Names, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG437", "missing-file-passed-over"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
START = re.compile(
    r"critic|value_?head|stage_?(1|one)|base|pre_?train|(^|[^a-z])init|reference|(^|[^a-z])ref_|teacher|warm_?start"
    r"|backbone|reward_?(model|net|head|weights|path|ckpt|check)|reward(er)?(?![a-z_])|scorer|judge|verifier|tokeni[sz]er"
)
OTHER = re.compile(
    r"resum|latest|last|cache|optim|sched|best|config(?!\.)|recipe(?!\.)|ya?ml|json|toml|recover|done|finish"
)
STAGE = re.compile(
    r"critic|value_?head|stage_?(1|one)|reference|teacher|backbone|reward|scorer|judge|verifier"
)  # whose best may be the file


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for weights that are loaded where they happen to be there."""
    return read_file_by_file(subject, _found, "files_passed_over")


def _found(file: File) -> Iterator[Finding]:
    for function, _ in file.functions if file.has(*EXISTS, *MISSING, "glob(") else ():
        names = Names(function)
        for node, path, there, missing in asked_for(own_nodes(function), function, names):
            if loads(there) and is_passed_over(missing) and _is_start(path, names, function, there):
                yield _finding(file, node, function.name, path)


def _is_start(path: ast.expr, names: Names, function: Function, there: Sequence[ast.AST]) -> bool:
    """Whether the file holds what a run starts from, by the words around it."""
    calls = [node for node in nodes_in(there) if isinstance(node, ast.Call) and LOADS.search(called_name(node))]
    own = [ast.unparse(part) for part in (path, names.held(path))]
    words = " ".join([function.name.removeprefix("__init__"), *own]).lower()
    if STAGE.search(words):
        words = words.replace("best", "")
    return bool(START.search(" ".join([words, *map(ast.unparse, calls)]).lower())) and not OTHER.search(words)


def _finding(file: File, branch: Asks, function: str, path: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() goes on without `{ast.unparse(path)}` where that file is missing, from weights that are "
        "drawn; allowed: an error",
        severity="warning",
        culprit=file.at(branch, function),
        fix="raise where a file that is configured is missing; let None say that none is wanted",
    )
