"""The watched block: `with gradgate.watch(model, optimizer) as watch: ...`, then `watch.findings`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.watch import ending, patches, raised
from gradgate.watch.places import location
from gradgate.watch.recorder import Recorder
from gradgate.watch.saved import mismatch_words, storage_key


class Watch:
    """A watched block. Nested in another, it shares the outer one's recorder.

    Args:
        subjects: modules, optimizers and tensors that are expected to train.
    """

    def __init__(self, *subjects: Any) -> None:
        for subject in subjects:
            if not isinstance(subject, nn.Module | torch.optim.Optimizer | Tensor):
                raise GradgateError(
                    f"gradgate.watch() takes modules, optimizers and tensors, got {type(subject).__name__}"
                )
        self._subjects = subjects
        self._recorder: Recorder | None = None
        self._owner = False
        self._mark = 0
        self._hooks: Any = None
        self._findings: list[Finding] = []

    @property
    def findings(self) -> list[Finding]:
        """What was found, worst first; live while the block runs."""
        return self._findings if self._recorder is None else self._recorder.ledger.since(self._mark)

    @property
    def recorder(self) -> Recorder:
        """What records, while the block runs."""
        assert self._recorder is not None  # noqa: S101 - entered
        return self._recorder

    def __enter__(self) -> Self:
        """Start recording."""
        self._recorder = patches.active()
        self._owner = self._recorder is None
        if self._recorder is None:
            self._recorder = Recorder()
        self._mark = self._recorder.ledger.mark()
        ending.meet(self._recorder, self._subjects)
        if self._owner:
            mismatch_words()
            patches.enter(self._recorder)
            self._hooks = torch.autograd.graph.saved_tensors_hooks(
                self._recorder.shelf.pack, self._recorder.shelf.unpack
            )
            self._hooks.__enter__()
            self._recorder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop recording; an error leaves with the finding as a note."""
        recorder = self._recorder
        assert recorder is not None  # noqa: S101 - entered
        if self._owner:
            recorder.come_back()
            recorder.tracer.flush()
            recorder.tracer.stop()
            recorder.__exit__(kind, error, trace)
            self._hooks.__exit__(kind, error, trace)
            patches.leave()
        try:
            if error is None:
                ending.settle(recorder, self._subjects)
            else:
                self._explain(recorder, error)
        except Exception as fault:  # the watched program must never fail because it was watched
            warnings.warn(f"gradgate.watch could not finish its analysis: {fault!r}", RuntimeWarning, stacklevel=2)
        self._findings = recorder.ledger.since(self._mark)
        if isinstance(error, Exception) and self._findings and self._owner:
            error.add_note("\n".join(self._findings[0].lines()))
        self._recorder = None

    def _explain(self, recorder: Recorder, error: BaseException) -> None:
        explained = raised.explain(error) if isinstance(error, RuntimeError) else None
        if explained is None:
            return
        finding, operands = explained
        victim = None
        if finding.kind == "inplace_view":
            known = [recorder.views.get(storage_key(tensor)) for tensor in operands]
            victim = next((view[1] for view in known if view), None)
            victim = victim or next((place for tensor in operands if (place := recorder.maker_of(tensor))), None)
        elif finding.kind == "dtype_overflow":
            victim = next((place for tensor in operands if (place := recorder.maker_of(tensor))), None)
        recorder.ledger.add(replace(finding, victim=location(victim)) if victim else finding)


def watch(*subjects: Any) -> Watch:
    """Record a block and name the lines that broke its gradients.

    Args:
        subjects: modules, optimizers and tensors that are expected to train.

    Returns:
        A context manager; `findings` is filled when the block ends, also by an exception.

    Raises:
        GradgateError: a subject is none of these.
    """
    return Watch(*subjects)
