"""A stage reads the section of another one, and its own goes unread.

## What it detects

`class MainStage` that makes its optimizer with `lr=cfg.critic.lr`, or begins with `c = cfg["critic"]`, where the
configuration has `main.lr` and no line reads it: a copy of the other stage's code.

## Why it matters

The rate, the epochs and the batch size of the second stage are those of the first. Both sections are in the recipe, a
sweep over `main.lr` shows no difference, and GG418 sees nothing, since `lr` is read of the other section.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Sections are mappings in
YAML files and dictionaries, and fields whose class is the trainer's own and declares settings; looked at are two of
them that have at least two keys in common. A function is of a stage where its name or that of its class has the name
of one section and of no other (`run_main`, `MainStage`); where neither has any, the file's. What an expression is a
section of is said by its last name, by what its name holds, by what is assigned to it in any class (`self.opts`), or by
what all calls of the function give a parameter.

A finding is, in a function of one stage, a key read of another's section that its own has, too, where no line reads it
of its own; and another's section that is taken where no line takes its own. A section that the stage's name is part of
is its own, as is one whose words are all in the names by which the stage is known (`fsdp_config`, `engine_config` in
`FsdpEngine`). A key that is read of what may be any section counts as read of all, and so does a section that is looked
up by a variable. Statistic: such keys and
sections. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class MainStage:
    def __init__(self, cfg):
        self.optimizer = AdamW(self.model.parameters(), lr=cfg.critic.lr)
```

Good:

```python
        self.optimizer = AdamW(self.model.parameters(), lr=cfg.main.lr)
```

## How to fix

Read the stage's own section; take out of it what both are to share, and give that a section of its own.

## Known limits

Stages that go by other names than their sections, and sections that are handed on with `**`, are not looked at.

## Sources

A configuration fault that was planted in a trainer; GG418 asks the same of names, whatever section they are of.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.setting_sections import asked, called
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import NONE, File, dotted, files_of
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG458", "settings-of-another-stage"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*")
ENTRIES = ("main", "__main__", "run", "cli")  # functions and files that begin a run, whatever its stage
FEW = 2  # keys in common, below which two sections are no twins
ANY = "*"  # what may be any section

Keys = dict[str, set[str]]  # of each section


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what each stage reads against the sections that there are."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    sections = _sections(subject, files)
    twins = {name for name, keys in sections.items()
             if any(len(keys & others) >= FEW for other, others in sections.items() if other != name)}  # fmt: skip
    twins -= _handles(sections, twins, {name for *_, content in yaml_files(subject) for name in _names(content)})
    places = [(place, stage) for place in (places_in(files).all if twins else ()) if (stage := _stage_of(place, twins))]
    found = tuple(_Reads(files, twins).found(places, sections)) if places else ()
    return Outcome(found, {"keys_of_another_stage": len(found)}, {"keys_of_another_stage": 0})


def _handles(sections: Keys, twins: set[str], named: set[str]) -> set[str]:
    """Names by which code holds the section that a stage was given: fields that have the keys of two of the files'."""
    of_files = twins & named
    return {name for name in twins - named if sum(sections[one] <= sections[name] for one in of_files) > 1}


def _names(content: Any) -> Iterator[str]:
    for key, inner in content.items() if isinstance(content, Mapping) else ():
        yield str(key)
        yield from _names(inner)


def _sections(subject: Subject, files: tuple[File, ...]) -> Keys:
    """The sections of a trainer's configuration, with their keys."""
    found: Keys = {}
    for *_, content in yaml_files(subject):
        _of_mapping(content, found)
    classes = {node.name: node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)}
    fields = {name: {dotted(one.target): one for one in owner.body if isinstance(one, ast.AnnAssign)}
              for name, owner in classes.items()}  # fmt: skip
    for own in fields.values():
        for name, field in own.items():
            kinds = {part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)} & fields.keys()
            kinds |= {
                str(part.value) for part in ast.walk(field.annotation) if isinstance(part, ast.Constant)
            } & fields.keys()
            for kind in kinds:
                found.setdefault(name, set()).update(fields[kind])
    for node in (node for file in files if file.has('": {', "': {", "dict(") for node in file.nodes):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
                    keys = {str(one.value) for one in value.keys if isinstance(one, ast.Constant)}
                    found.setdefault(str(key.value), set()).update(keys)
    return found


def _of_mapping(content: Any, found: Keys) -> None:
    for key, inner in content.items() if isinstance(content, Mapping) else ():
        if isinstance(inner, Mapping):
            found.setdefault(str(key), set()).update(map(str, inner))
            _of_mapping(inner, found)


def _stage_of(place: Place, sections: set[str]) -> str:
    """The section after whose stage a function is named; empty: none, or several."""
    of = next((of for words in _known_by(place) if (of := words & sections)), set[str]())
    return of.pop() if len(of) == 1 else ""


