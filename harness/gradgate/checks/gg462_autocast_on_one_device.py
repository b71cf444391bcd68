"""Mixed precision is asked for on CUDA by name, in a trainer whose device is a setting.

## What it detects

`torch.autocast("cuda", dtype=torch.bfloat16, enabled=cfg.bf16)` and `torch.cuda.amp.autocast(dtype=torch.bfloat16)`,
where the device is an argument, a field or a choice.

## Why it matters

On the CPU and on MPS the option does nothing: a run that says bf16 is one in 32 bits, in tests above all, and what
16 bits break is found on the cluster.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. The device is a setting
where a field or an argument is called so, or where the text chooses between "cuda" and "cpu". A finding, as a warning,
is a call of `autocast` with "cuda" for its device, or of `torch.cuda`'s, whose type is bfloat16 or a variable; not one
of float16 or of no type, which is float16 and CUDA's; not one in whose condition, or in whose `enabled`, CUDA or the
device is named; not in a file of FSDP, DeepSpeed or Transformer Engine. Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cfg.bf16):
    out = model(batch)
```

Good:

```python
with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cfg.bf16):
    out = model(batch)
```

## How to fix

Give `torch.autocast` the type of the device that the model is on; refuse the option where it cannot be had.

## Known limits

A device that comes from another library (`accelerator.device`) is not known for a setting.

## Sources

PyTorch, `torch.autocast`: "device_type: Device type to use"; on another one it warns once and is disabled.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.settings import declared_settings
from gradgate.checks.source.trainer import File, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import Names, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG462", "autocast-on-one-device"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_CUDA = ("torch.cuda.amp.autocast", "cuda.amp.autocast", "torch.cuda.amp.autocast_mode.autocast")
DEVICE = re.compile(r"cuda|device|gpu", re.IGNORECASE)
CHOOSES = re.compile(r"""["']cuda["'] if .*else ["'](cpu|mps)["']|device\s*:\s*str\b""")
HALF = re.compile(r"\bfloat16|\bhalf\b|fp16")
ELSEWHERE = ("transformer_engine", "FSDP", "fsdp", "deepspeed")  # what runs on CUDA alone
FIX = "give `torch.autocast` the type of the device that the model is on"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what is on CUDA alone, where the device is a setting."""
    is_setting = any(_chooses(file) for file in files_of(subject) if file.has("device", "cuda"))

    def find(file: File) -> Iterator[Finding]:
        if is_setting and file.has("autocast") and file.has("cuda") and not file.has(*ELSEWHERE):
            yield from _found(file)

    return read_file_by_file(subject, find, "calls_of_autocast")


def _chooses(file: File) -> bool:
    return any(setting.name == "device" for setting in declared_settings(file)) or any(map(CHOOSES.search, file.lines))


def _found(file: File) -> Iterator[Finding]:
    of_cuda = {*OF_CUDA}
    for node in file.nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("cuda.amp"):
            of_cuda |= {alias.asname or alias.name for alias in node.names if alias.name == "autocast"}
    for function, _ in file.functions:
        nodes, names = own_nodes(function), Names(function)
        parents: dict[int, ast.AST] = {}
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            if not dotted(call.func).endswith("autocast") or not _is_of_cuda(call, of_cuda, names):
                continue
            parents = parents or parents_in(function)
            tests = [ast.unparse(node.test) for node in outwards(call, parents) if isinstance(node, ast.If | ast.IfExp)]
            tests += [ast.unparse(names.held(word.value)) for word in call.keywords if word.arg == "enabled"]
            left = [ast.unparse(node.test) for node in nodes if isinstance(node, ast.If) and node.lineno < call.lineno
                    and isinstance(node.body[-1], ast.Return | ast.Raise)]  # fmt: skip
            if not any(map(DEVICE.search, (*tests, *left))):
                yield Finding(
                    code=CODE,
                    name=NAME,
                    severity="warning",
                    message=f"`{ast.unparse(call)}` is of CUDA alone, and the device is a setting: elsewhere the "
                    "precision changes nothing; allowed: none",
                    culprit=file.at(call, function.name),
                    fix=FIX,
                )


def _is_of_cuda(call: ast.Call, of_cuda: set[str], names: Names) -> bool:
    """Whether a call is of CUDA's autocast, of a type that others have, too."""
    words = {word.arg: word.value for word in call.keywords}
    given = list(call.args)
    if dotted(call.func) not in of_cuda:
        device = words.get("device_type", given.pop(0) if given else None)
        if device is None or not (isinstance(device := names.held(device), ast.Constant) and device.value == "cuda"):
            return False
    kind = words.get("dtype", given[0] if given else None)
    return kind is not None and not HALF.search(ast.unparse(names.held(kind)))
