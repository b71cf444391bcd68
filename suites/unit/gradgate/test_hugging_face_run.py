"""What a customised `transformers.Trainer` may ask of its run: options, parts, callbacks of its own, an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradgate.subjects.capabilities import declared
from gradgate.subjects.hugging_face import STEPS, HuggingFaceRun

transformers = pytest.importorskip("transformers")
from transformers.trainer_callback import ExportableState  # noqa: E402 - behind the skip

EVENTS = ["on_train_begin", "on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]


class Noting(transformers.TrainerCallback, ExportableState):
    """Notes when it is called, and counts steps that a checkpoint keeps."""

    def __init__(self, steps: int = 0) -> None:
        self.steps, self.heard = steps, list[str]()

    def state(self) -> dict[str, Any]:
        return {"args": {"steps": self.steps}, "attributes": {}}

    def on_step_end(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        assert (told["model"], told["optimizer"]) != (None, None)
        self.heard.append("on_step_end")
        self.steps += 1


for _event in EVENTS[:-1]:
    setattr(Noting, _event, lambda self, *_, _event=_event, **__: self.heard.append(_event))


class Small(nn.Module):
    """A value head on a layer, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.value_head, self.dropout = nn.Linear(3, 4), nn.Linear(4, 1), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        value = self.value_head(self.dropout(self.layer(x)))
        return {"loss": (value - labels).square().mean(), "value": value}


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row.sum(-1, keepdim=True)} for row in x]


class Customised(HuggingFaceRun):
    """Its Trainer has a callback of its own, and held-out rows where it is asked for."""

    updates = 12
    heldout_rows = 3

    def trainer(self, seed: int, device: str) -> Any:
        arguments = transformers.TrainingArguments(
            per_device_train_batch_size=2,
            seed=seed,
            use_cpu=device == "cpu",
            report_to=[],
            disable_tqdm=True,
            learning_rate=self.options.get("lr", 1e-2),
            restore_callback_states_from_checkpoint=self.options.get("restore", True),
        )
        held = rows(self.heldout_rows) if self.heldout_rows else None
        self.noting = Noting()
        return transformers.Trainer(
            model=Small(), args=arguments, train_dataset=rows(8), eval_dataset=held, callbacks=[self.noting]
        )

    def parts(self, model: Any) -> dict[str, nn.Module]:
        return {"model": model, "value_head": model.value_head}


class Unevaluated(Customised):
    heldout_rows = 0
    updates = None


def noting_of(run: HuggingFaceRun) -> Noting:
    return next(each for each in run.hf.callback_handler.callbacks if isinstance(each, Noting))


def stepped(run: HuggingFaceRun, count: int) -> Iterator[float]:
    batches = run.batches()
    for _ in range(count):
        yield run.step(next(batches))["loss"]


def test_callbacks_of_the_users_own_are_called_around_each_step() -> None:
    """At the beginning once; those of the library, which print and stop, are not."""
    run = Customised(0)
    list(stepped(run, 2))
    assert run.noting.heard == [EVENTS[0], *EVENTS[1:], *EVENTS[1:]]
    assert run.hf.state.epoch == 0.5


@pytest.mark.parametrize(("restore", "steps"), [(True, 3), (False, 1)])
def test_a_resume_restores_the_states_of_callbacks_where_the_arguments_say_so(
    restore: bool, steps: int, tmp_path: Path
) -> None:
    """As the Trainer's own resume does, whose default is that it does not."""
    run = Customised(0, options={"restore": restore})
    list(stepped(run, 2))
    run.save(tmp_path)
    later = Customised(1, options={"restore": restore})
    later.load(tmp_path)
    list(stepped(later, 1))
    assert noting_of(later).steps == steps


def test_an_evaluation_leaves_modes_and_generators_as_they_were() -> None:
    """Each module's own mode, not one for all."""
    run = Customised(0)
    run.hf.model.train()
    run.hf.model.layer.eval()
    before, random = [module.training for module in run.hf.model.modules()], torch.get_rng_state()
    assert run.evaluate()["eval_loss"] > 0
    assert [module.training for module in run.hf.model.modules()] == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_trainer_without_held_out_rows_has_no_evaluation() -> None:
    """And a class that says nothing of its updates a schedule that no check comes to the end of."""
    assert "evaluate" in declared(Customised(0))
    run = Unevaluated(0)
    assert "evaluate" not in declared(run)
    assert (run.hf.state.max_steps, Customised(0).hf.state.max_steps) == (STEPS, 12)


def test_options_reach_the_trainer_and_parts_are_those_of_what_was_loaded(tmp_path: Path) -> None:
    """Behind a load, too, which builds the Trainer anew."""
    run = Customised(0, options={"lr": 0.5})
    assert run.hf.args.learning_rate == 0.5
    list(stepped(run, 1))
    run.save(tmp_path)
    run.load(tmp_path)
    assert run.modules["value_head"] is run.hf.model.value_head
    assert run.logits_from is None
