"""A text is made a truth value by `bool`: "false" and "0" switch a setting on.

## What it detects

`add_argument("--packing", type=bool)`; an override `key=value` of the command line that is given the type of what it
replaces, `type(current)(raw)`, or that of a field, where nothing treats truth values apart; an override that is read as
a number, and set as the text that it is where it is none.

## Why it matters

`bool("false")` is True, as of any text but the empty one, and so is the text itself. Whoever switches something off
switches it on, or leaves it on, and the run's name says otherwise.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are

* arguments with `type=bool`;
* in a function that takes a text apart at `=`, or that is called after overriding, converting or parsing and has a
  parameter for a text (`raw`, `text`, `: str`): `type(x)(text)`, `field.type(text)`, `types[key](text)` and
  `bool(text)`, unless it mentions `bool` otherwise, or one of the words "true", "yes" and "on"; so in a function of
  any name that another one gives such a part of a text, through however many of them;
* where a text is taken apart at `=` and no parser reads it: the call of a type that comes from hints
  (`get_type_hints`, `hints[key]`), a parameter for a type (`hint`, `kind`) or `type(current)`, by a name, with one
  argument of the function, which neither holds the type against `bool` nor mentions these words;
* there, too, `bool(value)` of an argument or such a part where a function has seen that the type is `bool` (`if hint is
  bool`, `isinstance(current, bool)`, `match`), or a table with `bool` for `bool` or "bool" that a function calls with
  one by a key, unless the function treats texts apart, knows these words or asks whether the value is a `bool`;
* a function that tries `float(text)`, mostly behind `int(text)`, and goes on with the text, where the result is set on
  an object or in a mapping in a function that takes a text apart at `=`. Not so where either reads types, parses YAML,
  JSON or literals, or validates, or where an assignment is validated (`validate_assignment`, `__setattr__`).

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
key, raw = assignment.split("=", 1)
setattr(config, key, type(getattr(config, key))(raw))
```

Good:

```python
setattr(config, key, yaml.safe_load(raw))                    # or a table of words for truth values
```

## How to fix

Read truth values by their words and refuse the rest: `argparse.BooleanOptionalAction`, a table, a YAML parser.

## Known limits

A number read in another file than the one that takes the text apart is not seen.

## Sources

Python, argparse: "The bool() function is not recommended as a type converter."
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import SPLITS, assignments_in, last_name, own_nodes, parameters_of, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG436", "text-taken-for-true"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
READS = re.compile(r"overrid|overwrit|coerc|cast|convert|parse", re.IGNORECASE)
TEXTS = ("raw", "text")
PAIR = 2  # a key and its value
TYPES = re.compile(r"(^|_)(types?|hints?|annotations|kinds?|casts?)_*$", re.IGNORECASE)
WORDS = ("true", "yes", "on")
TRIMS = ("strip", "lstrip", "rstrip", "lower", "casefold")
HINTS = re.compile(r"^(hints?|annotations?)$")
BUILT_IN = ("type", "dict", "list", "str", "int", "float")
PARSES = re.compile(r"safe_load|full_load|^loads?$|literal_eval|from_dotlist|parse_value")
READS_MORE = re.compile(
    r"yaml|json|literal_eval|isinstance|^type$|get_type|annotation|type_hints|validat|TypeAdapter|OmegaConf|^eval$|bool",
    re.IGNORECASE,
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for texts that become truth values."""
    files = files_of(subject)
    validated = any(file.has("validate_assignment", "def __setattr__") for file in files)
    splitting = (function for file in files if file.has('"="', "'='") for function, _ in file.functions)
    takes_texts = any(_taken_apart(own_nodes(one)) and not _parses(one) for one in splitting)

    own = places_in(files)

    def find(file: File) -> Iterator[Finding]:
        yield from _found(file)
        if file.has("type(", ".type(", "bool(", "types[", "cast"):
            yield from _given_texts(file, own)
        if takes_texts and file.has("hint", "type", "annotation"):
            yield from _by_hints(file)
        if takes_texts and file.has("bool"):
            yield from _where_it_is_bool(file)
        if not validated and file.has("float") and file.has('"="', "'='"):
            yield from _left_as_texts(file)

    return read_file_by_file(subject, find, "texts_taken_for_true")


