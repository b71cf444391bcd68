"""Readers: every format becomes examples; every fault names file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from wmtp.data.examples import Example
from wmtp.data.readers import read_examples
from wmtp.errors import DataError

MBPP = {"text": "Add.", "code": "def f(a):\r\n  return a", "task_id": 7, "test_list": ["assert f(1) == 1"]}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(a):\n",
    "canonical_solution": "    return a\n",
    "test": "def check(c):\n    assert c(1) == 1\n",
    "entry_point": "f",
}
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def message_of(path: Path, kind: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read_examples(path, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_mbpp_row_becomes_a_program_below_a_comment(tmp_path: Path) -> None:
    """The text stands as a comment above the code, so prompt and completion are one program; CR LF and CR become LF."""
    path = write_rows(tmp_path / "a.jsonl", MBPP | {"text": "Add.\r\nTwice.\rOnce.", "test_setup_code": "import os"})
    assert read_examples(path) == [
        Example("7", "# Add.\n# Twice.\n# Once.\n", "def f(a):\n  return a", "import os", ("assert f(1) == 1",))
    ]


def test_humaneval_row_calls_its_check(tmp_path: Path) -> None:
    """HumanEval's test defines check(); it is called with the function under test."""
    expected = Example(
        "HumanEval/0", "def f(a):\n", "    return a\n", "",
        ("def check(c):\n    assert c(1) == 1\n\ncheck(f)",), "f",
    )  # fmt: skip
    assert read_examples(write_rows(tmp_path / "a.jsonl", HUMANEVAL)) == [expected]


def test_prompt_completion_row_keeps_its_tests_and_is_named_after_its_line(tmp_path: Path) -> None:
    """A row without a task_id is a task of its own, named after its place."""
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c", "test_list": ["t"]})
    assert read_examples(path) == [Example(f"{path}:1", "p", "c", "", ("t",))]


def test_text_rows_have_no_prompt(tmp_path: Path) -> None:
    """A row with only text is all completion."""
    path = write_rows(tmp_path / "a.jsonl", {"text": "one", "task_id": "t"})
    assert read_examples(path) == [Example("t", "", "one")]


@pytest.mark.parametrize(("name", "kind"), [("a.txt", "auto"), ("a.txt", "text"), ("a.md", "text")])
def test_plain_file_has_a_row_a_line(tmp_path: Path, name: str, kind: str) -> None:
    """Each line of a plain file that is not blank is a row; line numbers count blank lines too."""
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two\n")
    assert read_examples(path, kind) == [Example(f"{name}:1", "", "one"), Example(f"{name}:3", "", "  two")]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz"])
