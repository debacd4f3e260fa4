"""Verifier `sql`: the query in an answer gives the rows that the reference's query gives.

Both are asked of a database that the row's `tables` make, in SQLite, in a confined process. The order
of rows counts where the reference has an ORDER BY; names of columns do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from components.canonical import canonical_json, normalised_text
from components.contracts.rows import Prompt
from components.retry import Deadline
from components.sandbox.process import LineProcess, Silent
from components.sandbox.verdict import Verdict
from components.verifiers.code import printable, require_confinement
from components.verifiers.final_answer import answer_part
from components.verifiers.references import reference_text

_WORKER = "components.sandbox.sql_worker"
_FENCED = re.compile(r"^```[ \t]*(?:sql|sqlite)?[ \t]*\n(.*?)^```", re.M | re.S | re.I)
_INNER = re.compile(r"\([^()]*\)")
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_LARGEST_EXACT = 2**53


def verdict(prompt: Prompt, text: str) -> Verdict:
    """Return 1 if the query gives the reference's rows, else 0 with the reason.

    Raises:
        UserError: Queries cannot be confined here.
    """
    require_confinement("sql")
    reference = reference_text(prompt)
    queries = [query_of(reference), query_of(text)]
    request = {"tables": str(prompt.reference.get("tables") or ""), "queries": queries}
    check = prompt.check
    deadline = Deadline(check.seconds)
    limits = (str(check.seconds), str(check.memory_mb))
    with LineProcess(_WORKER, limits, packages=False) as process:
        try:
            process.send(json.dumps(request).encode(), deadline)
            reply = json.loads(process.receive(deadline))
        except Silent as error:
            return Verdict(0.0, str(error))
    if "results" not in reply:
        return Verdict(0.0, f"it could not be confined: {reply.get('unconfined')}")
    expected, given = reply["results"]
    if "error" in expected:
        return Verdict(0.0, f"the reference: {printable(expected['error'])}")
    if not expected["rows"]:
        # Then each query without a result would be right.
        return Verdict(0.0, "the reference gives no rows")
    if "error" in given:
        return Verdict(0.0, printable(given["error"]))
    if _comparable(expected["rows"], reference) == _comparable(
        given["rows"], reference
    ):
        return Verdict(1.0)
    return Verdict(0.0, f"{len(given['rows'])} rows that differ from the reference's")


def answer_key(text: str) -> str:
    """Return the query in a text."""
    return normalised_text(query_of(text))


def query_of(text: str) -> str:
    """Return the last block of SQL in an answer, or all of it without one."""
    answer = answer_part(text)
    blocks = _FENCED.findall(answer)
    return (blocks[-1] if blocks else answer).strip()


def _comparable(rows: Sequence[Sequence[object]], reference: str) -> list[bytes]:
    """Return the rows in a form that is equal for equal results."""
    lines = [canonical_json([_rounded(value) for value in row]) for row in rows]
    return lines if _is_ordered(reference) else sorted(lines)


def _is_ordered(query: str) -> bool:
    """Return whether a query itself has an ORDER BY; those of queries within it do not count."""
    outer = query
    while (shorter := _INNER.sub(" ", outer)) != outer:
        outer = shorter
    return _ORDER.search(outer) is not None


def _rounded(value: object) -> object:
    # Sums in another order have other last digits; 3 and 3.0 are one number.
    if isinstance(value, int | float) and abs(value) < _LARGEST_EXACT:
        return f"{float(value):.9g}"
    return value if value is None or isinstance(value, str) else str(value)
