import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import DataSource
from components.contracts.rows import MAX_LINE_BYTES, Dropped
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.readers import read_source
from components.verifiers import verify

GOOD = b'{"prompt": "2+2", "completion": "4"}\n'


def read(path: Path, **settings: Any) -> tuple[list[Example], list[Dropped]]:
    source = DataSource(uri=f"file://{path}", **settings)
    items = list(read_source(path, source))
    return [item for item in items if isinstance(item, Example)], [
        item for item in items if isinstance(item, Dropped)
    ]


def write(folder: Path, content: bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def as_lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_prompt_and_completion_are_read_under_the_names_the_recipe_gives(tmp_path: Path) -> None:
    path = write(tmp_path, as_lines({"question": "How many?", "answer": "6 * 7 = 42\n#### 42"}))
    (example,), rejected = read(
        path, prompt_field="question", completion_field="answer", verifier="numeric"
    )
    assert not rejected
    assert (example.prompt, example.completion) == ("How many?", "6 * 7 = 42\n#### 42")
    assert verify(example.as_prompt(), "it is 42")
    assert example.provenance["place"] == "line 1"


def test_the_last_assistant_turn_of_a_chat_is_the_completion(tmp_path: Path) -> None:
    one = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    longer = [
        {"role": "system", "content": "Be brief"},
        *one,
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye"},
    ]
    examples, _ = read(write(tmp_path, as_lines({"messages": one}, {"messages": longer})))
    assert (examples[0].prompt, examples[0].completion) == ("Hi", "Hello")
    assert examples[1].prompt == "System: Be brief\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Bye"
    assert examples[1].completion == "Goodbye"


def test_text_is_raw_text_and_text_with_a_label_is_a_question_in_that_class(tmp_path: Path) -> None:
    (raw, labelled), _ = read(
        write(tmp_path, as_lines({"text": "Once upon"}, {"text": "Who?", "label": 3}))
    )
    assert (raw.prompt, raw.completion) == ("", "Once upon")
    assert (labelled.prompt, labelled.completion, labelled.tags) == ("Who?", "3", {"label": "3"})


def test_a_class_may_have_another_name_and_a_text_without_one_is_a_question(tmp_path: Path) -> None:
    rows = as_lines(
        {"sentence": "so good", "Intent": "praise"}, {"sentence": "x", "Intent": "y" * 65}
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
        (b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'", "completion": "4"}\n', "too_long"),
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


def test_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    examples, rejected = read(write(tmp_path, b"\xef\xbb\xbf" + GOOD + GOOD.rstrip()))
    assert (len(examples), len(rejected)) == (2, 0)


def test_the_limit_counts_usable_rows(tmp_path: Path) -> None:
    examples, rejected = read(write(tmp_path, b"bad\n" + GOOD * 5), limit=3)
    assert (len(examples), len(rejected)) == (3, 1)


def test_plain_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    path = write(
        tmp_path, b"First Citizen:\nSpeak.\n\n\nAll:\nSpeak, speak.\n\n\xff\xfe\n", "play.txt"
    )
    examples, rejected = read(path)
    assert [example.completion for example in examples] == [
        "First Citizen:\nSpeak.",
        "All:\nSpeak, speak.",
    ]
    assert [(row.reason, row.detail.split(", ")[-1][:7]) for row in rejected] == [
        ("invalid_utf8", "line 8:")
    ]


def test_parquet_rows_are_read_and_bad_ones_rejected_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    rows = [
        {"prompt": "2+2", "completion": "4"},
        {"prompt": "", "completion": "4"},
        {"prompt": "3+3", "completion": "6"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    examples, rejected = read(path)
    assert [example.prompt for example in examples] == ["2+2", "3+3"]
    assert [(row.reason, "row 2" in row.detail) for row in rejected] == [("empty", True)]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([2**62, 0], pyarrow.timestamp("us")),
        pyarrow.array([2**31 - 1, 0], pyarrow.int32()).cast(pyarrow.date32()),
        pyarrow.array([2**62, 0], pyarrow.duration("ms")),
    ],
    ids=["timestamp", "date", "duration"],
)
def test_a_row_with_a_value_that_cannot_be_read_is_rejected_alone(
    tmp_path: Path, column: pyarrow.Array
) -> None:
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "when": column}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["unreadable_value"]


def test_a_time_zone_that_nobody_knows_rejects_its_rows(tmp_path: Path) -> None:
    when = pyarrow.array([1, None], pyarrow.timestamp("us", tz="Mars/Olympus"))
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "when": when}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["unreadable_value"]


