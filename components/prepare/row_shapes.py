"""The shapes that a row of somebody's file may have, and the Example that each one becomes."""

from __future__ import annotations

from dataclasses import dataclass

from components.canonical import JsonObject
from components.contracts.recipe import DataSource
from components.contracts.rows import Check, Conversation, spoken
from components.contracts.verifier_names import TEXT_METRICS
from components.prepare.examples import Example
from components.prepare.known_shapes import (
    CLASS_FIELDS,
    MEANINGFUL,
    SYSTEM,
    TOOLS,
    TURNS,
    Pair,
    names_of,
    pair_of,
)
from components.prepare.row_values import (
    RejectedRow,
    Row,
    json_object,
    text_of,
    with_nested,
)
from components.prepare.turns import tools_of, turns_in_text, turns_to_last_answer

MAX_LABEL_CHARACTERS = 64
"""Longer labels are answers, not classes, and do not become slices."""


@dataclass(frozen=True)
class _Content:
    """The parts of an Example that depend on the shape of its row."""

    prompt: str
    completion: str | None
    conversation: Conversation | None = None
    label: str | None = None


@dataclass(frozen=True)
class _References:
    """Several right answers of one row."""

    field: str
    """Name of the field that holds them."""
    texts: tuple[str, ...]


def example_of(row: object, source: DataSource, location: str) -> Example:
    """Return the example that a row holds.

    Args:
        row: a parsed JSON value, or a row of a Parquet file.
        source: names the fields, the verifier and the split.
        location: where the row is in its file, for its provenance.

    Raises:
        RejectedRow: the row has no known shape, or a field that cannot be used.
    """
    if not isinstance(row, dict):
        remedy = (
            "; if the file is one array, set `format: json`"
            if isinstance(row, list)
            else ""
        )
        raise RejectedRow(
            "not_an_object", f"a {type(row).__name__}, not an object{remedy}"
        )
    fields = (source.prompt_field, source.completion_field, *source.reference_fields)
    checks = (source.tests_field, source.schema_field, source.tables_field)
    row = with_nested(row, (*fields, *checks))
    references = _references(row, source)
    if references is not None:
        # The first is taught; an answer is compared with all.
        row = {**row, references.field: references.texts[0]}
    content = _content_of(row, source)
    if content.completion is None and source.split != "unlabelled":
        raise RejectedRow(
            "no_completion",
            f"{_without_answer(row, source)}; only split unlabelled takes prompts without answers",
        )
    return Example(
        prompt=content.prompt,
        completion=content.completion,
        conversation=content.conversation,
        verifier=source.verifier,
        reference=_reference(row, source, content.completion, references),
        check=check_of(source),
        tags={} if content.label is None else {"label": content.label},
        provenance={"uri": source.uri, "place": location},
    )


def check_of(source: DataSource, code: str = "") -> Check:
    """Return the settings of a source's verifier.

    Args:
        source: has them.
        code: digest of the bundle with the user's own verifiers.
    """
    return Check(
        threshold=source.threshold,
        seconds=source.check_seconds,
        memory_mb=source.check_memory_mb,
        tolerance=source.tolerance,
        relative_tolerance=source.relative_tolerance,
        code=code,
    )


def _references(row: Row, source: DataSource) -> _References | None:
    """Return the answers of a row that holds a list of them, for a verifier that compares with all.

    Raises:
        RejectedRow: One of them is no text, or empty.
    """
    if source.verifier not in TEXT_METRICS:
        return None
    pair = pair_of(names_of(row), source)
    answers = row.get(pair.completion) if pair is not None else None
    # Turns of a conversation are objects.
    if pair is None or not isinstance(answers, list) or not answers:
        return None
    if any(isinstance(answer, dict) for answer in answers):
        return None
    name = pair.completion
    return _References(name, tuple(text_of({name: answer}, name) for answer in answers))


