"""Verifiers that ask another judge in a confined process: `sql` SQLite, `json_schema` a schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.contracts.recipe import DataSource, Fractions
from components.contracts.rows import Check, Dropped, Prompt
from components.prepare.examples import Example
from components.prepare.readers import read_source
from components.prepare.splits import Assigned, Splits, make_splits
from components.verifiers import verdict_of, verify, vote_keys

pytestmark = pytest.mark.process

TABLES = """
CREATE TABLE city (name TEXT, country TEXT, people REAL);
INSERT INTO city VALUES ('Oslo', 'NO', 0.7), ('Bergen', 'NO', 0.3), ('Rome', 'IT', 2.8);
"""
TOTAL = "SELECT country, SUM(people) FROM city GROUP BY country"
LARGEST = "SELECT name FROM city ORDER BY people DESC"


def row(reference: str, tables: str = TABLES, seconds: int = 20) -> Prompt:
    return Prompt(
        id="0",
        text="?",
        verifier="sql",
        check=Check(seconds=seconds, memory_mb=512),
        reference={"answer": reference, "tables": tables},
    )


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (TOTAL, TOTAL + ";"),
        (TOTAL, f"Group them:\n```sql\n{TOTAL}\nORDER BY 2 DESC\n```\nThat is all."),
        (
            TOTAL,
            "SELECT country AS c, TOTAL(people) AS t FROM city GROUP BY c -- the same",
        ),
        (LARGEST, "select name from city order by people desc"),
        ("SELECT 3, NULL, x'00'", "SELECT 3.0, NULL, x'00'"),
        ("SELECT 0.1 + 0.2", "SELECT 0.3"),
        (
            "SELECT name FROM (SELECT * FROM city ORDER BY name)",
            "SELECT name FROM city",
        ),
    ],
)
def test_a_query_that_gives_the_same_rows_is_right(reference: str, answer: str) -> None:
    prompt = row(reference)
    assert verdict_of(prompt, answer).reason == ""
    assert verify(prompt, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "reason"),
    [
        (TOTAL, "SELECT country, people FROM city", "3 rows that differ"),
        (LARGEST, "SELECT name FROM city ORDER BY people", "3 rows that differ"),
        (TOTAL, "SELECT no_such FROM city", "no such column: no_such"),
        (TOTAL, "I do not know", 'near "I": syntax error'),
        (TOTAL, "", "it is no query"),
        (
            TOTAL,
            f"{TOTAL}; DROP TABLE city",
            "You can only execute one statement at a time",
        ),
        (
            "SELECT name FROM city WHERE 0",
            "SELECT 1 WHERE 0",
            "the reference gives no rows",
        ),
        ("SELECT x", "SELECT 1", "the reference: no such column: x"),
        (TOTAL, "DELETE FROM city", "it is no query"),
        (TOTAL, "ATTACH DATABASE 'FOLDER/made' AS m", "unable to open database"),
        (TOTAL, "VACUUM INTO 'FOLDER/made'", "unable to open database"),
        (TOTAL, "SELECT load_extension('x')", "not authorized"),
        (TOTAL, "SELECT writefile('FOLDER/made', 'x')", "no such function"),
        (TOTAL, "SELECT zeroblob(1000000000) || zeroblob(1000000000)", "out of memory"),
        (
            TOTAL,
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t",
            "more than 10000 rows",
        ),
    ],
)
def test_another_query_is_wrong_with_the_reason(
    tmp_path: Path, reference: str, answer: str, reason: str
) -> None:
    verdict = verdict_of(row(reference), answer.replace("FOLDER", str(tmp_path)))
    assert (verdict.score, reason in verdict.reason) == (0.0, True), verdict
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_end_is_wrong_in_time() -> None:
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT sum(n) FROM t"
    assert verdict_of(row(TOTAL, seconds=2), endless).reason in (
        "its time was up",
        "it used up its processor time or memory",
    )


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def json_row(schema: object, seconds: int = 20) -> Prompt:
    return Prompt(
        id="0",
        text="?",
        verifier="json_schema",
        check=Check(seconds=seconds),
        reference={"schema": schema},
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"name": "Ada", "age": 36.0}', ""),
        ('Here it is:\n```json\n{"name": "Ada"}\n```\nAnything else?', ""),
        ('<think>{"name": 1}</think>\n{"name": "Ada"}', ""),
        ('{"name": "ada"}', "$.name: 'ada' does not match '^[A-Z]'"),
        ('{"name": "Ada", "age": -1}', "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ada", "job": ""}', "$: Additional properties are not allowed"),
        ('[{"name": "Ada"}]', "is not of type 'object'"),
        ('Here it is: {"name": "Ada"}', "no JSON: Expecting value"),
        ('{"name": "Ada", "age": NaN}', "no JSON: NaN is not JSON"),
        ('{"name": "Ada", "age": 1e999}', "no JSON: Out of range float values"),
        (r'{"name": "A\ud800"}', "no JSON: "),
        ("[" * 15_000, "no JSON: maximum recursion depth"),
        ("", "no JSON: "),
    ],
)
def test_json_is_right_if_the_schema_accepts_it(answer: str, reason: str) -> None:
    prompt = json_row(PERSON)
    verdict = verdict_of(prompt, answer)
    assert verdict.score == (not reason)
    assert reason in verdict.reason
    # A table's cell holds the text of a schema.
    assert verdict_of(json_row(json.dumps(PERSON)), answer) == verdict


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, "the schema: 'objekt' is not valid"),
        ("{", "the schema: Expecting property name"),
        (["string"], "the schema: a schema is a JSON object"),
        ({"pattern": "("}, "the schema: '(' is not a 'regex'"),
        (
            {"$ref": "http://127.0.0.1:1/schema"},
            "the schema: Unresolvable: http://127.0.0.1:1",
        ),
        ({"pattern": "(a|a)+b"}, "its time was up"),
    ],
)
def test_a_schema_that_cannot_be_asked_accepts_nothing(
    schema: object, reason: str
) -> None:
    verdict = verdict_of(json_row(schema, seconds=2), f'"{"a" * 40}"')
    assert (verdict.score, reason in verdict.reason) == (0, True), verdict


def test_equal_json_votes_together() -> None:
    answers = ['{"a": 1, "b": 2}', '```\n{"b": 2,\n "a": 1}\n```', '{"a": 1}', "a"]
    keys = vote_keys(json_row(PERSON), answers)
    assert keys == ['{"a":1,"b":2}', '{"a":1,"b":2}', '{"a":1}', ""]


def test_prepare_reads_schemas_from_rows_or_from_the_recipe(tmp_path: Path) -> None:
    broken = {"ask": "broken", "json": "{}", "kind": "{"}
    wrong = {"ask": "wrong", "json": '{"name": 1}', "kind": PERSON}
    bare = {"ask": "bare", "json": "{}"}
    good = [
        {"ask": f"who is {n}", "json": f'{{"name": "N{n}"}}', "kind": PERSON}
        for n in range(40)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [broken, wrong, bare, *good])))
    names = {"prompt_field": "ask", "completion_field": "json", "split": "validation"}
    source = {
        "uri": str(path),
        "verifier": "json_schema",
        "schema_field": "kind",
        **names,
    }
    in_rows = rows_of(DataSource.model_validate(source))
    whole = DataSource.model_validate({**source, "json_schema": {"maxProperties": 1.0}})
    in_recipe = rows_of(whole)
    assert [row.reason for row in in_rows.rejected] == [
        "unverifiable",
        "unverifiable",
        "no_schema",
    ]
    assert "the schema: Expecting property name" in in_rows.rejected[0].detail
    assert "$.name: 1 is not of type 'string'" in in_rows.rejected[1].detail
    assert len(in_rows.validation) == 40
    # Numbers of a recipe that went through KFP are floats.
    assert whole.json_schema == {"maxProperties": 1}
    assert (len(in_recipe.validation), in_recipe.rejected) == (43, [])
    with pytest.raises(ValueError, match="json_schema is for `verifier: json_schema`"):
        DataSource.model_validate({**source, "verifier": "exact", "json_schema": {}})


def rows_of(source: DataSource) -> Splits:
    """The rows of a source, with others to train on."""
    items: list[Assigned | Dropped] = []
    for item in read_source(Path(source.uri), source):
        items.append(item if isinstance(item, Dropped) else ("validation", item))
    for number in range(3):
        taught = Example(
            f"t{number}", "{}", verifier="exact", reference={"answer": "{}"}
        )
        items.append(("train", taught))
    items.append(
        ("test", Example("test", "{}", verifier="exact", reference={"answer": "{}"}))
    )
    return make_splits(items, Fractions(), 0)
