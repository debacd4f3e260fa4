"""The verb submit: commit, data and namespace of a run, its summary, servers that cannot run it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from components.cli.cluster.run_verdict import KnownVerdict, verdict_from_store
from components.cli.cluster.submit import Started, current_commit, plan_submission
from components.cli.cluster.summary import outputs, summary_page, verdict_of
from components.cli.cluster.tenancy import check_tenancy, version_problem
from components.cli.package.package_file import Package
from components.runtime.context import Context
from components.storage import keys
from components.storage.sources import local_path
from tests.conftest import S3Server
from tests.doubles.kfp_api import KfpApi
from tests.unit.handmade import HOSTILE, whole_campaign
from tests.unit.submissions import COMMIT, ROOT, STORE, TOKEN, cli

GIT = """#!/bin/sh
case "$*" in
*rev-parse*) echo 0123456789abcdef0123456789abcdef01234567 ;;
*status*) cat "$(dirname "$0")/edited" ;;
esac
"""


def test_the_commit_of_an_edited_checkout_is_not_that_of_the_commit_itself(
    tmp_path: Path,
) -> None:
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "git").write_text(GIT)
    (tmp_path / "git").chmod(0o755)
    (tmp_path / "edited").write_text("")
    assert current_commit(found) == COMMIT
    (tmp_path / "edited").write_text(" M pipeline.py\n")
    assert current_commit(found) == f"{COMMIT}-changed"
    (tmp_path / "git").write_text("#!/bin/sh\nexit 128\n")
    assert current_commit(found) == ""
    assert current_commit({**found, "CI_COMMIT_SHA": "f" * 40}) == "f" * 40
    assert (
        current_commit({"PATH": str(tmp_path / "none"), "GITHUB_SHA": "e" * 40})
        == "e" * 40
    )


@pytest.mark.process
def test_the_verb_submits_a_package_waits_and_appends_the_verdict(
    kfp: KfpApi, package: Package, tmp_path: Path
) -> None:
    file, summary = tmp_path / "pipeline.yaml", tmp_path / "new" / "summary.md"
    file.write_text(package.text)
    kfp.states, kfp.error, kfp.tokens = (
        ["RUNNING", "FAILED"],
        "out of <b>memory</b> | 137",
        {TOKEN},
    )
    done = cli(
        kfp,
        "submit",
        str(file),
        "--store",
        STORE,
        "--wait",
        "--json",
        "--summary",
        str(summary),
        "--namespace",
        "ml",
        "--commit",
        COMMIT,
        KF_PIPELINES_TOKEN=TOKEN,
        AWS_ENDPOINT_URL_S3="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
    )
    [run] = kfp.all("runs")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["state"]) == (1, 1, "FAILED")
    assert (told["run_id"], told["attached"]) == (run["run_id"], False)
    assert (told["promoted"], told["model"]) == ("", "")
    assert "could not be read from the store" in told["verdict"]
    assert f"{kfp.endpoint}/#/runs/details/{run['run_id']}" in done.stderr
    assert "train-r1: out of <b>memory</b>" in done.stderr
    text = summary.read_text()
    assert f"[{run['run_id']}]" in text
    assert "The verdict could not be read from the store" in text
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert TOKEN not in done.stdout + done.stderr + text


@pytest.mark.process
def test_a_run_reads_from_the_store_what_the_recipe_names_on_this_machine(
    kfp: KfpApi, s3_server: S3Server, tmp_path: Path
) -> None:
    rows, store = tmp_path / "rows.jsonl", s3_server.new_uri()
    rows.write_text('{"prompt": "1+1", "answer": "2"}\n')
    words = (
        *(
            "submit",
            str(ROOT / "recipes" / "demo.yaml"),
            "--profile",
            "small",
            "--rounds",
            "1",
        ),
        *("--set", f"data.sources=[{{uri: {rows}}}]", "--store", store),
    )
    refused = cli(kfp, *words, **s3_server.environment)
    assert "--namespace NAME" in refused.stderr
    assert "sending" not in refused.stderr
    # Nor for a recipe that the profile has no nodes for.
    many = cli(
        kfp,
        *words,
        "--namespace",
        "ml",
        "--set",
        "train.num_nodes=2",
        **s3_server.environment,
    )
    assert "trains on one node" in many.stderr
    assert "sending" not in many.stderr
    done = cli(kfp, *words, "--namespace", "ml", **s3_server.environment)
    assert done.returncode == 0, done.stderr
    assert f"{rows}: sending 0.0 MB to {store}/inputs/" in done.stderr
    [version] = kfp.all("versions")
    spec = version["pipeline_spec"]["pipeline_spec"]
    recipe = spec["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    [source] = recipe["data"]["sources"]
    assert local_path(
        source["uri"], s3_server.environment, tmp_path / "fetched"
    ).read_bytes() == (rows.read_bytes())


@pytest.mark.process
@pytest.mark.parametrize(
    ("multi_user", "tag_name", "options", "words"),
    [
        (False, "2.17.0", ["--namespace", "ml"], "would ignore --namespace ml"),
        (True, "2.17.0", [], "say which by --namespace"),
        (
            True,
            "2.15.0",
            ["--namespace", "ml"],
            "2.15.0 is older than 2.17; upgrade it",
        ),
    ],
)
def test_a_server_that_would_not_run_it_as_meant_is_refused_before_a_run_exists(
    kfp: KfpApi,
    package: Package,
    tmp_path: Path,
    multi_user: bool,
    tag_name: str,
    options: list[str],
    words: str,
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(package.text)
    kfp.health = {"multi_user": multi_user, "tag_name": tag_name}
    done = cli(kfp, "submit", str(file), "--store", STORE, "--commit", COMMIT, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert kfp.all("runs") == []


@pytest.mark.parametrize(
    ("health", "namespace"),
    [
        ({"multi_user": True}, "ml"),
        ({"multi_user": False}, ""),
        ({}, ""),
        ({}, "ml"),
    ],
)
def test_a_namespace_that_is_used_as_it_was_meant_is_no_error(
    health: dict[str, Any], namespace: str
) -> None:
    check_tenancy(health, namespace)


@pytest.mark.parametrize(
    ("tag_name", "works"),
    [
        *(("2.17.0", True), ("2.18.1-rc.1", True), ("3.0.0", True), ("unknown", True)),
        *(("2.16.9", False), ("2.5.0", False), ("1.8.22", False)),
    ],
)
def test_a_version_that_cannot_run_the_pipeline_is_known(
    tag_name: str, works: bool
) -> None:
    assert (version_problem({"tag_name": tag_name}) == "") is works
    # As the server of the UI answers, around the description of the API server.
    around = {"apiServerReady": True, "apiServerTagName": tag_name}
    assert (version_problem(around) == "") is works


def test_the_summary_shows_the_verdict_of_every_round(
    context: Context, package: Package
) -> None:
    campaign = whole_campaign(context, HOSTILE)
    context.store.put_bytes(
        keys.job_key("run-1"), json.dumps({"run_id": campaign.run_id}).encode()
    )
    mine = plan_submission(package, {"store": context.store.root}, commit=COMMIT)
    started = Started(
        "run-1", "https://ui/#/runs/details/run-1", "SUCCEEDED", False, {}
    )
    store = context.store.root
    known = KnownVerdict(verdict_from_store(store, "run-1", {}), "store")
    text = summary_page(mine, started, known)
    assert "Target met" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[2] for row in rows] == [
        "verdict",
        "first champion",
        "promoted",
        "promoted",
        "rejected",
        "promoted",
    ]
    assert f"{context.store.root}/runs/{campaign.run_id}/report.html" in text
    # The same for the jobs after it: a line each, whatever a recipe or a model said.
    lines = outputs(started, known).splitlines()
    verdict = verdict_of(started, known)
    assert lines[1:3] == [f"{name}={verdict[name]}" for name in ("promoted", "model")]
    assert verdict["verdict"].startswith("Target met")
    assert [line.partition("=")[0] for line in lines] == [
        "run",
        "promoted",
        "model",
        "verdict",
    ]
    assert lines[1] == "promoted=true"
    assert lines[2].startswith(f"model={context.store.root}/models/")
    assert lines[3].startswith("verdict=Target met")


def test_a_run_without_records_says_so(context: Context, package: Package) -> None:
    mine = plan_submission(package, {"store": context.store.root}, commit=COMMIT)
    started = Started("run-1", "https://ui", "FAILED", False, {})
    known = KnownVerdict(verdict_from_store(context.store.root, "run-1", {}), "store")
    text = summary_page(mine, started, known)
    assert "No step left a record in the store." in text