def _known_by(place: Place) -> Iterator[set[str]]:
    """The words of a function's name and its class's, and those of its file's."""
    names = ["" if place.name in ENTRIES else place.name, place.owner.name if place.owner is not None else ""]
    for texts in (names, [Path(place.file.path).stem]):
        yield {word.lower() for text in texts if text not in ENTRIES for word in WORDS.findall(text)}


def _is_own(section: str, own: str, place: Place) -> bool:
    """Whether a section is a stage's own by another name."""
    known = next((words for words in _known_by(place) if own in words), set[str]())
    stem = (called(section) or (section,))[0].lower()
    words = {word.lower() for word in WORDS.findall(stem)}
    return own in words or words <= known | {own.rstrip("0123456789")}


class _Reads:
    """What a trainer reads of its sections.

    Args:
        files: of the trainer.
        sections: of which another has the same keys.
    """

    def __init__(self, files: tuple[File, ...], sections: set[str]) -> None:
        self._sections = sections
        self._places = places_in(files)
        self._kept: dict[str, set[str]] = {}
        self._by_variables = any(_is_by_variable(node) for file in files for node in file.nodes)
        kept = [(place, *pair) for place in self._places.all for pair in assignments_in(place.nodes)]
        for place, target, value in kept:
            if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                self._kept.setdefault(target.attr, set()).update(self._of(value, place) or {""})
        self._read = [
            (place, node, key, self._of(holder, place))
            for place in self._places.all
            for node in place.nodes
            for holder, key in _asked_of(node)
        ]

    def found(self, stages: list[tuple[Place, str]], sections: Keys) -> Iterator[Finding]:
        stage_of = {id(place.function): stage for place, stage in stages}
        read = {(of, key) for *_, key, sections_of in self._read for of in sections_of}
        taken = {key for *_, key, _ in self._read if key in self._sections}
        seen: set[tuple[str, str, str]] = set()
        for place, node, key, of in self._read:
            own = stage_of.get(id(place.function), "") if place.function is not None else ""
            if not own:
                continue
            is_left = own not in taken and not self._by_variables
            others = {key} & self._sections | of
            if any(_is_own(other, own, place) for other in others - {own, ANY}):
                continue
            if key in self._sections - {own} and is_left and len(sections[own] & sections[key]) >= FEW:
                told = f"takes the section `{key}`, and no line takes `{own}`, its own"
            elif len(of) == 1 and not of & {own, ANY} and key in sections[own] & sections[next(iter(of))]:
                if own not in taken or {(own, key), (ANY, key)} & read:
                    continue
                told = f"reads `{key}` of `{next(iter(of))}`, and no line reads that of `{own}`, its own section"
            else:
                continue
            if (place.name, key, told) not in seen:
                seen.add((place.name, key, told))
                yield _finding(place, node, told)

    def _of(self, node: ast.expr, place: Place, hops: int = 4) -> set[str]:
        """The sections that an expression may be; empty: none."""
        if isinstance(node, ast.Subscript | ast.Call):
            key = next((key for _, key in _asked_of(node)), "")
            if not key and isinstance(node, ast.Call) and node.args and dotted(node.func) in ("vars", "dict", "asdict"):
                return self._of(node.args[0], place, hops - 1) if hops else {ANY}
            is_looked_up = isinstance(node, ast.Subscript) or dotted(node.func) == "getattr"
            return {key} & self._sections if key else {ANY} if is_looked_up else set()
        if not isinstance(node, ast.Name | ast.Attribute):
            return set()
        name = dotted(node).rpartition(".")[2]
        held = place.names.held(node)
        if held is not node and hops:
            return self._of(held, place, hops - 1)
        if isinstance(node, ast.Attribute) and dotted(node.value) == "self" and name in self._kept:
            return self._kept[name] - {""}
        if name in self._sections:
            return {name}
        if isinstance(node, ast.Name) and node.id in place.parameters and hops:
            given = self._places.given_to(place, node.id)
            words = {word.lower() for word in WORDS.findall(node.id)}
            if given:
                return set().union(*(self._of(value, caller, hops - 1) for caller, value in given))
            return (words & self._sections) or {ANY}
        return set()


def _asked_of(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """What a key is read of, and the key."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.value, node.attr
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.ctx, ast.Load):
        yield node.value, str(node.slice.value)
    elif (found := asked(node)) is not None:
        yield found[0], found[1]


def _is_by_variable(node: ast.AST) -> bool:
    """Whether a section is looked up by a name that is a variable: `getattr(cfg, stage)`, `cfg[stage]`."""
    if isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1:
        holder, key = node.args[:2]
    elif isinstance(node, ast.Subscript):
        holder, key = node.value, node.slice
    else:
        return False
    return not isinstance(key, ast.Constant | ast.Slice) and called(last_name(holder)) is not None


def _finding(place: Place, node: ast.AST, told: str) -> Finding:
    name = f"{place.owner.name}.{place.name}" if place.owner is not None else place.name
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{name}() {told}; allowed: its own",
        culprit=place.file.at(node, place.name),
        fix="read the stage's own section",
    )