def _parses(function: Function) -> bool:
    """Whether a function makes more of texts than texts, by a parser."""
    names = [last_name(node.func) for node in own_nodes(function) if isinstance(node, ast.Call)]
    return any(map(PARSES.search, names))


def _by_hints(file: File) -> Iterator[Finding]:
    """The calls of types that come from hints or from what is replaced, where truth values are not treated apart."""
    tables = [(target, value) for target, value in assignments_in(file.nodes) if isinstance(value, ast.Dict)]
    others = {dotted(target) for target, value in tables if not any(map(_is_bools_own, value.keys, value.values))}
    others -= {""}
    for function, _ in file.functions:
        nodes = own_nodes(function)
        kinds = {each.arg for each in (*function.args.posonlyargs, *function.args.args) if TYPES.search(each.arg)}
        given = (*function.args.posonlyargs, *function.args.args)
        texts = {each.arg for each in given if _may_be_text(each)} | _taken_apart(nodes)
        for target, value in assignments_in(nodes):
            if isinstance(value, ast.Subscript) and dotted(value.value) in others:
                continue
            of_type = isinstance(value, ast.Call) and dotted(value.func) == "type"
            if of_type or any(_is_hint(part, kinds) for part in ast.walk(value)):
                kinds |= {dotted(place) for place in places_of(target)} - {""}
        if not kinds or _treats_bool(nodes):
            continue
        for node in nodes:
            is_of_text = isinstance(node, ast.Call) and len(node.args) == 1 and dotted(node.args[0]) in texts
            if not isinstance(node, ast.Call) or not is_of_text or node.keywords:
                continue
            if isinstance(node.func, ast.Name) and node.func.id in kinds - set(BUILT_IN):
                yield _finding(file, node, function.name, f"`{ast.unparse(node)}`")


def _may_be_text(given: ast.arg) -> bool:
    """Whether an argument may be a text: it is annotated as one, as anything, or not at all."""
    kinds = {last_name(part) for part in ast.walk(given.annotation)} if given.annotation is not None else {"Any"}
    return bool(kinds & {"str", "Any", "object"}) or isinstance(given.annotation, ast.Constant)


def _where_it_is_bool(file: File) -> Iterator[Finding]:
    """The calls of `bool` with what a function was given, where its type is known to be one; those of tables, too."""
    tables = {
        dotted(target)
        for target, value in assignments_in(file.nodes)
        if isinstance(value, ast.Dict) and any(map(_is_bools_own, value.keys, value.values))
    }
    for function, _ in file.functions:
        nodes = own_nodes(function)
        texts = {each.arg for each in parameters_of(function)} | _taken_apart(nodes)
        calls = [node for node in nodes if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords]
        calls = [call for call in calls if isinstance(call.args[0], ast.Name) and call.args[0].id in texts]
        known = {id(part) for node in nodes for each in _if_bool(node) for part in ast.walk(each)}
        calls = [
            call
            for call in calls
            if (dotted(call.func) == "bool" and id(call) in known) or _table_of(call.func) in tables - {""}
        ]
        if calls and not _parses(function) and not _has_words(nodes):
            for call in (each for each in calls if not _told_apart(nodes, dotted(each.args[0]))):
                yield _finding(file, call, function.name, f"`{ast.unparse(call)}`")


def _is_bools_own(key: ast.expr | None, value: ast.expr) -> bool:
    """Whether an entry of a table has `bool` for truth values."""
    named = (isinstance(key, ast.Name) and key.id == "bool") or (isinstance(key, ast.Constant) and key.value == "bool")
    return named and isinstance(value, ast.Name) and value.id == "bool"


