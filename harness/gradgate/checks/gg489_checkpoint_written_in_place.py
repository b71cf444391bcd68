"""A checkpoint that a resume reads is written straight to its final name: a save that is cut off leaves half a file.

## What it detects

`torch.save(state, path)`, or a dump into a file that is opened for writing, of a state with an optimizer's in it, in a
trainer that goes on from such a file, where nothing renames a temporary file or folder behind it.

## Why it matters

Jobs are killed and disks fill up while a save writes. What is then under the name is the head of a file: the newest
checkpoint, which a resume takes first, or `last.pt` or `best.pt` over the good one that was there. The run is lost, and
it is found out when it is needed. GG604 tries it, where the adapter gives a run that saves; this rule reads it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are trainers in
which a function loads an optimizer's state, and their calls of `torch.save`, `save_file`, `pickle.dump` and the like.
What one saves is a checkpoint to go on from where it holds an optimizer's state: it is a mapping with one, or what a
function gives back that makes such a mapping, in the function or in one that gives the state to it, three calls far.
The write is whole where the function, or one that calls it, renames or moves a file (`os.replace`, `Path.replace`,
`rename`, `shutil.move`), where the path is called after a temporary one, where the file is of a context manager other
than `open`, where a file that names the latest is written behind it, and where a resume that meets a broken file takes
another one. Statistic: functions that write so; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")
```

Good:

```python
temporary = folder / "last.pt.tmp"
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
os.replace(temporary, folder / "last.pt")
```

## How to fix

Write to a temporary file in the same folder, flush it, and rename it over the final name.

## Known limits

Files of weights alone, which later stages and others read, are left out. What libraries write, and whether the rename
is of the file that was written, is not looked into.

## Sources

rename(2): a file that is replaced is there at every instant. Fault CR-05 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.resuming import Resumes
from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of, given_for
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG489", "checkpoint-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WRITERS = ("torch.save", "save_file", "safetensors.torch.save_file", "pickle.dump", "dill.dump", "joblib.dump")
OPTIMIZER = re.compile(r"opt(?!ion)", re.IGNORECASE)
TEMPORARY = re.compile(
    r"te?mp|part(ial)?(\W|_|$)|scratch|staging|incomplete|\.new\b|buffer|bytesio|stream", re.IGNORECASE
)
LATEST = re.compile(r"latest|last|newest|current|pointer|marker|done|complete", re.IGNORECASE)
WRITES = re.compile(r"""['"](w|a|wt)['"]""")
READS = re.compile(r"^(?!json|yaml|toml|csv)(.*\.)?(_?load(_\w+)?|_?re(store|sume|ad_checkpoint)\w*)$")
ATOMIC = re.compile(r"atomic|swap|commit|finali[sz]e|(^|_)mark_|complete", re.IGNORECASE)
DEPTH = 3  # calls that are followed
FIX = "write to a temporary file in the same folder, and rename it over the final name"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what writes the files that a trainer goes on from."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_in_place(files))
    return Outcome(findings, {"writers": len(findings)}, {"writers": 0})


def _in_place(files: tuple[File, ...]) -> Iterator[Finding]:
    written = [file for file in files if file.has("save(", "dump(", "save_file(")]
    if not written or not any(file.has("load_state_dict") for file in files):
        return
    resumes = Resumes(files)
    if not any(map(resumes.concern, files)) or any(map(_takes_another, files)):
        return
    places = places_in(files)
    for place in places.functions:
        if place.file not in written:
            continue
        for call in (node for node in place.nodes if isinstance(node, ast.Call) and dotted(node.func) in WRITERS):
            target = given_for(call, "f", 1) or given_for(call, "filename", 1)
            state = call.args[0] if call.args else None
            if target is None or state is None or not _holds(state, place, places, DEPTH):
                continue
            if not _is_whole(call, target, place, places):
                yield Finding(
                    code=CODE,
                    name=NAME,
                    message=f"{place.name}() writes what a run goes on from straight to its final name, and nothing "
                    "renames it: a save that is cut off leaves half a file there; allowed: none",
                    culprit=place.file.at(call, place.name),
                    fix=FIX,
                )
                break


