"""Padding has the end token's id, and a mask is made by comparing ids with it.

## What it detects

`labels[ids == pad_id] = -100`, or `mask = ids != pad_id`, in a trainer that pads with the end token.

## Why it matters

The end token that a row really has looks like padding. It is no label, or is not attended to, so the model is never
trained to stop; the loss falls as it should, and only generation shows it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. It is asked of a trainer

* in which padding is given the end token, as it stands or where there is nothing else: by an assignment, a key, an
  argument or its default, what a function of padding's name gives back, or two constants of one number side by side;
  arguments of what generates, and a model's own configuration, say nothing of the data;
* whose rows have an end token: it is added, appended or written into a text, or a chat template is applied.

Findings are comparisons with padding's id, by `==`, `!=`, `eq` or `ne`, that say what is put to an ignored label, that
choose between such a label and another value, or that are stored, given or given back under a mask's name; losses that
ignore that id; and the collator of transformers for language modelling without masks, which compares. None are those
in a function that generates or hides tokens for a masked language model (`special_tokens_mask`), of prompts or queries,
or in an expression or with a store behind it that has the end token, a length or a running sum as well; nor those in a
folder that loads tokenizers of its own and gives their padding no end token. What labels are padded with is no id of
padding's.

Statistic: such masks; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
tokenizer.pad_token = tokenizer.eos_token
labels[ids == tokenizer.pad_token_id] = -100
```

Good:

```python
positions = torch.arange(ids.shape[1])
labels[positions >= lengths[:, None]] = -100                 # or attention_mask == 0
```

## How to fix

Make the mask of the rows' lengths, or take the tokenizer's; or give padding an id of its own.

## Known limits

Padding is known by its name, and is taken for one in all files. Lengths that are counted by a comparison, and ids that
reach a function by their place among its arguments, are not seen.

## Sources

The `DataCollatorForLanguageModeling` of transformers, which puts -100 wherever a label is the padding's id.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of
from gradgate.checks.source.values import Names, assignments_in, defaults_of, last_name, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG446", "end-masked-as-padding"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
_ID = r"(_?(tok|token))?(_?(id|idx|index))?$"
PAD = re.compile(r"(^|_)pad(ding)?" + _ID, re.IGNORECASE)
END = re.compile(r"(^|_)(eos|eot|eod|end_?of_?(text|turn|seq\w*|sentence)|end(?=_?(tok|id)))" + _ID, re.IGNORECASE)
MASK = re.compile(r"mask|label|target|(^|_)(valid|real|keep|trainable|weights?|attention)(_|$)", re.IGNORECASE)
OF_LABELS = re.compile(r"label|target|ignore", re.IGNORECASE)
LOADS = re.compile(r"Tokenizer\w*\.from_pretrained\(|tokenizer\w* = .*\.from_pretrained\(")
NOT_OF_DATA = re.compile(r"(model|generation|llm)\w*\.(\w+\.)*\w+$", re.IGNORECASE)
OF_A_MODEL = re.compile(r"config\S*\.pad_token_id$")
NOT_OF_ROWS = re.compile(r"prompt|quer(y|ies)|context|config|settings|\bargs\b", re.IGNORECASE)
GENERATES = re.compile(r"generat|sampl(e|ing)|decode", re.IGNORECASE)
SETTINGS = re.compile(r"generat|sampl(e|ing)|decode|config", re.IGNORECASE)
WHOLE = re.compile(r"eos|eot|end_|length|lens\b|cumsum|attention_mask", re.IGNORECASE)
IGNORED = re.compile(r"^(-100|-1|False|0|0\.0)$|ignore", re.IGNORECASE)
TEMPLATES = ("apply_chat_template", "add_eos", "append_eos")
COLLATOR = "DataCollatorForLanguageModeling"
FILLS = ("masked_fill", "masked_fill_", "where")
COUNTS = ("sum", "any", "all", "nonzero", "argmax", "argmin", "count_nonzero", "mean", "item", "len", "print")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what pads, and what is compared with it."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    by_file = {file.path: list(_given(file)) for file in files if file.has("pad", "PAD")}
    given = [pair for pairs in by_file.values() for pair in pairs]
    ends = {last for last, value in given if value is None}
    ends |= {f"{last}_id" for last in ends}  # a tokenizer's `pad_token` gives it its `pad_token_id`
    others = {last for last, value in given if isinstance(value, ast.Constant) and isinstance(value.value, int)} - ends
    asked = bool(ends) and any(map(_has_an_end, files))
    if asked:
        giving = {Path(path).parent for path, pairs in by_file.items() if any(value is None for _, value in pairs)}
        loading = {
            Path(file.path).parent for file in files if file.has("okenizer") and any(map(LOADS.search, file.lines))
        }
        files = tuple(file for file in files if Path(file.path).parent not in loading - giving)
    findings = tuple(finding for file in files for finding in _of_file(file, others)) if asked else ()
    return Outcome(findings, {"masks": len(findings)}, {"masks": 0})


def _given(file: File) -> Iterator[tuple[str, ast.expr | None]]:
    """What padding is given, by the last of its name; nothing: the end token."""
    for place, value in _pairs(file):
        last = place.rpartition(".")[2]
        if PAD.search(last) and not NOT_OF_DATA.search(place):
            parts = value.values if isinstance(value, ast.BoolOp) else [value]
            parts = [value.body, value.orelse] if isinstance(value, ast.IfExp) else parts
            yield last, None if any(END.search(_last(part)) for part in parts) else value
    for body in (node.body for node in file.nodes if isinstance(node, ast.Module | ast.ClassDef)):
        numbers = {dotted(target).rpartition(".")[2]: ast.unparse(value) for target, value in assignments_in(body)}
        ends = {value for name, value in numbers.items() if END.search(name) and value.isdigit()}
        yield from ((name, None) for name, value in numbers.items() if PAD.search(name) and value in ends)


def _pairs(file: File) -> Iterator[tuple[str, ast.expr]]:
    """What has a name and a value: targets, keys, arguments and their defaults, and what functions give back."""
    for target, value in assignments_in(file.nodes):
        yield dotted(target) if not isinstance(target, ast.Subscript) else _last(target), value
    for node in file.nodes:
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
        elif isinstance(node, ast.Call) and not SETTINGS.search(dotted(node.func)):
            yield from ((word.arg, word.value) for word in node.keywords if word.arg)
    for function, _ in file.functions:
        yield from ((each.arg, value) for each, value in defaults_of(function.args))
        if PAD.search(function.name) and isinstance(back := function.body[-1], ast.Return) and back.value:
            yield function.name, back.value


def _has_an_end(file: File) -> bool:
    """Whether rows are given an end token."""
    if file.has(*TEMPLATES):
        return True
    for node in file.nodes if file.has("eos", "EOS", "eot", "EOT", "end") else ():
        inside: list[ast.expr] = []
        if isinstance(node, ast.List):
            inside = node.elts
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            inside = [node.left, node.right]
        elif isinstance(node, ast.FormattedValue):
            inside = [node.value]
        elif isinstance(node, ast.Call) and called_name(node) in ("append", "insert"):
            inside = node.args
        if any(END.search(_last(part)) for part in inside):
            return True
    return False


def _last(node: ast.AST) -> str:
    """What a name, an attribute or an item is called."""
    if isinstance(node, ast.Call) and dotted(node.func) in ("int", "str") and node.args:
        return _last(node.args[0])
    return last_name(node)


def _of_file(file: File, others: set[str]) -> Iterator[Finding]:
    if not file.has("pad", "PAD", COLLATOR):
        return
    parents: dict[int, ast.AST] = {}
    for function, _ in file.functions:
        nodes = own_nodes(function)
        called = [called_name(node) for node in nodes if isinstance(node, ast.Call)]
        if any(map(GENERATES.search, (*called, function.name))) or "get_special_tokens_mask" in called:
            continue
        names = Names(function)
        for node in nodes:
            if isinstance(node, ast.Call) and (told := _ignored(node, names, others)):
                yield _finding(file, node, function.name, told)
            elif isinstance(node, ast.Compare | ast.Call) and _compares(node, names, others):
                parents = parents or parents_in(file.tree)
                if _makes_a_mask(node, function, nodes, parents):
                    yield _finding(file, node, function.name, f"makes a mask by `{ast.unparse(node)}`")


def _is_padding(node: ast.AST, names: Names, others: set[str]) -> bool:
    """Whether something is called after padding, and is not known to be another number than the end's."""
    if not isinstance(node, ast.expr) or not PAD.search(_last(node)) or _last(node) in others:
        return False
    if OF_LABELS.search(_last(node)):
        return False
    held = names.held(node)
    if OF_A_MODEL.search(ast.unparse(held)):
        return False
    return held is node or bool(PAD.search(_last(held)) or END.search(_last(held)) or not _last(held))