def _table_of(called: ast.expr) -> str:
    """The table of which an entry is called, by its key or `get`."""
    if isinstance(called, ast.Subscript):
        return dotted(called.value)
    by_get = isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute) and called.func.attr == "get"
    return dotted(called.func.value) if by_get else ""  # type: ignore[attr-defined]


def _if_bool(node: ast.AST) -> list[ast.AST]:
    """What a statement runs where it has seen that a type, or what is replaced, is a truth value."""
    if isinstance(node, ast.match_case):
        return [*node.body] if any(_is_bool(part) for part in ast.walk(node.pattern)) else []
    if not isinstance(node, ast.If | ast.IfExp) or not any(map(_is_bool, ast.walk(node.test))):
        return []
    if any(isinstance(part, ast.Not | ast.IsNot | ast.NotEq | ast.NotIn) for part in ast.walk(node.test)):
        return []
    return [*node.body] if isinstance(node, ast.If) else [node.body]


def _is_bool(part: ast.AST) -> bool:
    return (isinstance(part, ast.Name | ast.Attribute) and last_name(part) == "bool") or (
        isinstance(part, ast.Constant) and part.value == "bool"
    )


def _has_words(nodes: Sequence[ast.AST]) -> bool:
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return any(text.lower() in (*WORDS, "false") for text in texts)


def _told_apart(nodes: Sequence[ast.AST], name: str) -> bool:
    """Whether a function asks if a value is a `bool`, or does more with a text than to make nothing of it."""
    for node in nodes:
        tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.Assert) else []
        for call in (part for test in tests for part in ast.walk(test) if isinstance(part, ast.Call)):
            if dotted(call.func) != "isinstance" or len(call.args) != 2 or dotted(call.args[0]) != name:
                continue
            gives = [part for part in ast.walk(node) if isinstance(part, ast.Return)]
            nothing = gives and all(ast.unparse(part) in ("return", "return None") for part in gives)
            kinds = {last_name(part) for part in ast.walk(call.args[1])}
            if "bool" in kinds or ("str" in kinds and not nothing):
                return True
    again = {dotted(place) for target, _ in assignments_in(nodes) for place in places_of(target)} - _taken_apart(nodes)
    return name in again


def _is_hint(part: ast.AST, kinds: set[str]) -> bool:
    name = last_name(part) if isinstance(part, ast.Name | ast.Attribute) else ""
    return name in kinds or name in ("get_type_hints", "__annotations__") or bool(HINTS.search(name))


def _treats_bool(nodes: Sequence[ast.AST]) -> bool:
    """Whether a function holds a type against `bool`, has a table of it, or knows the words of truth values."""
    for node in nodes:
        sides: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            sides = list(node.keys)
        elif isinstance(node, ast.Call) and dotted(node.func) == "issubclass":
            sides = list(node.args)
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        names = (part for side in sides if side is not None for part in ast.walk(side))
        if any(isinstance(part, ast.Name) and part.id == "bool" for part in names):
            return True
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return any(text.lower() in WORDS for text in texts)


def _left_as_texts(file: File) -> Iterator[Finding]:
    """The functions that leave a text that is no number as it is, and whose result is set where a text is split."""
    functions = [function for function, _ in file.functions]
    setting = [function for function in functions if _taken_apart(own_nodes(function)) and not _reads_more(function)]
    for function in functions:
        left = None if _reads_more(function) else _left(function)
        if left is not None and any(_sets(by, function) for by in setting):
            yield _finding(file, left, function.name, f"`{ast.unparse(left)}`, set where it is no number,")


