"""A row is cut at its end, where the response stands, and nobody is told.

## What it detects

`(prompt_ids + response_ids)[:max_length]`, `tokenizer(prompt + response, truncation=True)`: what is cut away is the end
of the response, its end token first, and of a long prompt all of it.

## Why it matters

A row without its end teaches a model not to stop; one without any of its response supervises nothing, dilutes the mean
and may divide by zero; the reward of a cut row belongs to a text that is not there. With one setting too small all of
the data may be like this, and the loss looks as ever.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A sum, a list of lists or a
formatted string, one part of which is called after a prompt and a later one after a response, or is held by a name that
is given such a thing, is cut where it, or a variable or a call of an encoder that it goes into, is sliced up to a limit
(`max_length`, `block_size`, `max_seq_len`, …), or is tokenised with `truncation=True`; and a response where it is
sliced up to a limit less the length of its prompt. A function that raises, warns, logs or prints is taken for one that
tells. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
input_ids = (prompt_ids + response_ids + [eos])[:max_length]
```

Good:

```python
room = max_length - len(response_ids) - 1
if room < 1:
    raise ValueError(f"row {number}: {len(response_ids)} tokens of response do not fit into {max_length}")
input_ids = prompt_ids[-room:] + response_ids + [eos]
```

## How to fix

Cut the prompt, from its left; leave rows out whose response does not fit, and say how many.

## Known limits

Texts that are joined in another function, or under names that say nothing, are not seen; nor are cuts in a data set
that was tokenised beforehand. That rows end with an end token is for GG413.

## Sources

Faults MB-25 and DC-06 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, Function, calls_in, dotted, read_file_by_file
from gradgate.checks.source.values import Names
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG423", "response-cut-silently"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PROMPT = re.compile(r"prompt|question|instruction|query|context|problem", re.IGNORECASE)
RESPONSE = re.compile(
    r"response|answer|completion|output|(?<!en)(?<!de)code|solution|target|chosen|rejected", re.IGNORECASE
)
LIMIT = re.compile(r"(max|block|seq|context|cutoff)\w*(len|length|size|tokens)", re.IGNORECASE)
TELLS = re.compile(r"warn|log|print|write", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each place where a limit cuts a row."""
    return read_file_by_file(subject, cuts_in, "cuts")


def cuts_in(file: File) -> Iterator[Finding]:
    """The places of a file that cut a prompt with its response at the end."""
    for function, _ in file.functions:
        if not _tells(function):
            held = Names(function)
            joined = _joined(function, held)
            yield from (_finding(file, function, node) for node in ast.walk(function) if _cuts(node, joined, held))


def _tells(function: Function) -> bool:
    refuses = any(isinstance(node, ast.Raise | ast.Assert) for node in ast.walk(function))
    return refuses or any(TELLS.search(dotted(call.func)) for call in calls_in(function))


def _joined(function: Function, held: Names) -> set[str]:
    """The variables that hold a prompt with its response, in the order of the lines."""
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _joins(node.value, names, held):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _joins(value: ast.expr, names: set[str], held: Names) -> bool:
    """Whether a prompt and a response stand in a row there, or go into an encoder together."""
    if isinstance(value, ast.Name):
        return value.id in names
    if isinstance(value, ast.Call):
        return any(_joins(given, names, held) for given in value.args)
    if isinstance(value, ast.Subscript):
        return not isinstance(value.slice, ast.Slice) and _joins(value.value, names, held)
    parts = list(_said(value, held))
    prompt = next((at for at, part in enumerate(parts) if PROMPT.search(part)), len(parts))
    return any(map(RESPONSE.search, parts[prompt + 1 :]))


def _said(value: ast.expr, held: Names) -> Iterator[str]:
    """The parts of a sum, of a list of lists or of a formatted string, as they are written where they are made."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        yield from (*_said(value.left, held), *_said(value.right, held))
    elif isinstance(value, ast.List | ast.Tuple):
        yield from (_written(part.value, held) for part in value.elts if isinstance(part, ast.Starred))
    elif isinstance(value, ast.JoinedStr):
        yield from (_written(part.value, held) for part in value.values if isinstance(part, ast.FormattedValue))
    else:
        yield _written(value, held)


def _written(part: ast.expr, held: Names) -> str:
    text = ast.unparse(part)
    return text if PROMPT.search(text) or RESPONSE.search(text) else ast.unparse(held.held(part))


def _cuts(node: ast.AST, joined: set[str], held: Names) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        upper = node.slice.upper
        limit = ast.unparse(upper) if node.slice.lower is None and upper is not None else ""
        return bool(LIMIT.search(limit)) and (
            _joins(node.value, joined, held) or _what_a_prompt_leaves(node.value, limit)
        )
    if isinstance(node, ast.Call):
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        cut = options.get("truncation")
        cuts = isinstance(cut, ast.Constant) and cut.value in (True, "longest_first")
        return cuts and any(_joins(given, joined, held) for given in node.args)
    return False


def _what_a_prompt_leaves(cut: ast.expr, limit: str) -> bool:
    """Whether a response is cut to what its prompt leaves of the limit: `response[: max_len - len(prompt)]`."""
    prompts = [name for name in re.findall(r"len\(([\w.\[\]'\"]+)\)", limit) if PROMPT.search(name)]
    name = ast.unparse(cut)
    return "-" in limit and bool(prompts) and bool(RESPONSE.search(name)) and not PROMPT.search(name)


def _finding(file: File, function: Function, node: ast.AST) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() cuts a prompt with its response at the end, and tells nobody: a long row loses its "
        "response; allowed: none",
        culprit=file.at(node, function.name),
        fix="cut the prompt from its left, leave out rows whose response does not fit, and say how many",
    )