def test_parquet_conversations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.parquet"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), path)
    assert [example.completion for example in read(path)[0]] == ["Hello"]


def test_parquet_with_views_of_texts_is_read(tmp_path: Path) -> None:
    """Polars and others write the kind of their columns into the file."""
    columns = {
        "prompt": pyarrow.array(["2+2", "3+3"], pyarrow.string_view()),
        "completion": pyarrow.array(["4", "6"], pyarrow.string_view()),
        "tags": pyarrow.array([["a"], ["b", "c"]], pyarrow.list_view(pyarrow.string())),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
    examples, rejected = read(tmp_path / "data.parquet")
    assert [example.completion for example in examples] == ["4", "6"]
    assert not rejected


def test_a_row_of_views_counts_what_they_show(tmp_path: Path) -> None:
    """Each list of it shows the one below a thousand times: 10**32 bytes in all."""
    shown = pyarrow.array(["x" * 100_000], pyarrow.string_view())
    for _ in range(10):
        lists = [pyarrow.array([number] * 1000, pyarrow.int32()) for number in (0, len(shown))]
        shown = pyarrow.ListViewArray.from_arrays(*lists, shown)
    nothing = pyarrow.array([None], shown.type)
    table = pyarrow.table(
        {
            "prompt": ["a", "b"],
            "completion": ["c", "d"],
            "more": pyarrow.concat_arrays([shown[:1], nothing]),
        }
    )
    with pyarrow.ipc.new_stream(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    examples, rejected = read(tmp_path / "data.arrow")
    assert [example.prompt for example in examples] == ["b"]
    assert [row.reason for row in rejected] == ["too_long"]


def test_a_type_of_column_whose_size_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    runs = pyarrow.RunEndEncodedArray.from_arrays([2], pyarrow.array(["x"]))
    table = pyarrow.table({"prompt": ["a", "b"], "completion": ["c", "d"], "more": runs})
    with pyarrow.ipc.new_stream(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    with pytest.raises(UserError, match=r"columns of run_end_encoded.* are not read; write"):
        read(tmp_path / "data.arrow")


def test_the_format_of_a_file_without_a_known_suffix_is_told_by_its_content(tmp_path: Path) -> None:
    parquet = tmp_path / "a"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "x"}]), parquet)
    assert read(parquet)[0][0].completion == "x"
    assert read(write(tmp_path, GOOD, "b"))[0][0].prompt == "2+2"
    assert read(write(tmp_path, "Grüße\n".encode(), "c.md"))[0][0].completion == "Grüße"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", b"", "no usable row .it is empty"),
        (
            "bad.jsonl",
            b"x\ny\n[]\n",
            "all 3 rows were rejected, most often: not_json, first at line 1: Expecting",
        ),
        ("array.json", b'[{"prompt": 1}]', "all 1 rows were rejected, most often: no_completion"),
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
                    ["prompt", "completion", "text", "label", "messages", "role", "content"]
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
    path = write(tmp_path_factory.mktemp("lines"), content)
    examples, rejected = read(path, split=split)
    assert len(examples) + len(rejected) == content.count(b"\n")
    assert examples[-1].prompt == "2+2"
    for row in rejected:
        row.model_dump_json()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["a.jsonl", "a.parquet", "a.txt", "a"]))
def test_no_bytes_crash_the_reader(tmp_path_factory: Any, content: bytes, name: str) -> None:
    path = write(tmp_path_factory.mktemp("bytes"), content, name)
    refused = ""
    examples: list[Example] = []
    try:
        examples, _ = read(path)
    except UserError as error:
        refused = str(error)
    assert examples or name in refused