def _reads_more(function: Function) -> bool:
    """Whether a function treats truth values, types or literals apart, or validates."""
    nodes = own_nodes(function)
    of_fields = {id(part) for node in nodes if isinstance(node, ast.Attribute) for part in ast.walk(node.value)}
    names = [node.attr for node in nodes if isinstance(node, ast.Attribute)]  # `type(node).fields` asks for no type
    names += [
        node.id for node in nodes if isinstance(node, ast.Name) and not (node.id == "type" and id(node) in of_fields)
    ]
    return _knows_words(nodes) or any(map(READS_MORE.search, names))


def _left(function: Function) -> ast.stmt | None:
    """The statement that goes on with a text of which a number was tried."""
    nodes = own_nodes(function)
    given = (*function.args.posonlyargs, *function.args.args)
    texts = _taken_apart(nodes) | {each.arg for each in given if dotted(each.annotation or ast.Name("str")) == "str"}
    kinds = {"float"}
    for node in nodes:
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
            kinds |= {dotted(node.target)} if "float" in map(dotted, node.iter.elts) else set()
    tried = {
        dotted(call.args[0])
        for node in nodes
        if isinstance(node, ast.Try)
        for call in calls_in(node)
        if dotted(call.func) in kinds and len(call.args) == 1
    }
    for node in nodes:
        if isinstance(node, ast.Return | ast.Assign) and node.value is not None and dotted(node.value) in texts & tried:
            return node
    return None


def _sets(function: Function, reads: Function) -> bool:
    """Whether a function sets, on an object or in a mapping, what another reads, or it itself."""
    nodes = own_nodes(function)
    names = {dotted(target) for target, value in assignments_in(nodes) if _calls(value, reads)}
    if function is reads:
        names = {dotted(target) for target, _ in assignments_in(nodes)} | _taken_apart(nodes)
    calls = [node for node in nodes if isinstance(node, ast.Call) and dotted(node.func) == "setattr"]
    places = [(target, value) for target, value in assignments_in(nodes) if isinstance(target, ast.Subscript)]
    given = [call.args[2] for call in calls if len(call.args) == 3]
    given += [value for target, value in places if not isinstance(target.slice, ast.Constant)]
    return any(dotted(value) in names - {""} or _calls(value, reads) for value in given)


def _calls(value: ast.expr, function: Function) -> bool:
    return isinstance(value, ast.Call) and called_name(value) == function.name


def _found(file: File) -> Iterator[Finding]:
    for node in file.nodes if file.has("add_argument") else ():
        argument = argument_call(node)
        if argument is not None and dotted(argument.words.get("type", node)) == "bool":
            yield _finding(file, node, "", f"`{argument.flag}` of type `bool`")
    splits = file.has('"="', "'='")
    for function in (each for each, _ in file.functions if splits or READS.search(each.name)):
        nodes = own_nodes(function)
        raw = _taken_apart(nodes) | (_given(function) if READS.search(function.name) else set())
        if raw and not _knows_words(nodes):
            for node in nodes:
                if isinstance(node, ast.Call) and _converts(node, raw):
                    yield _finding(file, node, function.name, f"`{ast.unparse(node)}`")


def _values_of(nodes: Sequence[ast.AST], parameters: set[str]) -> dict[str, str]:
    """The names of values that a loop takes out of a mapping that a function was given, each with the mapping's."""
    found = {}
    for node in nodes:
        if not (isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and isinstance(node.target, ast.Tuple)):
            continue
        if not isinstance(node.iter.func, ast.Attribute) or node.iter.func.attr != "items":
            continue
        mapping = dotted(node.iter.func.value)
        if mapping in parameters and len(node.target.elts) == PAIR:
            found[dotted(node.target.elts[1])] = mapping
    return found


def _makes_of_texts(value: ast.expr, at: Place, own: Places) -> bool:
    """Whether a value is what a function makes of a text that it takes apart at `=`, without a parser."""
    called = own.called(value, at) if isinstance(value, ast.Call) else None
    return called is not None and bool(_taken_apart(called.nodes)) and not _parses(called.function)


