"""The README's picture: the real output of `gradgate verify` on a loop with a fault, as SVG.

Run with `python -m benchmarks.picture docs/verify.svg`. Nothing in it asks for a font or anything else from a network.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gradgate.checks.runner import check_trainer
from gradgate.core.finding import Finding
from gradgate.core.verdict import Result
from gradgate.report.model import build
from gradgate.report.text import render
from gradgate.subjects.loading import load_target

LOOP = """import torch
from torch import nn

import gradgate


class Loop(gradgate.Run):
    def __init__(self, seed, *, dtype=torch.float32, device="cpu"):
        torch.manual_seed(seed)
        self.modules = {"model": nn.Linear(4, 4).to(device, dtype)}
        self.optimizers = [torch.optim.SGD(self.modules["model"].parameters(), lr=0.1)]
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def batches(self):
        while True:
            yield torch.randn(8, 4, generator=self.generator, dtype=self.dtype)

    def step(self, x_BD):
        share_BD = torch.softmax(self.modules["model"](x_BD), dim=-1)
        share_BD.data.clamp_(min=0.1)
        loss = share_BD.square().sum()
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        return {"loss": loss.item()}


def subject():
    return gradgate.Subject(name="loop", stages=[gradgate.Stage("train", start=Loop)])
"""
WORDS = ["gradgate", "verify", "my_adapter:subject", "--select", "GG10"]
WIDTH = 112


def picture() -> str:
    """The SVG."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_adapter.py").write_text(LOOP, encoding="utf-8")
        subject = load_target("my_adapter:subject", folder)
        for _ in range(2):  # the second time without the seconds that imports take
            verdict = check_trainer(subject, select=["GG10"], jobs=0, command=WORDS[:3])
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(f"$ {' '.join(WORDS)}", style="bold")
        console.print(render(build(replace(verdict, results=tuple(map(_short, verdict.results))))))
        text = console.export_svg(title="gradgate verify", unique_id="gradgate")
    text = re.sub(r"@font-face \{.*?\}", "", text, flags=re.DOTALL)  # which would be fetched
    return re.sub(
        r"\n\s*\n+", "\n", re.sub(r"font-family: Fira Code", "font-family: ui-monospace, Menlo, Consolas", text)
    )


def _short(result: Result) -> Result:
    """The result with files named as they are in their folder."""
    return replace(result, findings=tuple(map(_shortened, result.findings)))


def _shortened(finding: Finding) -> Finding:
    places = {"culprit": finding.culprit, "victim": finding.victim}
    return replace(
        finding, **{role: place and replace(place, file=Path(place.file).name) for role, place in places.items()}
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
