"""The clauses of a subject's contract that speak of a capability: each holds a fresh run against what it declares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradgate.checks import batches, snapshot
from gradgate.checks.invariance import rows_of
from gradgate.checks.raised import calling
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Run, Tokens
from gradgate.subjects.outputs import are_of_heads, logits_in

LIES = "make it true, or leave the capability out: a missing one makes checks not applicable, a wrong one breaks them"

Fault = tuple[str, str]  # message, fix
Start = Callable[..., Any]  # a Run, if the subject keeps its word


def of_losses(start: Start) -> Iterator[Fault]:
    """`losses`: a total on the graph, and nothing changed."""
    run = start()
    if "losses" not in declared(run):
        return
    batch, before = batch_of(run), snapshot.take(run)
    with calling("losses(batch)"):
        losses = run.losses(batch)
    total = losses.get("total") if isinstance(losses, Mapping) else None
    if not isinstance(total, Tensor):
        yield "losses(batch) has no tensor named 'total'", "return {'total': what the step minimises, ...}"
        return
    if total.dim() != 0 or not total.is_floating_point() or not total.requires_grad:
        yield f"losses(batch)['total'] is {described(total)}, expected a floating scalar on the graph", LIES
    difference = snapshot.first_difference(before, snapshot.take(run))
    if difference is not None:
        yield f"losses(batch) changed {difference.name}: {difference.text}", "it must change no state but RNG"


def of_tokens(start: Start) -> Iterator[Fault]:
    """`tokens`: columns of one shape and of their dtypes."""
    run = start()
    if "tokens" not in declared(run):
        return
    batch = batch_of(run)
    with calling("tokens(batch)"):
        tokens = run.tokens(batch)
    if not isinstance(tokens, Tokens):
        yield f"tokens(batch) returned a {type(tokens).__name__}, expected gradgate.Tokens", LIES
        return
    wanted = {"token_BS": torch.int64, "valid_BS": torch.bool, "document_BS": torch.int64, "clean_BS": torch.int64}
    for name, dtype in wanted.items():
        column = getattr(tokens, name)
        if name in ("document_BS", "clean_BS") and column is None:
            continue
        if not isinstance(column, Tensor) or column.dtype != dtype or column.dim() != 2:
            yield f"tokens(batch).{name} is {described(column)}, expected {dtype} [B, S]", LIES
        elif column.shape != tokens.token_BS.shape:
            yield f"tokens(batch).{name} has shape {list(column.shape)}, not that of token_BS", LIES


def of_batches(start: Start) -> Iterator[Fault]:
    """`valid`, `select_rows` and `pad`, on one batch that they must leave as it is."""
    run = start()
    can, batch = declared(run), batch_of(run)
    with calling("copying a batch"):
        kept = copy.deepcopy(batch)
    valid_BS = None
    if "valid" in can:
        with calling("valid(batch)"):
            valid_BS = run.valid(batch)
        if not isinstance(valid_BS, Tensor) or valid_BS.dtype != torch.bool or valid_BS.dim() != 2:
            yield f"valid(batch) is {described(valid_BS)}, expected {torch.bool} [B, S]", LIES
            return
    if "rows" in can:
        with calling("select_rows(batch, [0, 0])"):
            rows = rows_of(run.select_rows(batch, [0, 0]))
        if rows != 2:
            yield f"select_rows(batch, [0, 0]) gave {rows} rows, expected 2", LIES
    if "pad" in can and valid_BS is not None:
        with calling("pad(batch, 2)"):
            padded_BS = run.valid(run.pad(batch, 2))
        if not any(torch.equal(padded_BS, functional.pad(valid_BS, side)) for side in ((0, 2), (2, 0))):
            yield "pad(batch, 2) did not add two positions of padding on the right, or on the left", LIES
    difference = batches.first_difference(kept, batch)
    if difference is not None:
        yield f"valid, select_rows or pad changed their batch: {difference.name}: {difference.text}", LIES


def of_edges(start: Start, edges: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Edges name terms and modules that are there."""
    run = start()
    if not edges or "losses" not in declared(run):
        return
    with calling("losses(batch)"):
        terms = run.losses(batch_of(run))
    for term, names in edges.items():
        if term not in terms:
            yield f"edges: losses() has no term {term!r}, only {', '.join(terms)}", LIES
        for name in names:
            if name not in run.modules:
                yield f"edges[{term!r}]: no module {name!r}, only {', '.join(run.modules)}", LIES


def of_logits(start: Start) -> Iterator[Fault]:
    """`logits_from` names a module that a step calls for logits."""
    run = start()
    if run.logits_from is None or run.logits_from not in run.modules:
        return
    seen: list[Any] = []
    handle = run.modules[run.logits_from].register_forward_hook(lambda *given: seen.append(given[-1]))
    try:
        batch = batch_of(run)
        with calling("step 1"):
            run.step(batch)
    finally:
        handle.remove()
    if not seen:
        yield f"a step does not call modules[{run.logits_from!r}], which `logits_from` names", LIES
    elif (logits := logits_in(seen[0])) is None or not are_of_heads(logits):
        shape = f" with logits {list(logits.shape)}" if logits is not None and logits is not seen[0] else ""
        fix = "name a module that returns them, or leave `logits_from` out"
        told = f"modules[{run.logits_from!r}] returns {described(seen[0])}{shape}"
        yield f"{told}, expected logits [B, S, (H,) V]", fix


def of_save(start: Start, folder: Path) -> Iterator[Fault]:
    """`save` writes, and `load` takes it."""
    run = start()
    if "save" not in declared(run):
        return
    with calling("save(path)"):
        run.save(folder)
    if not any(folder.iterdir()):
        yield "save(path) wrote nothing under `path`", LIES
        return
    fresh = start()
    with calling("load(path)"):
        fresh.load(folder)


def of_double(start: Start) -> Iterator[Fault]:
    """A run in float64 is in float64, and steps."""
    run = start(dtype=torch.float64)
    for name, module in run.modules.items():
        wrong = [key for key, p in module.named_parameters() if p.is_floating_point() and p.dtype != torch.float64]
        if wrong:
            yield f"start(dtype=torch.float64) left {name}.{wrong[0]} in another dtype", "pass `dtype` to every module"
            return
    batch = batch_of(run)
    with calling("step 1 in float64"):
        run.step(batch)


def batch_of(run: Run) -> Any:
    """The first batch of a run; None where there is none."""
    with calling("drawing a batch"):
        for batch in run.batches():
            return batch
    return None


def described(value: Any) -> str:
    """A value in a few words: the dtype, shape and graph of a tensor, the type of anything else."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{value.dtype} {list(value.shape)}" + ("" if value.requires_grad else " off the graph")