SYSTEM = {"role": "system", "content": "Be brief"}
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ADD = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]


def test_a_conversation_keeps_its_turns_and_a_question_with_an_answer_is_none(
    tmp_path: Path,
) -> None:
    rows = as_lines({"messages": ADD}, {"messages": [SYSTEM, *HI, *ADD]})
    (plain, talk), _ = read(write(tmp_path, rows))
    assert (plain.prompt, plain.completion, plain.conversation) == ("2+2", "4", None)
    assert talk.conversation is not None
    assert list(talk.conversation.messages) == [SYSTEM, *HI, *ADD]
    assert (talk.prompt, talk.completion) == (
        "System: Be brief\n\nUser: hi\n\nAssistant: hello\n\nUser: 2+2",
        "4",
    )
    asked = talk.as_prompt().conversation
    assert asked is not None
    assert list(asked.messages) == [SYSTEM, *HI, ADD[0]]
    assert talk.as_training_row().asked == asked


def test_turns_behind_the_last_answer_are_left_out_and_open_questions_are_asked(
    tmp_path: Path,
) -> None:
    rows = as_lines({"messages": [*HI, ADD[0]]}, {"messages": [SYSTEM, ADD[0]]})
    path = write(tmp_path, rows)
    [taught], _ = read(path)
    assert (taught.prompt, taught.completion, taught.conversation) == ("hi", "hello", None)
    (first, second), _ = read(path, split="unlabelled")
    assert (first.prompt, first.completion) == ("User: hi\n\nAssistant: hello\n\nUser: 2+2", None)
    assert second.completion is None
    prompt = second.as_prompt()
    assert prompt.conversation is not None
    assert list(prompt.conversation.messages) == [SYSTEM, ADD[0]]


def test_calls_of_tools_parts_of_content_and_schemas_are_read(tmp_path: Path) -> None:
    written = {"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}, "id": None}
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [written]},
        {"role": "tool", "content": "", "name": "add"},
        {"role": "assistant", "content": "4", "tool_calls": [], "note": "\\u0000 as text"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = as_lines({"messages": messages, "tools": json.dumps(tools)}, {"messages": messages[:2]})
    (whole, call), rejected = read(write(tmp_path, rows))
    assert not rejected
    assert whole.conversation is not None
    called = {"function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    assert list(whole.conversation.messages) == [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "", "name": "add"},
        {"role": "assistant", "content": "4", "note": "\\u0000 as text"},
    ]
    assert list(whole.conversation.tools) == tools
    assert call.completion == '[{"function":{"arguments":{"a":2,"b":2},"name":"add"}}]'
    path = tmp_path / "tools.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"messages": messages[:2], "tools": tools}]), path
    )
    (stored,), _ = read(path)
    assert stored.conversation is not None
    assert stored.conversation.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [called],
    }


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": [{"type": "image", "url": "x"}]}, "wrong_type"),
        ({"content": ["text"]}, "wrong_type"),
        ({"content": ""}, "empty"),
        ({"content": "x", "note": float("nan")}, "not_a_number"),
        ({"content": "x", "note": "a\0b"}, "nul_character"),
        ({"content": "x", "note": "\ud800"}, "invalid_utf8"),
    ],
)
def test_a_turn_that_is_no_text_is_rejected(
    tmp_path: Path, message: dict[str, Any], reason: str
) -> None:
    messages = [SYSTEM, {"role": "user", **message}, ADD[1]]
    _, rejected = read(write(tmp_path, GOOD + as_lines({"messages": messages})))
    assert [row.reason for row in rejected] == [reason]


def test_a_schema_of_tools_that_is_none_is_rejected(tmp_path: Path) -> None:
    rows = as_lines(
        {"messages": ADD, "tools": "nonsense"},
        {"messages": ADD, "tools": [1]},
        {"messages": ADD, "tools": []},
    )
    examples, rejected = read(write(tmp_path, rows))
    assert [row.reason for row in rejected] == ["not_json", "wrong_type"]
    assert [example.conversation for example in examples] == [None]