def _ignored(call: ast.Call, names: Names, others: set[str]) -> str:
    """What a loss or a collator of a library does with padding's id."""
    words = {word.arg: word.value for word in call.keywords}
    if (given := words.get("ignore_index")) is not None and _is_padding(given, names, others):
        return f"ignores the labels that are `{ast.unparse(given)}`"
    masks = words.get("mlm")
    if dotted(call.func).endswith(COLLATOR) and isinstance(masks, ast.Constant) and masks.value is False:
        return "makes labels by DataCollatorForLanguageModeling, which ignores padding's id,"
    return ""


def _compares(node: ast.Compare | ast.Call, names: Names, others: set[str]) -> bool:
    """Whether ids are compared with padding's."""
    sides: list[ast.expr] = []
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
        sides = [node.left, node.comparators[0]]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("eq", "ne"):
        sides = node.args if dotted(node.func.value) == "torch" else [node.func.value, *node.args]
    pads = [side for side in sides if _is_padding(side, names, others)]
    ids = [side for side in sides if side not in pads and not isinstance(side, ast.Constant)]
    if len(pads) != 1 or len(ids) != 1 or END.search(_last(ids[0])):
        return False
    return not any(NOT_OF_ROWS.search(ast.unparse(each)) for each in (ids[0], names.held(ids[0])))


