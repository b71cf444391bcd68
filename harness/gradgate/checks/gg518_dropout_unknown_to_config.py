"""A dropout is given to a configuration of transformers under a name that its class does not have.

## What it detects

`LlamaConfig(dropout=0.1)`: Llama's one dropout is `attention_dropout`.

## Why it matters

A configuration keeps whatever it is given as an attribute of its own, prints it and saves it, and the model that is
built of it reads other names. The run trains without the dropout that its settings say, and nothing raises.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are the
configurations of models whose dropouts are listed below, imported from transformers: what they are made with, or
`from_pretrained` is given, by keywords, by a `dict` or a mapping that is written down, and what is assigned to one
that a name holds in the same function. Findings are names that say dropout and are none of the model's. A name that
the trainer reads of a configuration (`config.value_dropout`, `getattr(config, "value_dropout", 0.0)`) is its own, for
a part of its own.

Statistic: such names; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
config = LlamaConfig(hidden_size=64, dropout=args.dropout)
```

Good:

```python
config = LlamaConfig(hidden_size=64, attention_dropout=args.dropout)
```

## How to fix

Give the name that the class has, or build the dropout yourself.

## Known limits

Dropouts alone are looked at: sizes under a wrong name show in the shapes. Configurations that `AutoConfig` chooses
are not known.

## Sources

transformers, `PreTrainedConfig`: further keyword arguments are set as attributes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of
from gradgate.checks.source.values import assignments_in, contains, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG518", "dropout-unknown-to-config"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DROPOUT = re.compile(r"drop_?out|_pdrop$|drop_?rate|layerdrop", re.IGNORECASE)
CONFIG = re.compile(r"(^|_)(config|cfg|conf)$", re.IGNORECASE)
ONLY_ATTENTION: tuple[str, ...] = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe")
ONLY_ATTENTION += ("Gemma", "Gemma2", "Cohere", "Olmo", "Olmo2", "Granite", "SmolLM3")
GPT = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
BERT = ("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout")
HAS: dict[str, tuple[str, ...]] = {  # of each class its dropouts, in transformers 4 and 5
    **{f"{name}Config": ("attention_dropout",) for name in ONLY_ATTENTION},
    **dict.fromkeys(("GPT2Config", "GPTJConfig", "GPTBigCodeConfig"), (*GPT, "summary_first_dropout")),
    **dict.fromkeys(("PhiConfig", "Phi3Config"), ("attention_dropout", "embd_pdrop", "resid_pdrop")),
    "GPTNeoXConfig": ("attention_dropout", "hidden_dropout", "classifier_dropout"),
    "GPTNeoConfig": ("attention_dropout", "embed_dropout", "resid_dropout", "classifier_dropout"),
    **dict.fromkeys(("FalconConfig", "BloomConfig", "StableLmConfig"), ("attention_dropout", "hidden_dropout")),
    **dict.fromkeys(("BertConfig", "RobertaConfig"), BERT),
}


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at the dropouts that configurations of a library are given."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    able = any(file.has("transformers") and file.has(*HAS) for file in files)
    own = places_in(files) if able else None
    found = tuple(finding for place in own.all for finding in _of_place(place, own)) if own is not None else ()
    return Outcome(found, {"names": len(found)}, {"names": 0})


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    if not place.file.has(*HAS):
        return
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        kind = _kind(call, place, own)
        for name, node in _given(call, place) if kind else ():
            if DROPOUT.search(name) and name not in HAS[kind] and not _is_read(name, own, call):
                yield _finding(place, node, name, kind)
    for target, value in assignments_in(place.nodes):
        held = place.names.held(target.value) if isinstance(target, ast.Attribute) else None
        kind = _kind(held, place, own) if isinstance(held, ast.Call) else ""
        name = last_name(target)
        if kind and DROPOUT.search(name) and name not in HAS[kind] and not _is_read(name, own, value):
            yield _finding(place, target, name, kind)


def _kind(call: ast.Call, place: Place, own: Places) -> str:
    """The library's class of configurations that a call makes one of; empty: it is another call."""
    name = dotted(call.func).removesuffix(".from_pretrained")
    last = name.rpartition(".")[2]
    if last not in HAS or last in own.classes:
        return ""
    brought = any(
        isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] == "transformers"
        and any((each.asname or each.name) == last for each in node.names)
        for node in place.file.nodes
    )
    return last if brought or name.startswith("transformers.") else ""


def _given(call: ast.Call, place: Place) -> Iterator[tuple[str, ast.expr]]:
    """What a call is given by name, also by a mapping that is written down."""
    for word in call.keywords:
        held = word.value if word.arg else place.names.held(word.value)
        if word.arg:
            yield word.arg, word.value
        elif isinstance(held, ast.Dict):
            keys = zip(held.keys, held.values, strict=True)
            yield from ((key.value, value) for key, value in keys if _is_text(key))  # type: ignore[union-attr]
        elif isinstance(held, ast.Call) and called_name(held) == "dict":
            yield from ((each.arg, each.value) for each in held.keywords if each.arg)


def _is_text(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str)


def _is_read(name: str, own: Places, here: ast.expr) -> bool:
    """Whether the trainer reads a name of a configuration, or of anything by `getattr`, elsewhere."""
    for place in own.all:
        for node in place.nodes if place.file.has(name) else ():
            if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load):
                if CONFIG.search(last_name(node.value)) and not contains(here, node):
                    return True
            elif isinstance(node, ast.Call) and called_name(node) in ("getattr", "get", "pop"):
                read = any(getattr(each, "value", None) == name for each in node.args)
                if read:
                    return True
    return False


def _finding(place: Place, node: ast.expr, name: str, kind: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{'the top level' if place.is_top else place.name + '()'} gives {kind} a `{name}`, which it keeps and "
        f"no model reads; allowed: {', '.join(HAS[kind])}",
        culprit=place.file.at(node, place.name),
        fix="give the name that the class has, or build the dropout yourself",
    )
