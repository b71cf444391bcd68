"""What watching costs: a training step under the recorder, the guard and anomaly mode, against the same step plain."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradgate
from benchmarks.interleaved import Ratio, ratio

# Name, bar, width, layers, batch, positions.
SIZES = (
    ("10 ms", 2.2, 128, 2, 4, 64),
    ("80 ms", 1.25, 192, 4, 4, 96),
    ("500 ms", 1.12, 384, 6, 4, 160),
)


def bench_watch(rounds: int) -> list[str]:
    """The recorder on steps of about 10, 80 and 500 ms: plain, watched, and under anomaly mode, in turns."""
    lines = []
    for name, bar, width, layers, batch, length in SIZES:
        step, subjects = training_step(width, layers, batch, length)
        own_rounds = max(5, min(3 * rounds, 4000 // int(name.split()[0])))
        watched = ratio(watching(step, subjects), step, rounds=own_rounds)
        anomaly = ratio(under_anomaly_mode(step), step, rounds=max(3, own_rounds // 3))
        lines.append(f"{name}: watched / plain {watched}  (bar: <= {bar}x); anomaly mode {anomaly.median:.2f}x")
    return lines


def bench_memory(rounds: int) -> list[str]:  # noqa: ARG001
    """Peak of live tensor bytes in a step, watched against plain, exactly: from the allocator's own events."""
    lines = []
    for name, _, *sizes in SIZES:
        step, (model, optimizer) = training_step(*sizes)
        watched = watching(step, (model, optimizer))
        for run in (step, watched, step):
            run()
        peaks = []
        for run in (step, watched):
            optimizer.zero_grad()
            peaks.append(peak_bytes(run))
        held = sum(value.nbytes for value in state_tensors(model, optimizer))
        plain, with_watch = (peak + held for peak in peaks)
        lines.append(
            f"{name}: peak watched / plain {with_watch / plain:.4f}x  (bar: <= 1.05x)  "
            f"{with_watch / 1e6:.2f} MB / {plain / 1e6:.2f} MB"
        )
    return lines


def peak_bytes(run: Callable[[], None]) -> int:
    """Most bytes of tensors that were allocated in a call and alive at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = top = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        top = max(top, live)
    return top


# Bars of the guard, in the order of SIZES.
GUARD_BARS = (1.10, 1.05, 1.03)


def bench_guard(rounds: int) -> list[str]:
    """The guard on the same steps: CPU of the step's thread, then of all threads, hooks alone, and the copy's size."""
    lines = []
    for (name, _, *sizes), bar in zip(SIZES, GUARD_BARS, strict=True):
        step, subjects = training_step(*sizes)
        measured = partial(guarded_ratio, step, subjects, max(24, min(8 * rounds, 12000 // int(name.split()[0]))))
        row = f"{name}: guarded / plain {measured()}  (bar: <= {bar}x)"
        others = (
            f"all threads {measured(time.process_time).median:.2f}x; wall {measured(time.perf_counter).median:.2f}x"
        )
        copied = sum(value.nbytes for value in state_tensors(*subjects)) / 1e6
        lines.append(f"{row}; {others}; no snapshot {measured(replay=False).median:.2f}x; copies {copied:.1f} MB")
    return lines


def guarded_ratio(
    step: Callable[[], None],
    subjects: tuple[object, ...],
    rounds: int,
    clock: Callable[[], float] = time.thread_time,
    *,
    replay: bool = True,
) -> Ratio:
    """The guarded step against the plain one by one clock; the guard must stay quiet."""
    guarded = gradgate.guard(step, state=subjects, replay=replay)
    for _ in range(5):
        guarded()  # the first step takes every fingerprint, the first snapshots make room
    found = ratio(guarded, step, rounds=rounds, clock=clock)
    assert not guarded.findings
    return found


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What a snapshot copies: parameters, buffers and the optimizer's own tensors."""
    kept = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *kept]


def training_step(width: int, layers: int, batch: int, length: int) -> tuple[Callable[[], None], tuple[object, ...]]:
    """Forward, backward and AdamW of a small transformer, and what a user would hand to `watch`."""
    torch.manual_seed(0)
    model = Transformer(width, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    token_BS = torch.randint(256, (batch, length))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(token_BS)
        cross_entropy(logits[:, :-1].flatten(0, 1), token_BS[:, 1:].flatten()).backward()
        optimizer.step()

    return step, (model, optimizer)


def watching(step: Callable[[], None], subjects: tuple[object, ...]) -> Callable[[], None]:
    """The step inside a watch, which must stay quiet."""

    def watched() -> None:
        with gradgate.watch(*subjects) as watch:
            step()
        assert not watch.findings, watch.findings[0].headline()

    return watched


def under_anomaly_mode(step: Callable[[], None]) -> Callable[[], None]:
    """The step under PyTorch's own tool."""

    def watched() -> None:
        with torch.autograd.set_detect_anomaly(True):
            step()

    return watched


class Transformer(nn.Module):
    """A causal transformer over bytes, its attention written out."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 256)

    def forward(self, token_BS: Tensor) -> Tensor:
        hidden_BSD = self.embedding(token_BS)
        for block in self.blocks:
            hidden_BSD = block(hidden_BSD)
        return self.head(hidden_BSD)


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        length = hidden_BSD.shape[1]
        query, key, value = self.mix(self.norms[0](hidden_BSD)).chunk(3, -1)
        score_BSS = query @ key.transpose(1, 2) / key.shape[-1] ** 0.5
        future_SS = torch.ones(length, length, dtype=torch.bool).triu(1)
        weight_BSS = score_BSS.masked_fill(future_SS, float("-inf")).softmax(-1)
        hidden_BSD = hidden_BSD + self.out(weight_BSS @ value)
        return hidden_BSD + self.feed(self.norms[1](hidden_BSD))
