"""Training on many nodes against a Kubernetes API server on 127.0.0.1, with the real client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from components.errors import Transient, UserError
from components.train.launch.trainjob import manifest
from tests.doubles.kubernetes_api import NOW, Fault, KubernetesApi, stored
from tests.unit.launcher import HASTE, NAME, SPEC, Launcher, keep, methods, nothing
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(30)
ROOT = Path(__file__).resolve().parents[2]


def test_a_job_is_created_and_followed_to_its_end(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [nothing, nothing, api.condition("Complete")]
    launcher.run()
    assert methods(api) == ["POST", "GET", "GET", "GET", "DELETE"]
    sent = api.bodies[0]
    assert sent == manifest(SPEC)
    assert f"TrainJob ml/{NAME} created (2 nodes)" in launcher.notes()
    # Its result is in the store: its JobSet and pods would stay for ever.
    assert api.jobs == {}


def test_a_complete_job_without_its_result_is_kept(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [nothing, api.condition("Complete")]
    launcher.run(has_receipt=lambda: False)
    assert NAME in api.jobs


def test_a_complete_job_that_may_not_be_deleted_is_said_and_ends_nothing(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.denied = {("delete", "trainjobs")}
    api.later = [nothing, api.condition("Complete")]
    launcher.run()
    assert "could not be deleted: no permission" in launcher.notes()


def test_a_job_that_another_launcher_deleted_at_its_end_is_done(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [nothing, api.jobs.clear]
    launcher.run(has_receipt=lambda: True)
    assert "gone, and its result is in the store" in launcher.notes()


def test_a_running_job_of_the_same_step_is_attached_to(
    api: KubernetesApi, launcher: Launcher
) -> None:
    uid = keep(api, spec=replace(SPEC, run_id="first-try"))
    api.later = [nothing, api.condition("Complete")]
    launcher.run()
    assert "attached" in launcher.notes()
    assert methods(api).count("POST") == 1
    [deletion] = [body for body in api.bodies if "propagationPolicy" in body]
    assert deletion == {
        "propagationPolicy": "Background",
        "preconditions": {"uid": uid},
    }


def test_a_job_of_another_step_is_left_alone(
    api: KubernetesApi, launcher: Launcher
) -> None:
    keep(api)
    api.job()["metadata"]["annotations"]["ratchet.dev/step-key"] = "another-key"
    with pytest.raises(UserError, match=f"another-key.*{SPEC.step_key}"):
        launcher.run()
    assert "DELETE" not in methods(api)


def test_a_job_found_complete_is_read_and_deleted(
    api: KubernetesApi, launcher: Launcher
) -> None:
    keep(api, api.condition("Complete"))
    launcher.run()
    assert methods(api) == ["POST", "GET", "DELETE"]


def test_a_job_found_complete_whose_result_is_lost_is_made_anew(
    api: KubernetesApi, launcher: Launcher
) -> None:
    uid = keep(api, api.condition("Complete"))
    api.later = [nothing, nothing, api.condition("Complete")]
    launcher.run(has_receipt=lambda: False)
    assert api.job()["metadata"]["uid"] != uid


def test_a_failed_job_is_deleted_with_its_pods_before_it_is_created_again(
    api: KubernetesApi, launcher: Launcher
) -> None:
    uid = keep(api, api.condition("Failed", "FailedJobs", "node 1 was lost"))
    api.reads_until_gone = 3
    api.later = [nothing, nothing, api.condition("Complete")]
    launcher.run()
    anew = ["POST", "GET", "GET", "DELETE"]
    assert methods(api) == ["POST", "GET", "DELETE", *["GET"] * 5, *anew]
    deletion, last = [body for body in api.bodies if "propagationPolicy" in body]
    assert deletion == {
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": uid},
    }
    assert last["preconditions"] != {"uid": uid}
    assert "node 1 was lost" in launcher.notes()


def test_a_job_that_is_being_deleted_is_waited_for(
    api: KubernetesApi, launcher: Launcher
) -> None:
    uid = keep(api)
    api.job()["metadata"]["deletionTimestamp"] = NOW
    api.reads_until_gone = 2
    api.later = [nothing, api.condition("Complete")]
    launcher.run()
    [deletion] = [body for body in api.bodies if "propagationPolicy" in body]
    assert deletion["preconditions"] != {"uid": uid}


def test_a_removal_that_never_ends_is_transient_and_names_the_pods(
    api: KubernetesApi, launcher: Launcher
) -> None:
    keep(api, api.condition("Failed"))
    api.reads_until_gone = 10**6
    launcher.patience = replace(HASTE, removal_seconds=0.3)
    with pytest.raises(Transient, match=f"is not gone.*jobset-name={NAME}"):
        launcher.run()


def test_a_job_that_vanishes_is_transient(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [nothing, api.jobs.clear]
    with pytest.raises(Transient, match=f"{NAME} vanished"):
        launcher.run(has_receipt=lambda: False)


def test_a_job_that_another_launcher_made_anew_is_attached_to(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [
        nothing,
        lambda: api.jobs.update({NAME: stored(manifest(SPEC))}),
        nothing,
        api.condition("Complete"),
    ]
    launcher.run()
    assert "by another launcher" in launcher.notes()


def test_a_job_that_vanishes_between_refusal_and_read_is_created(
    api: KubernetesApi, launcher: Launcher
) -> None:
    keep(api)
    api.later = [api.jobs.clear, nothing, api.condition("Complete")]
    launcher.run()
    assert methods(api)[:4] == ["POST", "GET", "POST", "GET"]


@pytest.fixture
def received() -> Iterator[list[int]]:
    """Signals that reach the handler which was there before the launcher."""
    signals: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = signal.signal(signal.SIGTERM, remember)
    yield signals
    signal.signal(signal.SIGTERM, previous)


def answered_and_signalled(number: signal.Signals) -> Fault:
    """The request is answered, and then the launcher gets a signal."""

    def answer(handler: Any, carry_out: Callable[[], Any]) -> None:
        handler.answer(*carry_out())
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    return answer


@pytest.mark.parametrize("found", [False, True], ids=["created", "attached to"])
def test_sigterm_releases_the_job_and_puts_the_handler_back(
    api: KubernetesApi, launcher: Launcher, received: list[int], found: bool
) -> None:
    uid = keep(api) if found else ""
    launcher.patience = replace(HASTE, poll_seconds=5.0)
    api.faults = [answered_and_signalled(signal.SIGTERM)]
    with pytest.raises(Transient, match="cancelled by SIGTERM"):
        launcher.run()
    assert api.jobs == {}
    deletion = api.bodies[-1]
    assert deletion["propagationPolicy"] == "Background"
    assert not found or deletion["preconditions"] == {"uid": uid}
    assert "is deleted, its nodes are free again" in launcher.notes()
    assert received == []
    os.kill(os.getpid(), signal.SIGTERM)
    # Another thread may be the one that the signal interrupts.
    wait_until(lambda: received)
    assert received == [signal.SIGTERM]


def test_ctrl_c_releases_the_job_and_stays_ctrl_c(
    api: KubernetesApi, launcher: Launcher
) -> None:
    launcher.patience = replace(HASTE, poll_seconds=5.0)
    api.faults = [answered_and_signalled(signal.SIGINT)]
    # A process that was started in the background ignores Ctrl-C, and so would this test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launcher.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert api.jobs == {}


def test_a_creation_that_is_cut_off_by_sigterm_leaves_no_job(
    api: KubernetesApi, launcher: Launcher, received: list[int]
) -> None:
    def created_and_silent(handler: Any, carry_out: Callable[[], Any]) -> None:
        carry_out()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        handler.close_connection = True

    api.faults = [created_and_silent]
    with pytest.raises(Transient, match="cancelled"):
        launcher.run()
    assert api.jobs == {}


def test_a_job_of_another_step_outlives_a_cancellation(
    api: KubernetesApi, launcher: Launcher, received: list[int]
) -> None:
    keep(api)
    api.job()["metadata"]["annotations"]["ratchet.dev/step-key"] = "another-key"

    def silent(handler: Any, carry_out: Callable[[], Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        handler.close_connection = True

    api.faults = [silent]
    with pytest.raises(Transient, match="cancelled"):
        launcher.run()
    assert NAME in api.jobs
    assert "DELETE" not in methods(api)


def test_a_release_that_fails_is_said(
    api: KubernetesApi, launcher: Launcher, received: list[int]
) -> None:
    api.denied = {("delete", "trainjobs")}
    launcher.patience = replace(HASTE, poll_seconds=5.0)
    api.faults = [answered_and_signalled(signal.SIGTERM)]
    with pytest.raises(Transient, match="cancelled"):
        launcher.run()
    assert (
        "could not be deleted and goes on: no permission to delete trainjobs"
        in launcher.notes()
    )


def test_an_end_leaves_the_previous_handler(
    api: KubernetesApi, launcher: Launcher, received: list[int]
) -> None:
    api.later = [api.condition("Complete")]
    launcher.run()
    os.kill(os.getpid(), signal.SIGTERM)
    # Another thread may be the one that the signal interrupts.
    wait_until(lambda: received)
    assert received == [signal.SIGTERM]


def test_outside_the_main_thread_a_job_is_followed_without_signals(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.later = [nothing, api.condition("Complete")]
    thread = threading.Thread(target=launcher.run)
    thread.start()
    thread.join()
    assert "is complete" in launcher.notes()


@pytest.mark.process
def test_the_launcher_loads_no_kubernetes_library_before_it_is_used() -> None:
    libraries = ("kubernetes", "kubeflow_trainer_api", "torch")
    loaded = f"import sys, components.train.launch.launcher; print([name for name in {libraries} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", loaded],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