def _reference(
    row: Row,
    source: DataSource,
    completion: str | None,
    references: _References | None,
) -> JsonObject:
    """Return what the verifier knows: the completion as `answer`, and other fields of the row."""
    missing = [name for name in source.reference_fields if row.get(name) is None]
    if missing:
        raise RejectedRow(
            "no_reference", f"no {missing[0]!r}, of data.sources reference_fields"
        )
    fields = {name: row[name] for name in source.reference_fields}
    if source.verifier == "code":
        if row.get(source.tests_field) is None:
            raise RejectedRow(
                "no_tests", f"no {source.tests_field!r}; data.sources tests_field"
            )
        fields["tests"] = row[source.tests_field]
        fields["entry_point"] = row.get("entry_point")
    if source.verifier == "json_schema":
        schema = source.json_schema or row.get(source.schema_field)
        if schema is None:
            raise RejectedRow(
                "no_schema", f"no {source.schema_field!r}; data.sources schema_field"
            )
        fields["schema"] = schema
    if source.verifier == "sql":
        if row.get(source.tables_field) is None:
            raise RejectedRow(
                "no_tables", f"no {source.tables_field!r}; data.sources tables_field"
            )
        fields["tables"] = row[source.tables_field]
    if references is not None:
        fields["answers"] = references.texts
    reference = json_object(fields)
    return reference if completion is None else {**reference, "answer": completion}


def shapes_of(source: DataSource) -> str:
    """Return the shapes of rows that are understood, for messages."""
    pair = f"{{{source.prompt_field}, {source.completion_field}}}"
    return (
        f"{pair}, {{question, answer}}, {{instruction, input, output}}, {{messages}}, "
        "{conversations}, {text} or {text, label}; other names: set prompt_field and "
        "completion_field"
    )


def _content_of(row: Row, source: DataSource) -> _Content:
    names = names_of(row)
    _refuse_what_would_be_lost(row, names, source)
    pair = pair_of(names, source)
    turns = next((names[name] for name in TURNS if name in names), "")
    # A conversation is more than a question that stands beside it.
    if turns and (
        pair is None or not pair.completion or row.get(pair.completion) is None
    ):
        system = _system_of(row, names)
        return _content_of_messages(
            row[turns], _tools_of(row, names), system, source.split
        )
    if pair is not None:
        return _content_of_pair(row, pair, names, source.split)
    if "text" in names and _value_of(row, names, "label") is not None:
        label = text_of(row, names["label"])
        return _Content(text_of(row, names["text"]), label, label=_class_of(label))
    if "text" in names and source.split == "unlabelled":
        # Raw text asks nothing: here it is a text without its label.
        return _Content(text_of(row, names["text"]), None)
    if "text" in names:
        return _Content("", text_of(row, names["text"]))
    raise RejectedRow(
        "unknown_shape", f"{_fields_found(row)}; expected {shapes_of(source)}"
    )


def _system_of(row: Row, names: dict[str, str]) -> object:
    """Return what a row has beside its turns as the system's text; None without."""
    return next(
        (row[names[name]] for name in SYSTEM if name in names and row[names[name]]),
        None,
    )


def _tools_of(row: Row, names: dict[str, str]) -> object:
    """Return what a row has beside its turns as the tools that may be called; None without."""
    return next(
        (row[names[name]] for name in TOOLS if name in names and row[names[name]]), None
    )


def _value_of(row: Row, names: dict[str, str], name: str) -> object:
    """Return the value of a field by its name in lower case; None without the field."""
    return row[names[name]] if name in names else None


def _fields_found(row: Row) -> str:
    # Cut, because a damaged file may have names of any length.
    names = sorted(str(name)[:40] for name in row)
    listed = ", ".join(names[:10]) or "none"
    for name, value in row.items():
        # An export often wraps its rows in an object. Turns are no rows.
        is_rows = (
            isinstance(value, list) and value and all(_is_row(item) for item in value)
        )
        if is_rows and str(name).isidentifier():
            return f"fields found: {listed}; {name!r} holds rows: jq -c '.{name}[]' FILE > FILE.jsonl"
    return f"fields found: {listed}"


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and not value.keys() & {"role", "from"}


