"""A run is followed to its end, begun again where that may help, and said why it failed."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Unreachable
from components.cli.cluster.run_failures import failed_steps
from components.cli.cluster.submit import Started, Submission, failure_lines, start
from components.cli.cluster.wait import Waiting, follow, follow_and_restart
from components.cli.package.package_file import Package
from components.errors import Transient, UserError
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.runtime.log_lines import LogFormat, LogSubject, json_line
from components.runtime.supervisor import MAX_DEATHS
from components.storage import keys
from tests.doubles.kfp_api import (
    FAILED_POD,
    Clock,
    KfpApi,
    failed_workflow,
    missing_page,
)
from tests.doubles.kubernetes_api import failing, reset
from tests.unit.handmade import Campaign
from tests.unit.submissions import wanted, watch


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"], 0),
        (["RUNNING", "FAILED"], 1),
        (["RUNNING", "CANCELING", "CANCELED"], 3),
        (["SKIPPED"], 0),
    ],
)
def test_a_run_is_followed_to_its_end(
    kfp: KfpApi, pipelines: Pipelines, package: Package, states: list[str], status: int
) -> None:
    started = start(pipelines, wanted(package))
    kfp.states = list(states)
    heard = list(dict.fromkeys(states))
    assert watch(pipelines, started) == (states[-1], status, heard)


def test_a_failed_run_says_which_task_failed_with_what(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    started = start(pipelines, wanted(package))
    kfp.states, kfp.error = ["FAILED"], "exit status 2:\n  rows longer than the context"
    ended, status = follow(pipelines, started, None, lambda state: None)
    assert status == 1
    assert failure_lines(ended) == [
        "train-r1: exit status 2: rows longer than the context"
    ]


OUT_OF_MEMORY = "OOMKilled (exit code 137)"
EVICTED = (
    "The node was low on resource: memory. Container main was using 3Gi, request is 0."
)


def follow_to_the_end(
    pipelines: Pipelines, submission: Submission, restarts: int
) -> tuple[Started, int, list[str]]:
    """Submit and wait, with restarts; return the last run, the status, and what was restarted."""
    restarted: list[str] = []
    waiting = Waiting(
        timeout_seconds=None,
        restarts=restarts,
        on_state=lambda state: None,
        on_restart=lambda run, number: restarted.append(f"{number} {run.failures[0]}"),
        environment={},
    )
    started = start(pipelines, submission)
    ended, status = follow_and_restart(pipelines, submission, started, waiting)
    return ended, status, restarted


def test_a_run_that_failed_for_a_passing_reason_is_begun_again(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    kfp.states = ["RUNNING", "FAILED", "RUNNING", "FAILED", "RUNNING", "SUCCEEDED"]
    kfp.error, kfp.errors = EVICTED, [OUT_OF_MEMORY]
    ended, status, restarted = follow_to_the_end(pipelines, wanted(package), restarts=3)
    assert (ended.state, status) == ("SUCCEEDED", 0)
    assert restarted == [f"1 train-r1: {OUT_OF_MEMORY}", f"2 train-r1: {EVICTED}"]
    assert len(kfp.all("runs")) == 3


@pytest.mark.parametrize(
    ("message", "restarts", "runs"),
    [
        (OUT_OF_MEMORY, 0, 1),
        (OUT_OF_MEMORY, 2, 3),
        ("pod deleted", 1, 2),
        ("Pod was terminated in response to imminent node shutdown.", 1, 2),
        ("Preempted by a pod on node n1", 1, 2),
        ("Error (exit code 1)", 3, 1),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "10Gi".', 3, 1),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.",
            3,
            1,
        ),
        ("", 3, 1),
    ],
)
def test_only_what_may_pass_is_begun_again_and_not_for_ever(
    kfp: KfpApi,
    pipelines: Pipelines,
    package: Package,
    message: str,
    restarts: int,
    runs: int,
) -> None:
    kfp.states, kfp.error = ["FAILED"], message or " "
    ended, status, _ = follow_to_the_end(pipelines, wanted(package), restarts)
    assert (ended.state, status, len(kfp.all("runs"))) == ("FAILED", 1, runs)


def log_of_failed_step(kind: str, message: str, log_format: LogFormat) -> str:
    """Return the log of a step's pod: Argo's and the launcher's lines around its own."""
    words = f"error ({kind}): {message}"
    if log_format == "json":
        words = json_line(words, "ERROR", LogSubject("run-1", 1, "train"), 0.0)
    return (
        f'time=2026-11-30 level=INFO msg="capturing logs" argo=true\n{words}\n'
        "F1130 21:49:32.865620 15 main.go:130] failed to execute component: exit status 2\n"
        "Error: exit status 1\n"
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("place", ["pod", "archive", "server of the UI"])
def test_a_failed_step_is_told_in_the_words_of_its_log(
    kfp: KfpApi,
    pipelines: Pipelines,
    package: Package,
    place: str,
    log_format: LogFormat,
) -> None:
    kfp.error = "main: Error (exit code 1)"
    logs = {"pod": kfp.logs, "archive": kfp.archive or {}}.get(place, {})
    kfp.archive = logs if place == "archive" else {}
    kfp.ui_logs = logs if place == "server of the UI" else None
    words = "s3://bucket/none.jsonl: no such object; correct the key"
    logs[FAILED_POD] = log_of_failed_step("UserError", words, log_format)
    kfp.states = ["FAILED"]
    ended, _, restarted = follow_to_the_end(pipelines, wanted(package), restarts=3)
    assert [str(failure) for failure in ended.failures] == [f"train-r1: {words}"]
    assert restarted == []
    # The supervisor gave up on a store that was away: the run is begun again.
    logs[FAILED_POD] = log_of_failed_step("Transient", "the store is away", log_format)
    kfp.states = ["FAILED", "SUCCEEDED"]
    submission = wanted(package, parameters={"seed": 1})
    ended, _, restarted = follow_to_the_end(pipelines, submission, restarts=3)
    assert (ended.state, restarted) == ("SUCCEEDED", ["1 train-r1: the store is away"])


def test_a_pod_that_kubernetes_ended_is_not_told_by_an_earlier_try(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    kfp.states, kfp.error = ["FAILED"], OUT_OF_MEMORY
    earlier = log_of_failed_step("Transient", "the store was away", "json")
    kfp.logs[FAILED_POD] = earlier
    ended, _, _ = follow_to_the_end(pipelines, wanted(package), restarts=0)
    assert [failure.message for failure in ended.failures] == [OUT_OF_MEMORY]


def test_a_step_that_failed_for_now_by_its_own_record_is_begun_again(
    kfp: KfpApi, pipelines: Pipelines, package: Package, context: Context
) -> None:
    campaign = Campaign(context)
    campaign.prepare()
    campaign.fail("train", "train-r1", 1, Transient("the store was away"))
    submission = wanted(package, parameters={"store": context.store.root})
    kfp.states, kfp.error = ["FAILED", "SUCCEEDED"], "Error (exit code 1)"
    job = json.dumps({"run_id": campaign.run_id}).encode()
    context.store.put_bytes(keys.job_key(start(pipelines, submission).run_id), job)
    _, status, restarted = follow_to_the_end(pipelines, submission, restarts=1)
    assert (status, restarted) == (0, ["1 train-r1: the store was away"])


def test_a_step_that_is_evicted_for_its_own_room_is_not_begun_again(
    kfp: KfpApi, pipelines: Pipelines, package: Package, context: Context
) -> None:
    campaign = Campaign(context)
    campaign.prepare()
    # It is told to end before it is evicted, as a real node does.
    campaign.fail("train", "train-r1", 1, Transient("stopped by SIGTERM"))
    submission = wanted(package, parameters={"store": context.store.root})
    # The words of kubelet 1.34.
    kfp.states = ["FAILED"]
    kfp.error = 'Usage of EmptyDir volume "tmp" exceeds the limit "64Mi". '
    job = json.dumps({"run_id": campaign.run_id}).encode()
    context.store.put_bytes(keys.job_key(start(pipelines, submission).run_id), job)
    ended, status, restarted = follow_to_the_end(pipelines, submission, restarts=1)
    assert (status, restarted) == (1, [])
    assert failure_lines(ended) == [f"train-r1: {kfp.error.strip()}"]


@pytest.mark.parametrize(
    ("num_deaths", "num_runs"),
    # One more than the supervisor tries again: it had given up.
    [(1, 2), (MAX_DEATHS, 2), (MAX_DEATHS + 1, 1)],
)
def test_a_step_that_was_killed_without_a_word_is_begun_again_unless_it_dies_each_time(
    num_deaths: int,
    num_runs: int,
    kfp: KfpApi,
    pipelines: Pipelines,
    package: Package,
    context: Context,
) -> None:
    campaign = Campaign(context)
    campaign.prepare()
    for number in range(num_deaths):
        killed = Attempt(
            task="train-r1",
            step="train",
            round=1,
            sequence=100 + number,
            started=1e9 + number,
        )
        address = keys.attempt_key(
            campaign.run_id, "train-r1", f"1-1-{100 + number:06d}"
        )
        context.store.put_bytes(address, killed.to_bytes())
    submission = wanted(package, parameters={"store": context.store.root})
    # KFP's launcher turns every status of a step into 1.
    kfp.states, kfp.error = ["FAILED", "SUCCEEDED"], "Error (exit code 1)"
    job = json.dumps({"run_id": campaign.run_id}).encode()
    context.store.put_bytes(keys.job_key(start(pipelines, submission).run_id), job)
    ended, _, _ = follow_to_the_end(pipelines, submission, restarts=1)
    assert len(kfp.all("runs")) == num_runs
    if num_runs == 1:
        assert failure_lines(ended) == [
            "train-r1: Error (exit code 1) (killed: its last try left no word)"
        ]


def test_a_step_that_a_later_try_mended_is_no_failure() -> None:
    nodes = failed_workflow("train-r1", "pod deleted", phase="Error")
    nodes["wf-9"] = {
        **nodes["wf-8"],
        "displayName": "executor(1)",
        "phase": "Succeeded",
    }
    assert failed_steps({"status": {"nodes": nodes}}) == ()


def test_compressed_nodes_of_a_large_workflow_are_read() -> None:
    nodes = json.dumps(failed_workflow("train-r1", OUT_OF_MEMORY)).encode()
    compressed = base64.b64encode(gzip.compress(nodes)).decode()
    [failure] = failed_steps({"status": {"compressedNodes": compressed}})
    assert (failure.step, failure.may_pass) == ("train-r1", True)


def test_a_failed_driver_is_named_with_what_the_cluster_says() -> None:
    driver = {"displayName": "root-driver", "type": "Pod", "phase": "Error"}
    message = 'pods "x" is forbidden: error looking up service account ml/ratchet-run: not found'
    [failure] = failed_steps(
        {"status": {"nodes": {"wf-1": {**driver, "message": message}}}}
    )
    assert str(failure) == f"root-driver: {message}"
    assert not failure.may_pass


def test_a_server_without_the_old_api_leaves_the_state_alone(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    run = start(pipelines, wanted(package))
    kfp.states, kfp.error = ["FAILED"], OUT_OF_MEMORY
    kfp.faults_of = {("GET", f"v1beta1/runs/{run.run_id}"): [missing_page]}
    ended, status = follow(pipelines, run, None, lambda state: None)
    assert (status, failure_lines(ended)) == (1, [])


def test_the_api_may_be_away_for_minutes_while_a_run_is_waited_for(
    kfp: KfpApi, pipelines: Pipelines, package: Package, clock: Clock
) -> None:
    started = start(pipelines, wanted(package))
    kfp.states = ["RUNNING", "SUCCEEDED"]
    kfp.faults = [None, *[failing(503), reset, failing(500), failing(502)] * 8]
    before = clock.now
    assert watch(pipelines, started)[:2] == ("SUCCEEDED", 0)
    assert clock.now - before > 600


def test_an_api_that_stays_away_ends_the_wait_with_status_4(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    started = start(pipelines, wanted(package))
    kfp.faults = [failing(503)] * 1000
    with pytest.raises(Unreachable, match="could not get run") as caught:
        watch(pipelines, started)
    assert caught.value.exit_code == 4


def test_time_that_is_up_ends_the_wait_and_not_the_run(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    started = start(pipelines, wanted(package))
    kfp.states = ["RUNNING"]
    assert watch(pipelines, started, 3600.0)[:2] == ("RUNNING", 2)
    assert not any(method == "DELETE" for method, _ in kfp.requests)


def test_a_run_that_is_deleted_while_it_is_waited_for_is_named(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    started = start(pipelines, wanted(package))
    kfp.objects["runs"].clear()
    with pytest.raises(UserError, match=f"run {started.run_id} was deleted"):
        watch(pipelines, started)