def _given_texts(file: File, own: Places) -> Iterator[Finding]:
    """The functions that others give a text that they have taken apart at `=`, and that call a type with it."""
    for place in (place for place in own.functions if place.file is file):
        told = _given(place.function) if READS.search(place.name) else set()  # where its name says so
        texts = set(place.parameters) - told - _taken_apart(place.nodes)
        values = _values_of(place.nodes, texts)
        calls = [node for node in place.nodes if isinstance(node, ast.Call) and _converts(node, texts | values.keys())]
        if not calls or _knows_words(place.nodes) or _parses(place.function):
            continue
        for call in calls:
            name = dotted(call.args[0])
            if name in values:
                given = own.values_given(place, values[name])
                is_text = any(_makes_of_texts(value, at, own) for at, value in given)
            else:
                is_text = any(_is_a_text(value, at, own) for at, value in own.values_given(place, name))
            if is_text:
                yield _finding(file, call, place.name, f"`{ast.unparse(call)}`")


def _is_a_text(value: ast.expr, place: Place, own: Places, hops: int = 3) -> bool:
    """Whether a value is a part of a text that was taken apart at `=`, stripped or not."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in TRIMS:
        value = value.func.value
    if isinstance(value, ast.Subscript):  # `item.split("=")[1]`
        return _is_split(value.value)
    name = dotted(value)
    if not name or _knows_words(place.nodes):
        return False
    if name in _taken_apart(place.nodes):
        return (held := place.names.held(value)) is value or not isinstance(held, ast.Call) or _is_split(held)
    if (held := place.names.held(value)) is not value:
        return hops > 0 and _is_a_text(held, place, own, hops - 1)
    given = own.values_given(place, name) if hops and name in place.parameters else ()
    return any(_is_a_text(one, at, own, hops - 1) for at, one in given)


def _is_split(value: ast.expr) -> bool:
    """Whether a text is taken apart at `=`."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in SPLITS):
        return False
    return bool(value.args) and isinstance(value.args[0], ast.Constant) and value.args[0].value == "="


def _taken_apart(nodes: Sequence[ast.AST]) -> set[str]:
    """The names of the parts of texts that are split at `=`."""
    names: set[str] = set()
    for target, value in assignments_in(nodes):
        if _is_split(value):
            names |= {dotted(place) for place in places_of(target)}
    for node in nodes:
        if isinstance(node, ast.For | ast.comprehension):
            over = node.iter.elt if isinstance(node.iter, ast.GeneratorExp | ast.ListComp) else node.iter
            if _is_split(over):
                names |= {dotted(place) for place in places_of(node.target)}
    return names


def _given(function: Function) -> set[str]:
    """The parameters of a function that are texts."""
    return {
        each.arg for each in parameters_of(function) if each.arg in TEXTS or dotted(each.annotation or each) == "str"
    }


def _knows_words(nodes: Sequence[ast.AST]) -> bool:
    """Whether a function treats truth values apart, by their type or their words."""
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return any(
        (isinstance(node, ast.Name) and node.id == "bool" and id(node) not in called)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower() in WORDS)
        for node in nodes
    )


def _converts(call: ast.Call, raw: set[str]) -> bool:
    """Whether a call makes a value of a text, by a type that may be `bool`."""
    if len(call.args) != 1 or call.keywords or dotted(call.args[0]) not in raw:
        return False
    function = call.func
    if isinstance(function, ast.Call):
        return dotted(function.func) == "type" and len(function.args) == 1
    if isinstance(function, ast.Subscript):
        return bool(TYPES.search(dotted(function.value).rpartition(".")[2]))
    return dotted(function) == "bool" or (isinstance(function, ast.Attribute) and function.attr == "type")


def _finding(file: File, node: ast.AST, function: str, what: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f'{what} makes True of every text, of "false" and "0" as well; allowed: none does',
        culprit=file.at(node, function),
        fix='read truth values by their words, "true" and "false", and refuse the rest',
    )
