"""Whoever sees a run on a cluster reads its verdict, without the store, from the log of `report`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.run_verdict import KnownVerdict, read_verdict
from components.cli.cluster.submit import Started, Submission, start
from components.cli.cluster.summary import outputs, summary_page, verdict_document
from components.cli.package.package_file import Package
from components.contracts.run_verdict import (
    LINE_BEGIN,
    MAX_LINE_BYTES,
    RunVerdict,
    verdict_in,
    verdict_line,
)
from components.report.runs import load_run
from components.report.step import ReportInputs, run
from components.report.verdict import verdict_of_run
from components.runtime.context import Context
from components.runtime.log_lines import LineStamper, LogFormat, LogSubject
from components.runtime.progress import Progress
from components.storage import keys
from tests.doubles.kfp_api import REPORT_NODE, REPORT_POD, KfpApi
from tests.unit.handmade import HOSTILE, whole_campaign
from tests.unit.submissions import COMMIT, TOKEN, cli, wanted

Ended = tuple[Submission, Started]
LAUNCHER = "I1130 17:00:00.000000 28 launcher_v2.go:215] publish success."
NO_KEYS = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
}


@pytest.fixture
def ended(kfp: KfpApi, pipelines: Pipelines, package: Package) -> Ended:
    """A run that succeeded, of a store that this machine has no way to."""
    submission = wanted(package)
    started = start(pipelines, submission)
    kfp.objects["runs"][started.run_id]["state"] = "SUCCEEDED"
    return submission, dataclasses.replace(started, state="SUCCEEDED")


def log_of(
    context: Context,
    capsys: pytest.CaptureFixture[str],
    job_id: str,
    log_format: LogFormat = "json",
) -> str:
    """Return the log of the step's pod, as the step and its supervisor write it."""
    campaign = whole_campaign(context, HOSTILE)
    context.store.put_bytes(
        keys.job_key(job_id), json.dumps({"run_id": campaign.run_id}).encode()
    )
    capsys.readouterr()
    progress = Progress(log_format=log_format)
    own_context = dataclasses.replace(context, progress=progress)
    run(ReportInputs(job_id=job_id, status="SUCCEEDED"), own_context)
    lines = [*capsys.readouterr().err.splitlines(), LAUNCHER]
    if log_format == "json":
        stamper = LineStamper(LogSubject(step="report"))
        lines = [stamper.stamp(line, 0.0) for line in lines]
    return "".join(f"{line}\n" for line in lines)


def read(pipelines: Pipelines, ended: Ended) -> KnownVerdict:
    return read_verdict(pipelines, *ended, NO_KEYS)


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("place", ["pod", "archive", "archive by node"])
def test_the_verdict_is_in_the_log_in_both_forms_and_in_the_archive(
    kfp: KfpApi,
    pipelines: Pipelines,
    ended: Ended,
    context: Context,
    capsys: pytest.CaptureFixture[str],
    log_format: LogFormat,
    place: str,
) -> None:
    submission, started = ended
    log = log_of(context, capsys, started.run_id, log_format)
    if place == "pod":
        kfp.logs[REPORT_POD] = log
    else:
        kfp.archive = {REPORT_POD if place == "archive" else REPORT_NODE: log}
    known = read(pipelines, ended)
    assert known.source == "log"
    assert known.verdict is not None
    assert known.verdict.promoted
    assert known.verdict.model.startswith(f"{context.store.root}/models/")
    rounds = [(line.round, line.verdict) for line in known.verdict.rounds]
    assert rounds[2:] == [(2, "rejected"), (3, "promoted")]
    assert known.verdict.rounds[3].score == pytest.approx(0.93)
    # The same as the store would say.
    view = load_run(context, known.verdict.run_id)
    assert known.verdict == verdict_of_run(view, started.run_id)
    page = summary_page(submission, started, known)
    assert "| 3 | 93.0 % (" in page
    assert "Read from the log of the step" in page
    assert "<script>" not in page.replace("\\<script\\>", "")
    assert outputs(started, known).splitlines()[1] == "promoted=true"


