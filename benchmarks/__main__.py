"""`python -m benchmarks`: every number that the documentation claims. One thread; prints name, bar and measurement."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import literal
from benchmarks.interleaved import ratio
from benchmarks.watch import bench_guard, bench_memory, bench_watch
from wmtp import gae_returns, head_weights, make_labels
from wmtp.data.batches import Batch
from wmtp.loss import predicting
from wmtp.model import CriticWmtp, Heads, Trunk, ValueHead
from wmtp.settings import Recipe
from wmtp.stage2 import TokenStage


def main() -> None:
    """Run all benchmarks, or those whose name holds the word given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="run only benchmarks whose name holds this")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, run in BENCHMARKS.items():
        if arguments.word in name:
            for line in run(arguments.rounds):
                print(f"{name:14} {line}", flush=True)


def bench_weights(rounds: int) -> list[str]:
    """Head weights, forward and backward, against the literal loop; autograd nodes."""
    return [weights_at(512, bar=40, rounds=rounds), weights_at(2048, bar=60, rounds=max(3, rounds // 4))]


def weights_at(length: int, *, bar: int, rounds: int) -> str:
    """One row of the comparison."""
    value_BS = torch.randn(8, length, requires_grad=True)
    valid_BS = torch.ones(8, length, dtype=torch.bool)
    label_BSH = make_labels(torch.randint(256, (8, length)), valid_BS, 4)
    gradient_BSH = torch.randn(8, length, 4)

    def ours() -> Tensor:
        return head_weights(value_BS, label_BSH, valid_BS)

    def loop() -> Tensor:
        return literal.head_weights(value_BS, label_BSH, discount_lambda=0.95, temperature=0.7)

    torch.testing.assert_close(ours(), loop(), atol=1e-6, rtol=1e-5)
    slow = ratio(
        lambda: loop().backward(gradient_BSH),
        lambda: ours().backward(gradient_BSH),
        rounds=rounds,
        repeat_fast=10,
    )
    nodes = graph_nodes(ours())
    return f"B 8, H 4, S {length}: loop / ours {slow}  (bar: >= {bar}x); {nodes} nodes (bar: <= 20)"


def bench_returns(rounds: int) -> list[str]:
    """GAE returns against the literal double loop."""
    reward_BS, value_BS = torch.randn(8, 512), torch.randn(8, 512)
    valid_BS = torch.ones(8, 512, dtype=torch.bool)

    def ours() -> Tensor:
        return gae_returns(reward_BS, value_BS, valid_BS)

    def loop() -> Tensor:
        return literal.gae_returns(reward_BS, value_BS, gamma=0.99, gae_lambda=0.95)

    torch.testing.assert_close(ours(), loop(), atol=1e-5, rtol=1e-5)
    return [f"B 8, S 512: loop / ours {ratio(loop, ours, rounds=rounds, repeat_fast=20)}  (bar: >= 150x)"]


def bench_step(rounds: int) -> list[str]:
    """A Stage 2 step against the bare forward, backward, clipping and AdamW of the same model with uniform weights."""
    torch.manual_seed(0)
    recipe = Recipe()
    batch = random_batch(4, 512, recipe.train.horizon, 256)
    stage = TokenStage(build(recipe.train.horizon), recipe, device=torch.device("cpu"), total_steps=10**6)
    bare_model = build(recipe.train.horizon)
    trained = [*bare_model.trunk.parameters(), *bare_model.heads.parameters()]
    optimizer = AdamW(trained, lr=3e-3, fused=True)

    def bare() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = bare_model(batch.token_BS, batch.valid_BS, plain=True, with_value=False).logits_BSHV
        cross_entropy(logits.flatten(0, 2), batch.label_BSH.flatten(), ignore_index=-100).backward()
        clip_grad_norm_(trained, 1.0)
        optimizer.step()

    measured = ratio(lambda: stage.step((batch,)), bare, rounds=max(rounds, 15))
    calls, reads = forwards_and_reads(stage, batch)
    return [
        f"B 4, S 512, D 256, 4 layers, H 4, V 256: step / bare {measured}  (bar: <= 1.15x)",
        f"forwards {calls} (bar: trunk 1, value head 1); host reads outside the optimizer {reads} (bar: <= 3)",
    ]


def build(horizon: int) -> CriticWmtp:
    """The model of the step benchmark."""
    trunk = Trunk(256, width=256, layers=4, attention_heads=4)
    return CriticWmtp(trunk, Heads(256, horizon, 256), ValueHead(256))


def random_batch(batch: int, length: int, horizon: int, vocab_size: int) -> Batch:
    """Rows of random tokens without padding, with a reward known beforehand."""
    token_BS = torch.randint(vocab_size, (batch, length))
    valid_BS = torch.ones(batch, length, dtype=torch.bool)
    label_BSH = make_labels(token_BS, valid_BS, horizon)
    reward_BS = torch.zeros(batch, length)
    reward_BS[:, -1] = (torch.rand(batch) < 0.5).float()
    positions, labels = int(predicting(label_BSH).sum()), int((label_BSH != -100).sum())
    return Batch(token_BS, valid_BS, label_BSH, reward_BS, None, True, positions, batch * length, labels)


def graph_nodes(tensor: Tensor) -> int:
    """Autograd nodes behind a tensor."""
    seen: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return len(seen)


class HostReads(TorchDispatchMode):
    """Counts `.item()` and what else brings one number to the host, `tolist()` included, outside the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count a read."""
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def forwards_and_reads(stage: TokenStage, batch: Batch) -> tuple[dict[str, int], int]:
    """Forward calls of trunk and value head, and host reads outside the optimizer, in one step."""
    calls: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] += 1

        return count

    handles = [getattr(stage.model, name).register_forward_hook(counter(name)) for name in ("trunk", "value_head")]
    optimizer, scheduler = stage.update.optimizer, stage.update.scheduler
    reads = HostReads()
    to_list = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        reads.count += 1  # tolist() is not dispatched
        return to_list(tensor)

    step = optimizer.step
    optimizer.step = lambda *_: None  # type: ignore[method-assign]
    Tensor.tolist = counted  # type: ignore[method-assign]
    try:
        with reads:
            stage.step((batch,))
    finally:
        optimizer.step, Tensor.tolist = step, to_list  # type: ignore[method-assign]
        for handle in handles:
            handle.remove()
    scheduler.last_epoch -= 1
    return dict(calls), reads.count


BENCHMARKS: dict[str, Callable[[int], list[str]]] = {
    "head weights": bench_weights,
    "GAE returns": bench_returns,
    "Stage 2 step": bench_step,
    "watch": bench_watch,
    "guard": bench_guard,
    "memory": bench_memory,
}

if __name__ == "__main__":
    main()
