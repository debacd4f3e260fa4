"""Files as other programs write them: tables, arrays, archives, exports, and their usual names."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from components.contracts.rows import MAX_LINE_BYTES
from components.errors import UserError
from tests.unit.public_files import as_lines, pairs, read, write

ROWS = [("How much is 2 plus 2?", "4"), ('He said "no, never".\nTwice.', "5, or more")]
QUOTED = (
    "prompt{0}completion\r\nHow much is 2 plus 2?{0}4\r\n"
    '"He said ""no, never"".\nTwice."{0}"5, or more"\r\n'
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", QUOTED.format(",")),
        ("a.csv", "\ufeff" + QUOTED.format(";")),
        ("a.csv", "sep=;\r\n" + QUOTED.format(";")),
        ("a.tsv", QUOTED.format("\t")),
        ("a.csv.gz", QUOTED.format(",")),
        (
            "A.CSV",
            QUOTED.format(",").replace("prompt", " Prompt ").replace("compl", "Compl"),
        ),
        (
            "a.json",
            json.dumps([{"prompt": p, "completion": c} for p, c in ROWS], indent=2),
        ),
        ("a.json.gz", json.dumps([{"prompt": p, "completion": c} for p, c in ROWS])),
        ("a.json", as_lines(*({"prompt": p, "completion": c} for p, c in ROWS))),
        ("a.jsonl.gz", as_lines(*({"prompt": p, "completion": c} for p, c in ROWS))),
        (
            "no-ending",
            gzip.compress(
                as_lines(*({"prompt": p, "completion": c} for p, c in ROWS)).encode()
            ),
        ),
    ],
)
def test_tables_arrays_and_compressed_files_give_the_rows_that_they_hold(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    assert pairs(write(tmp_path, name, content)) == ROWS


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Q", "answer": 4}, ("Q", "4")),
        ({"Question": "Q", "Answer": "A"}, ("Q", "A")),
        ({"instruction": "Add.", "input": "2+2", "output": "4"}, ("Add.\n\n2+2", "4")),
        ({"instruction": "Add.", "input": "", "output": "4"}, ("Add.", "4")),
        (
            {"instruction": "I", "context": "C", "response": "R", "category": "x"},
            ("I\n\nC", "R"),
        ),
        ({"question": "Q", "context": "C", "answer": "A"}, ("Q\n\nC", "A")),
        ({"prompt": "Q", "response": "A"}, ("Q", "A")),
        ({"query": "Q", "response": "A"}, ("Q", "A")),
        ({"input": "Q", "output": "A"}, ("Q", "A")),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            ("Q", "A"),
        ),
        (
            {
                "conversation": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "A"},
                ]
            },
            ("Q", "A"),
        ),
        # TRL's conversational rows, and a question that its conversation repeats (UltraChat).
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "completion": [{"role": "assistant", "content": "A"}],
            },
            ("Q", "A"),
        ),
        (
            {
                "prompt": "Q",
                "messages": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "A"},
                ],
            },
            ("Q", "A"),
        ),
        ({"prompt": "Q", "completion": "A", "label": True}, ("Q", "A")),
    ],
)
def test_rows_under_the_names_of_public_data_sets_are_read(
    tmp_path: Path, row: Any, expected: tuple[str, str]
) -> None:
    assert pairs(write(tmp_path, "a.jsonl", as_lines(row))) == [expected]


def test_a_system_message_beside_a_question_is_its_first_turn(tmp_path: Path) -> None:
    rows = (
        {"system": "Be brief.", "instruction": "Q", "input": "", "output": "A"},
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
            ],
        },
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
            ]
        },
    )
    examples, _ = read(write(tmp_path, "a.jsonl", as_lines(*rows)))
    for example in examples:
        assert example.conversation is not None
        assert [turn["role"] for turn in example.conversation.messages] == [
            "system",
            "user",
            "assistant",
        ]
        assert example.completion == "A"


def test_preferred_answers_are_taught_once_the_recipe_says_so(tmp_path: Path) -> None:
    question = {"role": "user", "content": "Q"}
    rows = (
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {
            "prompt": "Q",
            "chosen": [question, {"role": "assistant", "content": "A"}],
            "rejected": [],
        },
        {
            "prompt": [question],
            "chosen": [{"role": "assistant", "content": "A"}],
            "rejected": [],
        },
    )
    path = write(tmp_path, "a.jsonl", as_lines(*rows))
    assert pairs(path, completion_field="chosen") == [("Q", "A")] * 3
    with pytest.raises(
        UserError, match=r"preference pair; set `completion_field: chosen`"
    ):
        read(path)


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        (
            {"prompt": "Q", "completion": "A", "label": False},
            "unwanted_answer",
            "label is false",
        ),
        (
            {"question": "Q", "choices": ["a", "b"], "answer": 1},
            "unknown_shape",
            "'choices'",
        ),
        (
            {"instruction": "Q", "output": "A", "history": [["a", "b"]]},
            "unknown_shape",
            "messages",
        ),
        (
            {"conversations": [{"from": "critic", "value": "x"}]},
            "wrong_type",
            "known are",
        ),
        ({"prompt": None, "completion": "A"}, "empty", "'prompt' is empty"),
        (
            {"prompt": "Q", "solution": "A"},
            "no_completion",
            "fields found: prompt, solution",
        ),
        ({"problem": "Q", "solution": "A"}, "unknown_shape", "set prompt_field and"),
    ],
)
def test_a_row_that_would_lose_its_meaning_is_rejected_with_what_helps(
    tmp_path: Path, row: Any, reason: str, words: str
) -> None:
    content = as_lines({"prompt": "Q", "completion": "A"}, row)
    _, (rejected,) = read(write(tmp_path, "a.jsonl", content))
    assert rejected.reason == reason
    assert words in rejected.detail


def test_names_of_the_recipe_are_not_guessed_around(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "question,answer,gold\nQ,A,G\n")
    assert pairs(path, prompt_field="question", completion_field="gold") == [("Q", "G")]
    with pytest.raises(UserError, match=r"fields found: answer, gold, question"):
        read(path, prompt_field="frage")


def test_a_bad_record_of_a_table_is_rejected_at_its_line_and_the_next_one_is_read(
    tmp_path: Path,
) -> None:
    content = (
        b'prompt,completion\na,"1\n2"\nb,2,3\n"c" d,4\n\ne,\xff\nf,\n'
        + b"g,"
        + b"x" * (MAX_LINE_BYTES + 10)
        + b"\nh,8\n"
    )
    examples, rejected = read(write(tmp_path, "a.csv", content))
    assert [(example.prompt, example.provenance["place"]) for example in examples] == [
        ("a", "line 2"),
        ("h", "line 10"),
    ]
    told = [(row.reason, row.detail.split(": ")[0].split(", ")[1]) for row in rejected]
    assert told == [
        ("columns", "line 4"),
        ("not_csv", "line 5"),
        ("empty", "line 6"),
        ("invalid_utf8", "line 7"),
        ("no_completion", "line 8"),
        ("not_csv", "line 9"),
    ]


def test_an_array_larger_than_what_is_held_is_read_and_a_broken_one_is_named(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": f"{number} " + "ä" * 3000, "completion": "1"}
        for number in range(1000)
    ]
    examples, _ = read(write(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False)))
    assert [example.prompt.split()[0] for example in examples] == [
        str(n) for n in range(1000)
    ]
    for broken in (
        '[{"prompt": "Q", "completion": "A"}, {"prompt"',
        '[{"a": 1} {"b": 2}]',
    ):
        with pytest.raises(UserError, match=r"row 1|row 2 is no JSON"):
            read(write(tmp_path, "b.json", broken))


def test_an_array_under_the_name_of_json_lines_is_read(tmp_path: Path) -> None:
    rows = [{"question": "Q1", "answer": "A1"}, {"question": "Q2", "answer": "A2"}]
    for indent in (0, 1, 4):
        path = write(tmp_path, f"{indent}.jsonl", json.dumps(rows, indent=indent))
        assert pairs(path) == [("Q1", "A1"), ("Q2", "A2")]
    beside = write(
        tmp_path,
        "a.jsonl",
        ",\n ".join(json.dumps(rows).split(", {")).replace("\n ", "\n{"),
    )
    assert pairs(beside) == [("Q1", "A1"), ("Q2", "A2")]
    # Several lists below each other are no array, and the first must not stand for all.
    line = write(tmp_path, "b.jsonl", json.dumps(rows))
    assert pairs(line, format="json") == [("Q1", "A1"), ("Q2", "A2")]
    with pytest.raises(
        UserError, match="a list, not an object; if the file is one array, set"
    ):
        read(line)


def test_a_column_without_a_name_is_nothing_that_is_taught(tmp_path: Path) -> None:
    """Data frames are written with their row numbers, in a first column without a name."""
    table = ",question,answer\n0,Q1,A1\n1,Q2,A2\n"
    named = ",text,label\n0,good,1\n1,bad,0\n"
    examples, rejected = read(write(tmp_path, "a.csv", table))
    assert [(one.prompt, one.completion) for one in examples] == [
        ("Q1", "A1"),
        ("Q2", "A2"),
    ]
    assert [one.conversation for one in examples] == [None, None]
    assert rejected == []
    assert pairs(write(tmp_path, "b.csv", named)) == [("good", "1"), ("bad", "0")]
    only_text = write(tmp_path, "c.csv", ",text\n0,some prose\n")
    assert pairs(only_text) == [("", "some prose")]


@pytest.mark.parametrize(
    "row",
    [
        {
            "System": "S",
            "conversations": [
                {"from": "human", "value": "U"},
                {"from": "gpt", "value": "A"},
            ],
        },
        {"system_prompt": "S", "question": "U", "response": "A"},
        {
            "messages": [
                {"role": "System", "value": "S"},
                {"role": "human", "value": "U"},
                {"role": "model", "content": "A"},
            ]
        },
        {
            "system": "S",
            "conversations": [
                {"from": "user", "content": "U"},
                {"role": "gpt", "content": "A"},
            ],
        },
    ],
)
def test_turns_in_the_words_of_others_keep_their_roles_and_the_systems_text(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    (example,), _ = read(write(tmp_path, "a.jsonl", json.dumps(row)))
    assert example.conversation is not None
    told = [(turn["role"], turn["content"]) for turn in example.conversation.messages]
    assert told == [("system", "S"), ("user", "U"), ("assistant", "A")]


def test_turns_in_the_cell_of_a_table_are_read(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["messages"], [json.dumps(turns)]])
    examples, _ = read(write(tmp_path, "a.csv", buffer.getvalue()))
    assert examples[0].conversation is not None
    assert list(examples[0].conversation.messages) == turns


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"question": ["Q1", "Q2", "Q3"], "answer": [1, 2, 3]}
    )
    table.save_to_disk(tmp_path / "one", num_shards=2)
    assert pairs(tmp_path / "one") == [("Q1", "1"), ("Q2", "2"), ("Q3", "3")]
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(
        tmp_path / "both"
    )
    assert len(pairs(tmp_path / "both" / "test")) == 3
    with pytest.raises(UserError, match=r"\(train, test\); give each .*both/train`"):
        read(tmp_path / "both")
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow is missing"):
        read(tmp_path / "one")
    with pytest.raises(
        UserError, match=r"is a folder; name one file in it \(both, one\)"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"PK\x03\x04\0\0", "a spreadsheet: save the sheet as CSV"),
        ("a.zip", b"PK\x03\x04\0\0", "a zip archive: unpack it"),
        ("a.jsonl.bz2", b"BZh9", "compressed by bzip2"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        ("a.pkl", b"\x80\x04", "a pickle, which runs code"),
        ("a.html", b"<p>", "markup"),
        (
            "a.csv",
            "prompt,completion\na,b\n".encode("utf-16"),
            "UTF-16: save it as UTF-8",
        ),
        ("a.jsonl", '{"prompt": "a"}\n'.encode("utf-16"), "UTF-16: save it as UTF-8"),
        (
            "a.csv",
            "prompt,completion\na,b\n".encode("utf-16-le"),
            "UTF-16: save it as UTF-8",
        ),
        (
            "a.csv",
            b'prompt,completion\na,b\n"c,d\ne,f\ng,h\n',
            "a quote in line 3 is never closed, so all up to line 5, the last, is one cell",
        ),
        (
            "a.json",
            b'{"version": 1, "data": [{"prompt": "a", "completion": "b"}]}',
            r"'data' holds rows: jq -c '\.data\[\]' FILE > FILE\.jsonl",
        ),
        (
            "a.csv",
            b"messages\n\"[{'role': 'user'}]\"\n",
            "the turns are text that is no JSON",
        ),
        (
            "a.jsonl",
            b'{"question": "Q", "answer": ["A"]}',
            "'answer' is a list, not text or turns",
        ),
        ("a.csv", b"prompt,prompt\na,b\n", "two columns are called 'prompt'"),
        ("a.csv", b"2+2,4\n3+3,6\n", "the first line names the columns"),
        (
            "a.json",
            b'{\n "data": [1]\n}',
            "one JSON object; its rows belong into an array",
        ),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\0\x01", "gzip|cannot be read"),
    ],
)
def test_a_file_that_is_not_read_is_refused_by_name_with_what_helps(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read(path)
    assert name in str(caught.value)


def test_the_recipe_says_the_format_where_a_name_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, "export.dat", "prompt,completion\nQ,A\n")
    assert pairs(path, format="csv") == [("Q", "A")]
    assert pairs(write(tmp_path, "page.html", "Once upon"), format="text") == [
        ("", "Once upon")
    ]


def test_a_file_cut_off_within_gzip_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a.jsonl.gz",
        as_lines(*({"prompt": str(n), "completion": str(n * n)} for n in range(5000))),
    )
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"not readable as gzip after row \d+"):
        read(path)
