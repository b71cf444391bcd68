"""A function writes into the labels, the mask or the tokens that it is given: the batch is another one afterwards.

## What it detects

`index = labels.clamp_(min=0)` in a function that is given `labels`: what was ignored is token 0 from there on.

## Why it matters

Whoever asks the batch next, the loss behind a reference's scores, counts padding and prompts as targets. No gradient is
wrong, so nothing raises; a batch that is used twice is another one the second time.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of a
method whose name ends in `_`, of an argument that is called labels, targets, mask, valid, ids or tokens, of a function
that assigns that name nothing before and does not give it back; not where it is what the function is named after
(`mask_labels_`, `collate`).

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def token_losses(logits, labels):
    index = labels.clamp_(min=0)
```

Good:

```python
    index = labels.clamp(min=0)
```

## How to fix

Take the operation that makes a new tensor, without the `_`.

## Known limits

Writes by an index, and into a batch's attributes, are not looked at. What a step writes into its batch is GG104's,
which runs it.

## Sources

PyTorch, "Tensor Views" and the naming of in-place operations: a name that ends in `_` changes the tensor itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source_values import assignments_in, own_nodes, places_of
from gradgate.checks.trainer_source import File, Function, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG454", "batch-written-in-place"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_A_BATCH = re.compile(r"(^|_)(labels?|targets?|mask|valid|ids|tokens?)(_[A-Z]+)?$")
IN_PLACE = re.compile(r"[a-z]_$")
MAKES = re.compile(
    r"_$|collat|fill|pad_|_pad|corrupt|noise|mask_|_mask|shift|prepare|augment|preprocess", re.IGNORECASE
)
NO_WRITES = ("requires_grad_", "share_memory_", "pin_memory_")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for methods that write into what a function is given."""
    return read_file_by_file(subject, _of_file, "writes")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("_("):
        return
    for function, _ in file.functions:
        given = _given(function)
        if not given or MAKES.search(function.name):
            continue
        nodes = own_nodes(function)
        assigned = {dotted(place) for target, _ in assignments_in(nodes) for place in places_of(target)}
        values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
        returned = {dotted(place) for value in values for place in places_of(value)}
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and IN_PLACE.search(node.func.attr):
                name = dotted(node.func.value)
                if name in given - assigned - returned and node.func.attr not in NO_WRITES:
                    yield _finding(file, node, function.name, name)


def _given(function: Function) -> set[str]:
    """The arguments that are called after a part of a batch."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {each.arg for each in arguments if OF_A_BATCH.search(each.arg)}


def _finding(file: File, call: ast.Call, function: str, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() writes into the `{name}` that it is given, by `{ast.unparse(call)}`; allowed: none",
        culprit=file.at(call, function),
        fix="take the operation without the `_`, which makes a new tensor",
    )
