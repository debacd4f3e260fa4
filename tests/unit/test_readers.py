"""Lines, texts and files of data: usable rows are kept, and a bad one is rejected with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.contracts.rows import MAX_LINE_BYTES
from components.errors import UserError
from components.prepare.examples import Example
from components.verifiers import verify
from tests.unit.reading import GOOD, as_lines, read, write


def test_prompt_and_completion_are_read_under_the_names_the_recipe_gives(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path, as_lines({"question": "How many?", "answer": "6 * 7 = 42\n#### 42"})
    )
    (example,), rejected = read(
        path, prompt_field="question", completion_field="answer", verifier="numeric"
    )
    assert not rejected
    assert (example.prompt, example.completion) == ("How many?", "6 * 7 = 42\n#### 42")
    assert verify(example.as_prompt(), "it is 42")
    assert example.provenance["place"] == "line 1"


def test_text_is_raw_text_and_text_with_a_label_is_a_question_in_that_class(
    tmp_path: Path,
) -> None:
    (raw, labelled), _ = read(
        write(tmp_path, as_lines({"text": "Once upon"}, {"text": "Who?", "label": 3}))
    )
    assert (raw.prompt, raw.completion) == ("", "Once upon")
    assert (labelled.prompt, labelled.completion, labelled.tags) == (
        "Who?",
        "3",
        {"label": "3"},
    )


def test_a_class_may_have_another_name_and_a_text_without_one_is_a_question(
    tmp_path: Path,
) -> None:
    rows = as_lines(
        {"sentence": "so good", "Intent": "praise"},
        {"sentence": "x", "Intent": "y" * 65},
    )
    names = {"prompt_field": "sentence", "completion_field": "Intent"}
    (named, long), _ = read(write(tmp_path, rows), **names)
    assert (named.prompt, named.tags) == ("so good", {"label": "praise"})
    assert long.tags == {}, "an answer, and no name of a class"
    path = write(tmp_path, as_lines({"text": "Who?"}))
    (unlabelled,), _ = read(path, split="unlabelled")
    assert (unlabelled.prompt, unlabelled.completion) == ("Who?", None)
    (raw,), _ = read(path, split="train")
    assert (raw.prompt, raw.completion) == ("", "Who?")
    answered = as_lines({"question": "1+1?", "answer": "2"})
    (plain,), _ = read(
        write(tmp_path, answered), prompt_field="question", completion_field="answer"
    )
    assert plain.tags == {}


def test_a_question_without_an_answer_is_for_unlabelled_alone(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + as_lines({"prompt": "2+3"}))
    examples, rejected = read(path, split="unlabelled")
    assert [example.completion for example in examples] == ["4", None]
    assert not rejected
    examples, rejected = read(path)
    assert [row.reason for row in rejected] == ["no_completion"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json\n", "not_json"),
        (b'{"prompt": "2+2", "completion": \n', "not_json"),
        (b"[1, 2]\n", "not_an_object"),
        (b"null\n", "not_an_object"),
        (b"\n", "empty"),
        (b'{"prompt": "  ", "completion": "4"}\n', "empty"),
        (b'{"prompt": ["2+2"], "completion": "4"}\n', "wrong_type"),
        (b'{"prompt": "2+2", "completion": true}\n', "wrong_type"),
        (b'{"prompt": "2+2", "completion": NaN}\n', "not_a_number"),
        (b'{"prompt": "a\\u0000b", "completion": "4"}\n', "nul_character"),
        (b'{"prompt": "\\ud800", "completion": "4"}\n', "invalid_utf8"),
        (b'{"prompt": "\xff", "completion": "4"}\n', "invalid_utf8"),
        (b'{"query": "2+2"}\n', "unknown_shape"),
        (b'{"messages": []}\n', "wrong_type"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}\n', "empty"),
        (b"[" * 100_000 + b"\n", "not_json"),
        (
            b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'", "completion": "4"}\n',
            "too_long",
        ),
    ],
)
def test_a_bad_row_is_rejected_with_its_place_and_the_rest_is_kept(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = write(tmp_path, GOOD + line + GOOD)
    examples, rejected = read(path)
    assert len(examples) == 2
    assert [row.reason for row in rejected] == [reason]
    assert "data.jsonl, line 2: " in rejected[0].detail
    assert len(rejected[0].model_dump_json().encode()) < 8_000


def test_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(
    tmp_path: Path,
) -> None:
    examples, rejected = read(write(tmp_path, b"\xef\xbb\xbf" + GOOD + GOOD.rstrip()))
    assert (len(examples), len(rejected)) == (2, 0)


def test_the_limit_counts_usable_rows(tmp_path: Path) -> None:
    examples, rejected = read(write(tmp_path, b"bad\n" + GOOD * 5), limit=3)
    assert (len(examples), len(rejected)) == (3, 1)


def test_plain_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b"First Citizen:\nSpeak.\n\n\nAll:\nSpeak, speak.\n\n\xff\xfe\n",
        "play.txt",
    )
    examples, rejected = read(path)
    assert [example.completion for example in examples] == [
        "First Citizen:\nSpeak.",
        "All:\nSpeak, speak.",
    ]
    assert [(row.reason, row.detail.split(", ")[-1][:7]) for row in rejected] == [
        ("invalid_utf8", "line 8:")
    ]


def test_the_format_of_a_file_without_a_known_suffix_is_told_by_its_content(
    tmp_path: Path,
) -> None:
    parquet = tmp_path / "a"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "x"}]), parquet)
    assert read(parquet)[0][0].completion == "x"
    assert read(write(tmp_path, GOOD, "b"))[0][0].prompt == "2+2"
    assert read(write(tmp_path, "Grüße\n".encode(), "c.md"))[0][0].completion == "Grüße"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", b"", "no usable row .it holds no rows"),
        (
            "bad.jsonl",
            b"x\ny\n[]\n",
            "all 3 rows were rejected, most often: not_json, first at line 1: Expecting",
        ),
        (
            "array.json",
            b'[{"prompt": 1}]',
            "all 1 rows were rejected, most often: no_completion",
        ),
        ("header.csv", b"prompt,completion\n", "no usable row .it holds no rows"),
        (
            "empty.csv",
            b"Question,Answer\na,\nb,\n",
            "first at line 2: 'Answer' is empty; only",
        ),
        (
            "table.csv",
            b"PK\x03\x04\0\0\n\0",
            "its first line holds NUL bytes, so it is no table",
        ),
        (
            "other.csv",
            b"ask,reply\na,b\n",
            r"found: ask, reply; expected [^(]*completion_field\); the first line [a-z ]*$",
        ),
        ("zip.bin", b"PK\x03\x04\0\0", "unknown format"),
        ("broken.parquet", b"PAR1 nonsense", "not readable as Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path, content, name))
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.jsonl: no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


LINE = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "prompt",
                        "completion",
                        "text",
                        "label",
                        "messages",
                        "role",
                        "content",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINE, max_size=12), st.sampled_from(["auto", "unlabelled"]))
def test_whatever_the_lines_hold_each_is_either_kept_or_rejected(
    tmp_path_factory: Any, lines: list[bytes], split: str
) -> None:
    content = b"\n".join(lines) + b"\n" + GOOD
    # These marks, of UTF-16 and of gzip, say of a whole file how it is to be read.
    assume(not content.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")))
    path = write(tmp_path_factory.mktemp("lines"), content)
    examples, rejected = read(path, split=split)
    assert len(examples) + len(rejected) == content.count(b"\n")
    assert examples[-1].prompt == "2+2"
    for row in rejected:
        row.model_dump_json()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["a.jsonl", "a.parquet", "a.txt", "a"]))
def test_no_bytes_crash_the_reader(
    tmp_path_factory: Any, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("bytes"), content, name)
    refused = ""
    examples: list[Example] = []
    try:
        examples, _ = read(path)
    except UserError as error:
        refused = str(error)
    assert examples or name in refused
