"""A declared edge from a loss term to a module carries no gradient.

## What it detects

A `detach` too many, a term that became a number, a head whose loss goes around the part that it was meant to train, a
module that is frozen by mistake: a norm that is in no list of what a stage trains. Of several heads, those whose logits
are cut from the trunk while others train it.

## Why it matters

Where the module has another loss it still moves, and no check of dead parameters sees that one of its teachers is gone.

## How it decides

The stage declares for a loss term which modules it trains. In float64, on 3 batches, the gradient of each declared term
is taken with respect to each module of the run. Statistic: declared pairs whose gradient is zero, or missing, in every
element of every batch, or no more than 2**-40 of the total's, and is so on one more batch with all parameters moved by
1 %: a divergence from what the model still is, and what stands in front of a head of zeros, get theirs later. Allowed:
0. The finding carries the line at which a value lost its history and then met the term, what the module gave before
others, in one recorded forward; where there is none, the line that the recorder blames in the stage's five steps. A
declared module of which no parameter requires grad is a finding as it is, with the line that froze it.

Where `Run.logits_from` gives [B, S, H, V], each head's logits are asked as well, of one batch, for a gradient at what
the embeddings of a declared module give. Statistic: heads without one where another has one; allowed: 0.

False-alarm rate: 0, if the declaration is right and the term is not zero on all 3 batches.

## Example

Bad:

```python
logits_BSHV = self.heads(hidden_BSD.detach())            # edges={"wmtp_loss": ["trunk", "heads"]}
```

Good:

```python
logits_BSHV = self.heads(hidden_BSD)
```

## How to fix

Follow the term back from the loss to the module, and take out what lets no gradient through; or take the edge out of
the declaration.

## Known limits

A gradient that reaches a part of the module alone passes; GG201 looks at single parameters. Heads that are cut from the
trunk on purpose are an expected failure, and a module without an `nn.Embedding` is not asked for its heads.

## Sources

Faults GF-04, GF-17 and GF-20 of the fault catalogue.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gradgate.checks.crossings import Forward, forward_of
from gradgate.checks.edges import BATCHES, Reach, reaches
from gradgate.checks.freeze_lines import line_of_freeze
from gradgate.checks.head_reach import Unreached, unreached_heads
from gradgate.checks.own_lines import named
from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import with_guilty_line
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG204", "missing-edge"
NEEDS: tuple[str, ...] = ("losses", "edges")
PER_STAGE = True


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Look for declared edges without a gradient."""
    found = [reach for reach in reaches(stage, context) if reach.is_declared]
    missing = [reach for reach in found if not reach.largest]
    cut = [reach for reach in missing if not reach.is_frozen]
    forward = forward_of(stage, context) if cut else None
    frozen: dict[str, list[str]] = {}
    for reach in missing:
        if reach.is_frozen:
            frozen.setdefault(reach.module, []).append(reach.term)
    start = partial(stage.start, context.seed, device=context.device)
    findings = [
        named(_frozen(module, terms), partial(line_of_freeze, subject.source, start, module), context.seed)
        for module, terms in frozen.items()
    ]
    for reach in cut:
        finding, lines = _finding(reach), forward.cuts(reach.term, reach.module) if forward else []
        if lines:
            finding = replace(finding, culprit=lines[0], detail={**finding.detail, "lines": list(map(str, lines))})
        else:
            finding = with_guilty_line(finding, subject, stage, context, ("graph_cut",))
        findings.append(finding)
    unreached = unreached_heads(stage, context)
    if unreached:
        forward = forward or forward_of(stage, context)
    findings += [_of_heads(each, forward) for each in unreached]
    cut_heads = sum(len(each.heads) for each in unreached)
    measured = {"edges_without_gradient": len(missing), "edges": len(found), "heads_without_gradient": cut_heads}
    return Outcome(tuple(findings), measured, {"edges_without_gradient": 0, "heads_without_gradient": 0})


def _finding(reach: Reach) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{reach.term}` gives `{reach.module}` no gradient in {BATCHES} of {BATCHES} batches, though the "
        f"stage declares that it trains it; allowed: in at most {BATCHES - 1}",
        kind="graph_cut",
        fix=f"find what cuts the graph between `{reach.module}` and `{reach.term}`, or take the edge out of `edges`",
        detail={"term": reach.term, "module": reach.module},
    )


def _frozen(module: str, terms: list[str]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{module}` is frozen: none of its parameters requires grad, though the stage declares it "
        f"to be trained by {' and '.join(f'`{term}`' for term in terms)}; allowed: one at least",
        kind="graph_cut",
        fix=f"leave `{module}` out of what is frozen, or take it out of `edges`",
        detail={"terms": terms, "module": module},
    )


def _of_heads(each: Unreached, forward: Forward | None) -> Finding:
    lines = forward.cuts(each.term, each.module) if forward else []
    heads = ", ".join(map(str, each.heads))
    return Finding(
        code=CODE,
        name=NAME,
        message=f"of {each.count} heads the logits of {heads} give `{each.module}` no gradient, though the stage "
        f"declares that `{each.term}` trains it; allowed: none without",
        kind="graph_cut",
        culprit=lines[0] if lines else None,
        fix=f"find what cuts the graph between `{each.module}` and these heads",
        detail={"term": each.term, "module": each.module, "heads": list(each.heads), "lines": list(map(str, lines))},
    )