@pytest.mark.process
def test_the_verb_tells_the_verdict_without_keys_of_the_store(
    kfp: KfpApi,
    package: Package,
    context: Context,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("submit")
    file, summary, named = folder / "p.yaml", folder / "s.md", folder / "outputs"
    file.write_text(package.text)
    kfp.tokens, kfp.states = {TOKEN}, ["RUNNING", "SUCCEEDED"]
    words = ["submit", str(file), "--store", "s3://bucket/prefix", "--namespace", "ml"]
    words += ["--commit", COMMIT, "--wait", "--json", "--require-release"]
    words += ["--summary", str(summary), "--outputs", str(named)]
    variables = {"KF_PIPELINES_TOKEN": TOKEN, **NO_KEYS}
    # Without the log nobody knows.
    done = cli(kfp, *words, **variables)
    assert done.returncode == 6, done.stderr
    [created] = kfp.all("runs")
    log = log_of(context, capsys, created["run_id"])
    kfp.logs[REPORT_POD] = log
    done = cli(kfp, *words, **variables)
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"]) == (0, 0), done.stderr
    assert (document["promoted"], document["verdict_from"]) == ("true", "log")
    assert document["rounds"][-1]["low"] < document["rounds"][-1]["score"]
    assert "round 2: 69.0 % (" in done.stderr
    assert "Target met" in done.stderr
    assert f"model={document['model']}" in named.read_text()
    assert "first champion" in summary.read_text()
    # A run that succeeded and released nothing.
    kfp.logs[REPORT_POD] = log.replace(r"\"promoted\":true", r"\"promoted\":false")
    done = cli(kfp, *words, **variables)
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (5, 5)
    words.remove("--require-release")
    assert cli(kfp, *words, **variables).returncode == 0


def example(job_id: str, **changes: object) -> RunVerdict:
    fields = {
        "job_id": job_id,
        "run_id": "demo-1",
        "status": "not released",
        "verdict": "Target not met.",
        "promoted": False,
        "model": "",
        "reason": "not proved better",
        "target_met": False,
        "metric": "accuracy",
        "base": {"score": 0.1, "low": 0.0, "high": 0.2},
        "champion_round": None,
        "store": "s3://bucket/prefix",
    }
    return RunVerdict.model_validate({**fields, **changes})


LOGS: dict[str, Callable[[str], str]] = {
    "older version": lambda line: LAUNCHER,
    "empty": lambda line: "",
    "cut": lambda line: line[:-20],
    "another run": lambda line: line.replace("run-", "other-"),
    "newer form": lambda line: line.replace('"version":1', '"version":2'),
    "no document": lambda line: f"{LINE_BEGIN}promoted",
    "another type": lambda line: f"{LINE_BEGIN}[1]",
    "quoted by others": lambda line: f"sample: {line}",
    "too long": lambda line: line + " " * MAX_LINE_BYTES,
    "wrong field": lambda line: line.replace(
        '"promoted":false', '"promoted":"perhaps"'
    ),
    "long sentence": lambda line: line.replace("Target not met.", "A" * 2000),
    "unknown metric": lambda line: line.replace("accuracy", "kindness"),
    "nested": lambda line: '{"a":' * 100_000,
    "other JSON": lambda line: '{"log": 7, "message": "ratchet-verdict {}"}',
    "login page": lambda line: "<html>Please log in</html>",
    "infinite": lambda line: line.replace("0.1", "1e999"),
}


@pytest.mark.parametrize("name", list(LOGS))
def test_a_log_without_the_line_is_no_verdict_and_both_reasons_are_told(
    kfp: KfpApi, pipelines: Pipelines, ended: Ended, name: str
) -> None:
    submission, started = ended
    line = verdict_line(example(started.run_id))
    kfp.logs[REPORT_POD] = f"{line}\n"
    assert read(pipelines, ended).source == "log"
    kfp.logs[REPORT_POD] = f"{LAUNCHER}\n{LOGS[name](line)}\n"
    known = read(pipelines, ended)
    assert known.verdict is None
    assert "could not be read from the store: " in known.problem
    assert "no line with the verdict" in known.problem
    assert "The verdict could not be read" in summary_page(submission, started, known)
    assert verdict_document(started, known)["promoted"] == ""


@pytest.mark.parametrize(
    ("archives", "phase", "words"),
    [
        (True, "Succeeded", "The specified key does not exist"),
        (False, "Succeeded", f'pods "{REPORT_POD}" not found'),
        (True, "", "has no pod of this step"),
    ],
)
def test_a_log_that_is_gone_is_no_verdict_although_the_server_answers_200(
    kfp: KfpApi,
    pipelines: Pipelines,
    ended: Ended,
    archives: bool,
    phase: str,
    words: str,
) -> None:
    kfp.archive = {} if archives else None
    kfp.report_phase = phase
    known = read(pipelines, ended)
    assert known.verdict is None
    assert words in known.problem


def test_a_log_that_the_api_does_not_find_is_read_from_the_server_of_the_ui(
    kfp: KfpApi,
    pipelines: Pipelines,
    ended: Ended,
    context: Context,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = read(pipelines, ended)
    assert alone.verdict is None
    assert "is not the address of Kubeflow's UI" in alone.problem
    kfp.ui_logs = {}
    assert "Could not get main container logs" in read(pipelines, ended).problem
    kfp.ui_logs = {REPORT_POD: log_of(context, capsys, ended[1].run_id)}
    known = read(pipelines, ended)
    assert known.source == "log"
    assert known.verdict is not None
    assert known.verdict.promoted


def test_of_several_lines_the_last_one_counts(
    kfp: KfpApi, pipelines: Pipelines, ended: Ended
) -> None:
    first = example(ended[1].run_id)
    last = example(ended[1].run_id, promoted=True, status="published")
    lines = [verdict_line(first), verdict_line(last), verdict_line(example("run-x"))]
    kfp.logs[REPORT_POD] = "\n".join(lines)
    kfp.report_phase = "Failed"
    assert read(pipelines, ended).verdict == last


def test_an_approval_after_the_log_is_read_from_the_store(
    kfp: KfpApi,
    pipelines: Pipelines,
    package: Package,
    context: Context,
    capsys: pytest.CaptureFixture[str],
) -> None:
    submission = wanted(package, parameters={"store": context.store.root})
    started = dataclasses.replace(start(pipelines, submission), state="SUCCEEDED")
    kfp.objects["runs"][started.run_id]["state"] = "SUCCEEDED"
    log_of(context, capsys, started.run_id)
    waits = example(started.run_id, status="waiting for approval")
    kfp.logs[REPORT_POD] = verdict_line(waits)
    known = read_verdict(pipelines, submission, started, {})
    assert known.source == "store"
    assert known.verdict is not None
    assert known.verdict.promoted
    # Where the store cannot be asked, the log's word stands.
    known = read_verdict(pipelines, wanted(package), started, NO_KEYS)
    assert known.verdict == waits
    page = summary_page(submission, started, known)
    assert "`approve demo-1 --store s3://bucket/prefix`" in page


def test_the_line_of_a_run_of_many_rounds_leaves_out_the_oldest() -> None:
    numbers = [{"score": 0.5, "low": 0.4, "high": 0.6, "round": n} for n in range(200)]
    rounds = [{**row, "verdict": "rejected", "reason": "ü" * 300} for row in numbers]
    line = verdict_line(example("run-1", rounds=rounds))
    assert len(line.encode()) <= MAX_LINE_BYTES
    verdict = verdict_in(line, "run-1")
    assert verdict is not None
    assert verdict.rounds[-1].round == 199
    assert verdict.rounds_left_out + len(verdict.rounds) == 200


def test_a_log_by_others_cannot_leave_its_cell_or_its_line(package: Package) -> None:
    hostile = "a`b | c\n::set-output name=x::y <img> [l](u)"
    verdict = example(
        "run-1", promoted=True, model=hostile, verdict=hostile, store=hostile
    )
    started = Started("run-1", "https://ui", "SUCCEEDED", False, {})
    known = KnownVerdict(verdict, "log")
    assert len(outputs(started, known).splitlines()) == 4
    page = summary_page(wanted(package), started, known)
    assert "\n**a\\`b \\| c ::set-output" in page
    published = next(line for line in page.splitlines() if line.startswith("Published"))
    assert published.count("`") == 2
    assert not any(line.startswith("::") for line in page.splitlines())