def _holds(state: ast.expr, place: Place, places: Places, depth: int) -> bool:
    """Whether what is saved holds an optimizer's state: where it is made, or where it is handed over."""
    parts = list(place.names.parts(state))
    if any(isinstance(part, ast.Dict) and _has_optimizer(part.values) for part in parts):
        return True
    if any(isinstance(part, ast.Call) and _has_optimizer([part]) for part in parts):
        return True
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    items = ((target, value) for target, value in assignments_in(place.nodes) if isinstance(target, ast.Subscript))
    if _has_optimizer(value for target, value in items if dotted(target.value) in names):
        return True
    for call in (part for part in parts if isinstance(part, ast.Call)):
        one = places.called(call, place)
        found = (
            [one] if one is not None else places.named(called_name(call)) if called_name(call) != "state_dict" else []
        )
        if any(_has_optimizer(_values(each)) for each in found):
            return True
    given = [name for name in names if name in place.parameters] if depth else []
    return any(
        _holds(value, caller, places, depth - 1)
        for name in given
        for caller, value in _given(place, name, places)
        if caller is not place
    )


def _has_optimizer(values: Iterable[ast.expr]) -> bool:
    return any("state_dict" in text and OPTIMIZER.search(text) for text in map(ast.unparse, values))


def _values(place: Place) -> Iterator[ast.expr]:
    """The values of the mappings that a function makes, and of the entries that it adds to one."""
    for node in place.nodes:
        if isinstance(node, ast.Dict):
            yield from node.values
        elif isinstance(node, ast.Call) and dotted(node.func) == "dict":
            yield from (word.value for word in node.keywords)
    yield from (value for target, value in assignments_in(place.nodes) if isinstance(target, ast.Subscript))


def _given(place: Place, parameter: str, places: Places) -> Iterator[tuple[Place, ast.expr]]:
    """What calls of a function's name give one of its parameters."""
    for caller, call in places.calls_of(place.name):
        value = place.given(call).get(parameter)
        if value is not None:
            yield caller, value


def _is_whole(call: ast.Call, target: ast.expr, place: Place, places: Places) -> bool:
    """Whether a write is never seen half: it goes elsewhere first, or is named behind, or renamed by what calls it."""
    if any(TEMPORARY.search(ast.unparse(part)) for part in place.names.parts(target) if isinstance(part, ast.expr)):
        return True
    for block in (node for node in place.nodes if isinstance(node, ast.With | ast.AsyncWith)):
        for item in block.items:
            if item.optional_vars is not None and dotted(item.optional_vars) == dotted(target) != "":
                if called_name(item.context_expr) != "open":
                    return True
                if TEMPORARY.search(ast.unparse(item.context_expr)):
                    return True
                opened = [part for part in place.names.parts(item.context_expr) if isinstance(part, ast.expr)]
                if any(TEMPORARY.search(ast.unparse(part)) for part in opened):
                    return True
    return _is_renamed(place, call.lineno, places, DEPTH, set())


def _is_renamed(place: Place, line: int, places: Places, depth: int, seen: set[int]) -> bool:
    """Whether a function renames or moves a file, or one that it calls, or writes behind a line which is the latest; or
    all that call it do."""
    seen.add(id(place.function))
    for call in calls_in(place.function):
        if _renames(call) or (call.lineno > line and (ATOMIC.search(called_name(call)) or _tells_latest(call))):
            return True
        called = places.called(call, place) if depth == DEPTH else None
        if called is not None and called is not place and any(map(_renames, calls_in(called.function))):
            return True
    callers = (
        [(one, call) for one, call in places.calls_of(place.name) if id(one.function) not in seen] if depth else []
    )
    return any(_is_renamed(one, call.lineno, places, depth - 1, seen) for one, call in callers)


def _renames(call: ast.Call) -> bool:
    name = dotted(call.func)
    if name in ("os.replace", "os.rename", "os.renames", "shutil.move", "os.link"):
        return True
    given = len(call.args) + len(call.keywords)
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("rename", "replace", "mv", "move") and given == 1


def _tells_latest(call: ast.Call) -> bool:
    """Whether a call writes a file that names the one to go on from."""
    text = ast.unparse(call)
    if called_name(call) == "open" and not WRITES.search(text):
        return False
    return called_name(call) in ("write_text", "symlink_to", "symlink", "touch", "open") and bool(LATEST.search(text))


def _takes_another(file: File) -> bool:
    """Whether a file that does not load is passed over: the loading goes on with the next one."""
    if not file.has("except"):
        return False
    for loop in (node for node in file.nodes if isinstance(node, ast.For | ast.While)):
        for tried in (node for node in ast.walk(loop) if isinstance(node, ast.Try)):
            loads = any(READS.search(dotted(call.func)) for part in tried.body for call in calls_in(part))
            if loads and not any(isinstance(part, ast.Raise) for each in tried.handlers for part in ast.walk(each)):
                return True
    return False