def _refuse_what_would_be_lost(
    row: Row, names: dict[str, str], source: DataSource
) -> None:
    """Raise RejectedRow for fields without which the row would say something else."""
    is_preference = {"chosen", "rejected"} <= names.keys()
    if is_preference and source.completion_field != names["chosen"]:
        raise RejectedRow(
            "preference_pair",
            "a preference pair; set `completion_field: chosen` to train on the preferred answers "
            "(the rejected ones are not used)",
        )
    for name, remedy in MEANINGFUL.items():
        # A field that the recipe names is no surprise, and an empty one loses nothing.
        if name in names and row[names[name]] and name != source.completion_field:
            raise RejectedRow("unknown_shape", f"it has {name!r}; {remedy}")
    # Rows of KTO: the answer is one that should not be given.
    if _value_of(row, names, "label") is False:
        raise RejectedRow(
            "unwanted_answer", "its label is false: the answer is not wanted"
        )


def _content_of_pair(
    row: Row, pair: Pair, names: dict[str, str], split: str
) -> _Content:
    prompt = row[pair.prompt]
    answer = row.get(pair.completion) if pair.completion else None
    system = _system_of(row, names)
    tools = _tools_of(row, names)
    if isinstance(answer, list) and _asks(answer):
        # Preference pairs often repeat the whole conversation in `chosen`.
        return _content_of_messages(answer, tools, system, split)
    if isinstance(prompt, list) or isinstance(answer, list) or system is not None:
        turns = _as_turns(prompt, "user") + _as_turns(answer, "assistant")
        if system is None and pair.prompt not in TURNS and not _are_turns(turns):
            name = pair.prompt if isinstance(prompt, list) else pair.completion
            raise RejectedRow("wrong_type", f"{name!r} is a list, not text or turns")
        return _content_of_messages(turns, tools, system, split)
    completion = None if answer is None else text_of(row, pair.completion)
    text = text_of(row, pair.prompt)
    if pair.context and str(row.get(pair.context) or "").strip():
        text = f"{text}\n\n{text_of(row, pair.context)}"
    names_class = pair.completion.lower() in CLASS_FIELDS
    return _Content(
        text, completion, label=_class_of(completion) if names_class else None
    )


def _without_answer(row: Row, source: DataSource) -> str:
    """Return why a row has no answer: its field is empty, or there is none."""
    pair = pair_of(names_of(row), source)
    if pair is not None and pair.completion in row:
        return f"{pair.completion!r} is empty"
    return f"no {source.completion_field!r} ({_fields_found(row)})"


def _class_of(label: str | None) -> str | None:
    """Return the label if it is as short as the name of a class."""
    return label if label is not None and len(label) <= MAX_LABEL_CHARACTERS else None


def _asks(turns: list[object]) -> bool:
    return any(isinstance(turn, dict) and turn.get("role") == "user" for turn in turns)


def _are_turns(values: list[object]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _as_turns(value: object, role: str) -> list[object]:
    """Return turns from a list of them, or from the text of one."""
    if isinstance(value, list):
        return value
    return [] if value is None else [{"role": role, "content": value}]


def _content_of_messages(
    messages: object, tools: object, system: object, split: str
) -> _Content:
    """Return the turns before the last one of the assistant as the prompt, that one as completion.

    In split `unlabelled` a conversation that ends with a question is asked as it is. The turns
    themselves are kept where they are more than a question and an answer.
    """
    if isinstance(messages, str):
        messages = turns_in_text(messages)
    if system and isinstance(messages, list):
        messages = [{"role": "system", "content": system}, *messages]
    turns = turns_to_last_answer(messages, is_asked=split == "unlabelled")
    has_answer = turns[-1]["role"] == "assistant"
    asked = turns[:-1] if has_answer else turns
    if not any(turn["role"] == "user" for turn in asked):
        raise RejectedRow("empty", "no user turn before the answer")
    prompt = Conversation(messages=tuple(asked)).as_text()
    completion = spoken(turns[-1]) if has_answer else None
    schemas = tools_of(tools)
    is_plain = all(turn.keys() <= {"role", "content"} for turn in turns)
    if len(asked) == 1 and is_plain and not schemas:
        return _Content(prompt, completion)
    return _Content(
        prompt, completion, Conversation(messages=tuple(turns), tools=schemas)
    )