def _makes_a_mask(
    node: ast.expr, function: Function, nodes: list[ast.AST], parents: dict[int, ast.AST], hops: int = 1
) -> bool:
    """Whether a comparison, or a name that holds it, says what is trained or attended to."""
    inner: ast.AST = node
    for around in outwards(node, parents):
        if isinstance(around, ast.BinOp | ast.BoolOp) and WHOLE.search(ast.unparse(around)):
            return False
        if isinstance(around, ast.Subscript):
            return isinstance(around.ctx, ast.Store) and _puts_ignored(around, nodes)
        if isinstance(around, ast.Call) and inner is not around.func:
            last = called_name(around)
            if last in FILLS:
                return any(IGNORED.search(ast.unparse(given)) for given in around.args)
            if last in COUNTS:
                return False
        elif isinstance(around, ast.Attribute) and around.attr in COUNTS:
            return False
        if isinstance(around, ast.IfExp):
            branches = map(ast.unparse, (around.body, around.orelse))
            return inner is around.test and any(map(IGNORED.search, branches))
        if isinstance(around, ast.BinOp) and isinstance(around.op, ast.Mult):
            return True
        if isinstance(around, ast.keyword):
            return bool(MASK.search(around.arg or ""))
        if isinstance(around, ast.Dict):
            keys = [key for key, value in zip(around.keys, around.values, strict=True) if value is inner]
            return any(isinstance(key, ast.Constant) and MASK.search(str(key.value)) for key in keys)
        if isinstance(around, ast.comprehension | ast.Lambda):
            return False
        if isinstance(around, ast.stmt):
            return _is_kept(around, function, nodes, parents, hops)
        inner = around
    return False


def _is_kept(
    statement: ast.stmt, function: Function, nodes: list[ast.AST], parents: dict[int, ast.AST], hops: int
) -> bool:
    """Whether a statement keeps a comparison as a mask, or under a name that is used as one."""
    if isinstance(statement, ast.Return):
        return bool(MASK.search(function.name))
    for target, value in assignments_in([statement]):
        name = _last(target)
        if MASK.search(name):
            return not WHOLE.search(ast.unparse(value)) and not _is_repaired(target, statement, nodes)
        used = (each for each in nodes if isinstance(each, ast.Name) and each.id == name and each.lineno > value.lineno)
        if hops and isinstance(target, ast.Name):
            return any(_makes_a_mask(each, function, nodes, parents, hops - 1) for each in used)
    return False


def _puts_ignored(place: ast.Subscript, nodes: list[ast.AST]) -> bool:
    """Whether what is stored at a place is an ignored label, and no later line takes it back."""
    for statement in nodes:
        if isinstance(statement, ast.Assign) and place in statement.targets:
            return bool(IGNORED.search(ast.unparse(statement.value))) and not _is_repaired(
                place.value, statement, nodes
            )
    return False


def _is_repaired(target: ast.expr, statement: ast.stmt, nodes: list[ast.AST]) -> bool:
    """Whether a later line stores something there that has to do with the end token or a length."""
    for place, value in assignments_in(nodes):
        if isinstance(place, ast.Subscript) and value.lineno > statement.lineno:
            same = ast.unparse(place.value) == ast.unparse(target)
            if same and WHOLE.search(f"{ast.unparse(place.slice)} {ast.unparse(value)}"):
                return True
    return False


def _finding(file: File, node: ast.expr, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() {told} and padding has the end token's id; allowed: a mask of the rows' lengths",
        culprit=file.at(node, function),
        fix="make the mask of the rows' lengths or take the tokenizer's, or give padding an id of its own",
    )
