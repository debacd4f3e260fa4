"""Verifier `sql`: queries in answers against the reference's, in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contracts.rows import Check, Prompt
from components.verifiers import verdict_of, verify

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
        (TOTAL, "SELECT country AS c, TOTAL(people) AS t FROM city GROUP BY c -- the same"),
        (LARGEST, "select name from city order by people desc"),
        ("SELECT 3, NULL, x'00'", "SELECT 3.0, NULL, x'00'"),
        ("SELECT 0.1 + 0.2", "SELECT 0.3"),
        ("SELECT name FROM (SELECT * FROM city ORDER BY name)", "SELECT name FROM city"),
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
        (TOTAL, f"{TOTAL}; DROP TABLE city", "You can only execute one statement at a time"),
        ("SELECT name FROM city WHERE 0", "SELECT 1 WHERE 0", "the reference gives no rows"),
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