def test_gzip_file_is_unpacked(tmp_path: Path, name: str) -> None:
    """A name that ends in .gz is unpacked, then read by the name before it."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(json.dumps({"text": "one"}).encode()))
    expected = "one" if "jsonl" in name else '{"text": "one"}'
    assert [example.completion for example in read_examples(path)] == [expected]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """Blank lines in JSONL are skipped, and still counted."""
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "one"}\n\n{"text": 2}\n')
    assert message_of(path) == "FILE:4: field 'text' must be a string, got an integer"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([MBPP, {k: v for k, v in MBPP.items() if k != "code"} | {"coed": ""}],
         "FILE:2: no field 'code', expected a string; did you mean 'coed'?"),
        ([{"text": "a", "cod": "b", "task_id": 1, "test_list": []}],
         "FILE:1: no field 'code', expected a string; did you mean 'cod'?"),
        ([{"promt": "a", "completion": "b"}], "FILE:1: no field 'prompt', expected a string; did you mean 'promt'?"),
        ([MBPP | {"test_list": "assert 1"}], "FILE:1: field 'test_list' must be a list of strings, got a string"),
        ([MBPP | {"test_list": ["a", 1]}],
         "FILE:1: field 'test_list' must be a list of strings, got a list whose items are not all strings"),
        ([MBPP | {"task_id": True}], "FILE:1: field 'task_id' must be a string or an integer, got true or false"),
        ([MBPP | {"task_id": None}], "FILE:1: field 'task_id' must be a string or an integer, got null"),
        ([MBPP | {"code": {}}], "FILE:1: field 'code' must be a string, got an object"),
        ([MBPP | {"code": 1.5}], "FILE:1: field 'code' must be a string, got a number"),
        ([MBPP | {"code": ["a"]}], "FILE:1: field 'code' must be a string, got a list"),
        ([MBPP | {"code": ""}], "FILE:1: field 'code' is empty; expected a string with text in it"),
        ([{"text": "a\ud800"}], "FILE:1: field 'text' has a lone surrogate at character 1"),
        ([["a"]], "FILE:1: expected one JSON object a line, got a list"),
        ([{"txt": "a"}],
         ("FILE:1: fields ['txt'] fit none of the formats mbpp, humaneval, prompt_completion, text; "
          "expected for example 'prompt' and 'completion', or 'text'; did you mean 'text'?")),
    ],
)  # fmt: skip
def test_row_fault_names_line_field_and_type(tmp_path: Path, rows: list[Any], expected: str) -> None:
    """A row that cannot be used is named by file, line and field, with what was expected and the nearest field."""
    assert message_of(write_rows(tmp_path / "a.jsonl", *rows)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "FILE: the file is empty; expected at least one row"),
        (b"\n \n", "FILE: the file is empty; expected at least one row"),
        (b'{"text": "a"}\n{"text": "b\xff"}', "FILE:2: not UTF-8: byte 0xff at offset 25"),
        (b'{"text": "a"}\n{"text": "b', ("FILE:2: not JSON at column 10: Unterminated string starting at"
          " (the last line: is the file truncated?)")),
        (b'{"text": "a"}\n{"text":', ("FILE:2: not JSON at column 9: Expecting value"
          " (the last line: is the file truncated?)")),
        (b'{"text" "a"}\n{"text": "b"}', "FILE:1: not JSON at column 9: Expecting ':' delimiter"),
        (b'{"text": ' + b"9" * 5000 + b"}", ("FILE:1: JSON that cannot be read: Exceeds the limit "
          "(4300 digits) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to "
          "increase the limit")),
    ],
)  # fmt: skip
def test_file_fault_names_its_place(tmp_path: Path, content: bytes, expected: str) -> None:
    """An empty file, bytes that are no UTF-8 and lines that are no JSON are named by line, column or offset."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert message_of(path) == expected


def test_deeply_nested_json_is_a_data_error(tmp_path: Path) -> None:
    """Brackets too deep for the parser end in one message, not in a traceback."""
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 200_000)
    assert message_of(path).startswith("FILE:1: ")


def test_truncated_gzip_is_a_data_error(tmp_path: Path) -> None:
    """A gzip file that ends early, or is none, is named."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "one"}')[:-4])
    assert message_of(path).startswith("FILE: not a whole gzip file: ")
    path.write_bytes(b"plain")
    assert message_of(path).startswith("FILE: not a whole gzip file: ")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    """A missing file's message offers the nearest name of its folder, or says that the folder is missing."""
    write_rows(tmp_path / "mbpp.jsonl", MBPP)
    assert message_of(tmp_path / "mpbb.jsonl") == "FILE: no such file; did you mean 'mbpp.jsonl'?"
    nowhere = tmp_path / "no" / "a.jsonl"
    assert message_of(nowhere) == f"FILE: no such file; its folder {str(tmp_path / 'no')!r} does not exist either"


def test_folder_is_refused(tmp_path: Path) -> None:
    """A folder is no file of rows."""
    assert message_of(tmp_path) == "FILE: is a folder; expected a file of rows"


def test_unreadable_file_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses to read is named with its reason."""
    path = write_rows(tmp_path / "a.jsonl", MBPP)

    def refuse(_self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message_of(path) == "FILE: cannot be read: Permission denied"


def test_missing_file_needs_no_readable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be listed, the message goes without a suggestion."""

    def refuse(_self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert message_of(tmp_path / "a.jsonl") == "FILE: no such file"


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt format is refused with the nearest one."""
    expected = (
        "unknown data format 'mbp'; did you mean 'mbpp'? (formats: auto, mbpp, humaneval, prompt_completion, text)"
    )
    assert message_of(tmp_path / "a.jsonl", "mbp") == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real MBPP and HumanEval files are not beside the repository")
def test_real_files_are_read_whole() -> None:
    """All rows of the real MBPP and HumanEval files become examples with tests and LF line ends."""
    mbpp = read_examples(SHARED / "mbpp.jsonl")
    humaneval = read_examples(SHARED / "HumanEval.jsonl.gz")
    assert (len(mbpp), len(humaneval)) == (974, 164)
    assert all(example.tests and "\r" not in example.text for example in mbpp + humaneval)
