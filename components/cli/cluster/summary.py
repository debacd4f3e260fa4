"""The verdict of a cluster's run as Markdown, for the page that a CI system shows of a job."""

from __future__ import annotations

import re
from collections.abc import Callable

from components.cli.cluster.run_verdict import KnownVerdict
from components.cli.cluster.submit import Started, Submission, failure_lines
from components.cli.json_documents import Json
from components.contracts.run_verdict import RoundLine, RunVerdict, ScoreLine
from components.errors import one_line
from components.measures import measure_of

_MAX_CHARACTERS = 300
_MARKDOWN = re.compile(r"[\\|`*_\[\]<>]")
_SOURCES = {
    "log": "Read from the log of the step `report`.",
    "store": "Read from the store.",
}


def summary_page(submission: Submission, started: Started, known: KnownVerdict) -> str:
    """Return a page with the run's state, failures and, where its verdict is known, its rounds."""
    lines = [
        f"## {_escape(submission.name)}",
        "",
        f"Kubeflow run [{started.run_id}]({started.url}): {started.state}",
    ]
    lines += [f"- {_escape(line)}" for line in failure_lines(started)]
    if known.problem:
        lines += ["", f"The verdict {_escape(known.problem, 3 * _MAX_CHARACTERS)}"]
    elif known.verdict is None:
        lines += ["", "No step left a record in the store."]
    else:
        lines += [*_rounds(known.verdict), "", _SOURCES[known.source]]
    return "\n".join([*lines, ""])


def outputs(started: Started, known: KnownVerdict) -> str:
    """Return lines `name=value` for the jobs after this one, as GitHub and GitLab read them.

    `promoted` is true if the run released a model, `model` is its URI, and `verdict` a sentence.
    Where the verdict is not known, `promoted` is empty.
    """
    values = {"run": started.run_id, **verdict_of(started, known)}
    lines = [
        f"{name}={one_line(value, _MAX_CHARACTERS)}" for name, value in values.items()
    ]
    return "\n".join([*lines, ""])


def verdict_of(started: Started, known: KnownVerdict) -> dict[str, str]:
    """Return `promoted` (true, false, or empty if it is not known), `model` and `verdict`."""
    verdict = known.verdict
    if verdict is None:
        sentence = known.problem or started.state
        return {"promoted": "", "model": "", "verdict": sentence}
    return {
        "promoted": str(verdict.promoted).lower(),
        "model": one_line(verdict.model, None),
        "verdict": one_line(verdict.verdict, None),
    }


def verdict_document(started: Started, known: KnownVerdict) -> Json:
    """Return what `--json` has of a verdict: all of it, as far as it is known."""
    document: Json = dict(verdict_of(started, known))
    document["verdict_from"] = known.source
    if known.verdict is not None:
        details = {"metric", "base", "rounds", "rounds_left_out", "reason", "status"}
        details |= {"target_met", "champion_round"}
        document |= known.verdict.model_dump(mode="json", include=details)
    return document


def verdict_lines(verdict: RunVerdict) -> list[str]:
    """Return a line for the base and each round, for a terminal."""
    lines = []
    if verdict.base is not None:
        lines.append(f"base: {_score(verdict, verdict.base)}")
    for line in verdict.rounds:
        reason = one_line(line.reason, _MAX_CHARACTERS)
        lines.append(
            f"round {line.round}: {_score(verdict, line)}, {line.verdict}: {reason}"
        )
    return lines


def _rounds(verdict: RunVerdict) -> list[str]:
    lines = ["", f"**{_escape(verdict.verdict, None)}**"]
    # There is no state before `prepare` has ended, and no history before the first `decide`.
    if verdict.rounds:
        lines += [
            "",
            f"| round | {verdict.metric} | verdict | why |",
            "|---|---|---|---|",
        ]
        if verdict.base is not None:
            base = _score(verdict, verdict.base)
            lines.append(f"| base | {base} | first champion | |")
        lines += [_row(verdict, line) for line in verdict.rounds]
        if verdict.rounds_left_out:
            lines.append(f"\nThe oldest {verdict.rounds_left_out} rounds are left out.")
    if verdict.promoted:
        lines += ["", f"Published: {_code(verdict.model)}"]
    elif verdict.reason:
        lines += ["", f"Why: {_escape(verdict.reason)}"]
    if verdict.status == "waiting for approval":
        command = f"approve {verdict.run_id} --store {verdict.store}"
        lines += ["", f"Waiting for approval: {_code(command)} releases it."]
    return [*lines, "", f"Report: {_code(verdict.report)}"]


def _row(verdict: RunVerdict, line: RoundLine) -> str:
    cells = [
        str(line.round),
        _score(verdict, line),
        line.verdict,
        _escape(line.reason),
    ]
    return f"| {' | '.join(cells)} |"


def _score(verdict: RunVerdict, line: ScoreLine) -> str:
    if line.score is None or verdict.metric is None:
        return "no candidate"
    text: Callable[[float], str] = measure_of(verdict.metric).text
    if line.low is None or line.high is None:
        return text(line.score)
    return f"{text(line.score)} ({text(line.low)} to {text(line.high)})"


def _code(text: str) -> str:
    """Return a text by others as code, which only a backtick could end."""
    return f"`{one_line(text, None).replace('`', '')}`"


def _escape(text: str, max_characters: int | None = _MAX_CHARACTERS) -> str:
    """Return a text by others that cannot end a table or begin Markdown of its own."""
    line = one_line(text, max_characters)
    return _MARKDOWN.sub(r"\\\g<0>", line)
