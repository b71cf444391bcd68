"""A score is read off the last column of rows that are padded on the right.

## What it detects

`self.score(hidden[:, -1])` in the forward of a reward model, a value head or a classifier, in a trainer that pads its
rows behind their last token.

## Why it matters

The longest row of a batch is scored at its last token. All others are scored at a padding token: a reward that depends
on which rows share a batch, and a head that learns to score padding. Loss and accuracy look plausible, as padding sees
the row in front of it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A trainer pads on the right
where it writes `row + [pad] * n`, `F.pad(row, (0, n))`, `pad_sequence`, or a tensor of padding at `[i, : len(row)]`
(GG478's ways), and nowhere on the left: no side is spoken of, no `[pad] * n + row`, no `F.pad(row, (n, 0))`. A model
that scores is a class that is named after rewards, values, critics, classifiers, scores, preferences or judges, or one
that makes a linear layer of one output. Findings are its `[:, -1]`, `[:, -1, :]`, `[..., -1, :]`, `.select(1, -1)` and
`[:, x.size(1) - 1]` in what is called `forward`, or after scoring or pooling.

One that knows lengths in the same class (`gather`, `lengths - 1`, packed sequences, `flip`, a comparison with the
padding's id), or that takes a token of what it gives, is clean. Whether those very rows reach the model is not known: a
warning. Statistic: such places.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class RewardModel(nn.Module):
    def forward(self, ids, mask):
        hidden = self.trunk(ids, mask)
        return self.score(hidden[:, -1]).squeeze(-1)
```

Good:

```python
        last = (torch.arange(ids.shape[1], device=ids.device) * mask).argmax(-1)
        return self.score(hidden[torch.arange(len(ids)), last]).squeeze(-1)
```

## How to fix

Read each row at the last place where its mask is set.

## Known limits

Rows that a library's collator pads are not seen. What padding makes of a real score is GG406's, which runs it.

## Sources

transformers' `...ForSequenceClassification`, which looks for the last token that is none of padding.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.left_padding import SIDE
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.right_padding import is_filled, is_padding, pads_behind
from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG498", "last-column-of-padded-rows"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SCORES = re.compile(
    r"Reward|Value|Critic|Classif|Scor(er|ing)|Judge|Verifier|Rank(er|ing)|Preference|Discriminator|(^|_)RM$"
)
READS = re.compile(r"^(forward|__call__|_?(score|reward|pool|value|values|predict|rate|judge)\w*)$")
KNOWS = re.compile(
    r"gather|take_along|\bflip|pack_padded|\blen\w*( |\) )- 1\b|(?<!cum)sum\([^)]*\) - 1\b|argmax|multinomial|lengths"
    r"|(pad|eos)\w*_(id|token|idx)|[!=]= self\.pad|\.(ne|eq)\("
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for scores of the last column, where padding stands."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    known = {file for file in files if file.has("-1", "- 1")}
    own = places_in(files) if known else None
    found = list(_findings(own, known)) if own is not None and _pads_on_the_right(own, files) else []
    return Outcome(tuple(found), {"places": len(found)}, {"places": 0})


def _pads_on_the_right(own: Places, files: tuple[File, ...]) -> bool:
    """Whether rows have padding behind them somewhere, and nowhere in front."""
    if any(SIDE.search(line) or '"left"' in line or "'left'" in line for file in files for line in file.lines):
        return False
    right = False
    for place in own.functions:
        for node in place.nodes:
            if _pads_in_front(node):
                return False
            right = right or pads_behind(node, any_side=True) or is_filled(node, place)
    return right


def _pads_in_front(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_padding(node.left) and not is_padding(node.right)
    if called_name(node) == "pad" and isinstance(node, ast.Call) and len(node.args) > 1:
        sizes = node.args[1].elts if isinstance(node.args[1], ast.Tuple | ast.List) else []
        return len(sizes) == 2 and ast.unparse(sizes[1]) == "0" and ast.unparse(sizes[0]) not in ("0", "1")
    return False


def _findings(own: Places, known: set[File]) -> Iterator[Finding]:
    for place in own.functions:
        owner = place.owner
        if owner is None or place.file not in known or not READS.search(place.name) or not _scores(owner):
            continue
        if KNOWS.search(ast.unparse(owner)):
            continue
        read = next((node for node in place.nodes if _is_last_column(node)), None)
        if isinstance(read, ast.expr):
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{owner.name}.{place.name}() reads a score off `{ast.unparse(read)}`, and rows are padded on "
                "the right: all but the longest are scored at padding; allowed: each row's last token",
                severity="warning",
                culprit=place.file.at(read, place.name),
                fix="read each row at the last place where its mask is set",
            )


def _scores(owner: ast.ClassDef) -> bool:
    """Whether a class is a module that gives a score: by its name, or a layer of one output."""
    if not any(dotted(base).rpartition(".")[2].endswith(("Module", "Model", "Head")) for base in owner.bases):
        return False
    if SCORES.search(owner.name):
        return True
    layers = (call for call in calls_in(owner) if called_name(call) == "Linear" and len(call.args) > 1)
    return any(isinstance(call.args[1], ast.Constant) and call.args[1].value == 1 for call in layers)


def _is_last_column(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
        texts = list(map(ast.unparse, parts))
        if len(parts) == 3 and texts[0] in ("...", ":") and texts[2] == ":":
            return _is_last(parts[1])
        return len(parts) == 2 and texts[0] == ":" and _is_last(parts[1])
    if isinstance(node, ast.Call) and called_name(node) == "select":
        given = [*node.args, *(word.value for word in node.keywords)]
        return [ast.unparse(each) for each in given[-2:]] in (["1", "-1"], ["-2", "-1"])
    return False


def _is_last(index: ast.expr) -> bool:
    """Whether an index is -1, or a width less one."""
    if ast.unparse(index) == "-1":
        return True
    less = isinstance(index, ast.BinOp) and isinstance(index.op, ast.Sub) and ast.unparse(index.right) == "1"
    return less and bool(re.search(r"\.size\((1|-2)\)|\.shape\[(1|-2)\]", ast.unparse(index)))
