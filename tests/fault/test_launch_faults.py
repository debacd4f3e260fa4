"""What a Kubernetes API server and its network do to the launcher of a training on many nodes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from components.errors import Transient, UserError
from tests.doubles.kubernetes_api import (
    Fault,
    KubernetesApi,
    cut_off,
    failing,
    garbled,
    lost,
    reset,
    slow,
)
from tests.unit.launcher import HASTE, NAME, SPEC, Launcher, keep, methods, nothing

SHORT_SECONDS = 0.3
IMPATIENT = replace(HASTE, give_up_seconds=0.8)
pytestmark = pytest.mark.timeout(30)
FAULTS: dict[str, Fault] = {
    "410": failing(410),
    "429": failing(429, Retry_After="0"),
    "500": failing(500),
    "502": failing(502),
    "503": failing(503),
    "reset": reset,
    "slow": slow(0.5),
    "garbled": garbled,
    "cut off": cut_off,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_passes_is_waited_out(
    api: KubernetesApi, launcher: Launcher, fault: Fault
) -> None:
    def trouble() -> None:
        api.faults = [fault]

    api.faults = [fault]
    api.later = [trouble, *[nothing] * 9, api.condition("Complete")]
    launcher.patience = replace(HASTE, look_seconds=60, answer_seconds=SHORT_SECONDS)
    launcher.run()
    assert methods(api)[:2] == ["POST", "POST"]
    assert api.faults == []
    assert "is complete" in launcher.notes()


@pytest.mark.parametrize("fault", [lost, slow(0.5)], ids=["lost", "slow"])
def test_a_creation_whose_answer_is_lost_makes_no_second_job(
    api: KubernetesApi, launcher: Launcher, fault: Fault
) -> None:
    api.faults = [fault]
    api.later = [nothing, api.condition("Complete")]
    launcher.patience = replace(HASTE, answer_seconds=SHORT_SECONDS)
    # Its result is not in the store yet, so the job stays.
    launcher.run(has_receipt=lambda: False)
    assert "attached" in launcher.notes() or "created" in launcher.notes()
    assert len(api.jobs) == 1


def test_the_server_is_left_alone_as_long_as_it_asks(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.faults = [failing(429, Retry_After="1")]
    api.later = [api.condition("Complete")]
    pauses: list[float] = []
    launcher.patience = replace(HASTE, sleep=pauses.append)
    launcher.run()
    assert pauses[0] == 1.0
    assert max(pauses[1:], default=0.0) <= HASTE.longest_pause_seconds


@pytest.mark.parametrize(
    "fault", [failing(503), reset, garbled], ids=["503", "reset", "garbled"]
)
def test_a_server_that_never_recovers_is_transient_and_the_job_goes_on(
    api: KubernetesApi, launcher: Launcher, fault: Fault
) -> None:
    def breakdown() -> None:
        api.always = fault

    api.later = [breakdown]
    launcher.patience = IMPATIENT
    with pytest.raises(
        Transient,
        match=f"{api.endpoint} could not get trainjobs in namespace ml for 1 s",
    ):
        launcher.run()
    assert NAME in api.jobs


def test_every_try_waits_for_the_one_before(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.faults, api.always = [slow(0)], reset
    launcher.patience = replace(
        HASTE,
        first_pause_seconds=0.3,
        longest_pause_seconds=0.3,
        look_seconds=60,
        give_up_seconds=0.8,
    )
    with pytest.raises(Transient, match="could not get trainjobs"):
        launcher.run()
    assert methods(api) == ["POST", "GET", "GET", "GET"]


def test_a_server_that_nobody_can_reach_is_transient(
    api: KubernetesApi, launcher: Launcher
) -> None:
    launcher.patience = IMPATIENT
    with pytest.raises(Transient, match="could not create trainjobs"):
        launcher.run(endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("verb", ["create", "get", "delete"])
def test_a_missing_permission_is_named(
    api: KubernetesApi, launcher: Launcher, verb: str
) -> None:
    if verb == "delete":
        keep(api, api.condition("Failed"))
    api.denied = {(verb, "trainjobs")}
    with pytest.raises(
        UserError,
        match=f"{verb} trainjobs in namespace ml.*API group 'trainer.kubeflow.org'",
    ):
        launcher.run()


def test_a_token_that_is_not_accepted_is_not_shown(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.token = "right"
    with pytest.raises(UserError, match="no permission to create trainjobs") as caught:
        launcher.run(token="wrong-secret-token")
    assert "wrong-secret-token" not in str(caught.value)


def test_a_cluster_without_kubeflow_trainer_is_named(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.trainer_installed = False
    with pytest.raises(UserError, match="Kubeflow Trainer v2 is not installed"):
        launcher.run()


def test_an_older_kubeflow_trainer_refuses_instead_of_dropping_a_field(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.unknown_fields = {"runtimePatches"}
    with pytest.raises(
        UserError, match=r'unknown field "spec.runtimePatches".*2\.3 is needed'
    ):
        launcher.run()
    assert api.jobs == {}


def test_a_namespace_that_is_not_there_is_named(
    api: KubernetesApi, launcher: Launcher
) -> None:
    launcher.spec = replace(SPEC, namespace="elsewhere")
    with pytest.raises(UserError, match="there is no namespace elsewhere"):
        launcher.run()


def test_an_admission_rule_speaks_for_itself(
    api: KubernetesApi, launcher: Launcher
) -> None:
    words = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: no such runtime'
    api.admission = (403, words)
    with pytest.raises(UserError, match=re.escape(words)):
        launcher.run()


def test_a_used_up_quota_of_jobs_is_transient(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.admission = (
        403,
        "trainjobs is forbidden: exceeded quota: jobs, requested: count/trainjobs=1, used: 5",
    )
    with pytest.raises(Transient, match="quota of namespace ml"):
        launcher.run()
