"""What is told of the pods of a training on many nodes: why they wait, which rank failed and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import Corrupt, RatchetError, Transient, UserError
from components.train.launch.pods import secret_values
from tests.doubles.kubernetes_api import NOW, Json, KubernetesApi, ended, pod
from tests.unit.launcher import NAME, Launcher, nothing

pytestmark = pytest.mark.timeout(30)
TORCHRUN_ACCOUNT = """\
W1122 19:02:30.026000 22 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 21 closing signal
E1122 19:02:30.028000 22 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {status})
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
------------------------------------------------------------
Failures:
[1]:
  rank      : 8 (local_rank: 0)
  exitcode  : -15 (pid: 21)  (SIGTERM)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_19:02:30
  rank      : {rank} (local_rank: 1)
  exitcode  : {status} (pid: 22)
============================================================
"""


def failed(
    api: KubernetesApi, *pods: Json, logs: dict[int, str], reason: str = "FailedJobs"
) -> None:
    api.pods = list(pods)
    for one in pods:
        node = int(
            one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        )
        if node in logs:
            api.logs[one["metadata"]["name"]] = logs[node].encode(
                "utf-8", errors="surrogateescape"
            )
    api.later = [
        nothing,
        api.condition(
            "Failed", reason, "jobset failed due to one or more job failures"
        ),
    ]


def test_a_job_without_pods_says_what_its_events_say(
    api: KubernetesApi, launcher: Launcher
) -> None:
    why = {
        "reason": "FailedCreate",
        "message": 'pods "x" is forbidden: exceeded quota: gpus',
    }
    api.events = [
        {
            "type": "Warning",
            "involvedObject": {"name": f"{NAME}-node-0"},
            "lastTimestamp": NOW,
            **why,
        },
        {
            "type": "Normal",
            "involvedObject": {"name": NAME},
            "reason": "Fine",
            "message": "fine",
        },
        {
            "type": "Warning",
            "involvedObject": {"name": "another"},
            "reason": "Other",
            "message": "other",
        },
    ]
    api.later = [nothing, api.condition("Complete")]
    launcher.run()
    assert "no pod yet: FailedCreate: pods" in launcher.notes()
    assert "exceeded quota: gpus" in launcher.notes()
    assert "other" not in launcher.notes()


def test_a_node_without_a_pod_is_told_of_beside_those_that_run(
    api: KubernetesApi, launcher: Launcher
) -> None:
    why = {
        "reason": "FailedCreate",
        "message": 'pods "x" is forbidden: exceeded quota: gpus',
    }
    about = {"name": f"{NAME}-node-0"}
    api.pods = [pod(NAME, 0, "Running")]
    api.later = [nothing, nothing, api.condition("Complete")]
    launcher.run()
    # Its pod is about to be made, for all that is known.
    assert "no pod" not in launcher.notes()
    api.jobs.clear()
    api.events = [
        {"type": "Warning", "involvedObject": about, "lastTimestamp": NOW, **why}
    ]
    api.later = [nothing, nothing, api.condition("Complete")]
    launcher.run()
    assert "1 of 2 nodes have no pod: FailedCreate" in launcher.notes()
    assert "exceeded quota: gpus" in launcher.notes()


def test_the_progress_of_node_0_is_told_without_secrets(
    api: KubernetesApi, launcher: Launcher
) -> None:
    first, second = pod(NAME, 0, "Running"), pod(NAME, 1, "Running")
    api.pods = [second, first]
    api.logs[second["metadata"]["name"]] = b"another node\n"
    name = first["metadata"]["name"]

    def writes(text: bytes) -> Callable[[], None]:
        return lambda: api.logs.update({name: text})

    api.later = [
        nothing,
        writes(b"train-r2 10 % loss 2.1\n\n"),
        writes(b"train-r2 20 % loss 1.9 hush-hush\n"),
        api.condition("Complete"),
    ]
    launcher.run(secrets=("hush-hush",))
    assert "node 0: train-r2 10 % loss 2.1" in launcher.notes()
    assert "node 0: train-r2 20 % loss 1.9 ***" in launcher.notes()
    assert "another node" not in launcher.notes()


def test_pods_that_wait_say_for_what_and_the_job_is_not_failed(
    api: KubernetesApi, launcher: Launcher
) -> None:
    no_node = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/5 nodes are available",
    }
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    api.pods = [
        pod(NAME, 0, "Pending", restart=1, conditions=[no_node]),
        pod(
            NAME,
            1,
            "Pending",
            restart=1,
            containerStatuses=[{"name": "node", "state": {"waiting": waiting}}],
        ),
        pod("another", 1, "Running"),
        pod(NAME, 0, "Running"),
    ]
    api.later = [nothing] * 20 + [api.condition("Complete")]
    launcher.run()
    assert (
        launcher.notes().count(
            "0 of 2 nodes run, 1 wait: Unschedulable: 0/5 nodes are available"
        )
        == 1
    )
    assert "1 wait: ImagePullBackOff: not found" in launcher.notes()
    assert "restart 1" in launcher.notes()


def test_a_suspended_job_is_waited_for(api: KubernetesApi, launcher: Launcher) -> None:
    suspended = api.condition("Suspended", "Suspended", "TrainJob is suspended")
    api.later = [
        suspended,
        nothing,
        api.condition("Resumed"),
        api.condition("Complete"),
    ]
    launcher.run()
    assert (
        "is suspended, by a queue or by hand: Suspended: TrainJob is suspended"
        in launcher.notes()
    )


def test_without_a_look_at_pods_training_goes_on_and_says_so(
    api: KubernetesApi, launcher: Launcher
) -> None:
    api.denied = {("list", "pods")}
    api.later = [nothing] * 5 + [api.condition("Complete")]
    launcher.run()
    assert launcher.notes().count("no permission to list pods in namespace ml") == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (1, RatchetError),
        (2, UserError),
        (3, Corrupt),
        (75, Transient),
        (-11, RatchetError),
    ],
)
def test_the_failing_rank_is_found_and_its_status_kept(
    api: KubernetesApi, launcher: Launcher, status: int, kind: type[RatchetError]
) -> None:
    failed(
        api,
        pod(NAME, 0, "Failed", **ended(1, "2026-01-02T03:04:06Z")),
        pod(NAME, 1, "Failed", **ended(1, "2026-01-02T03:04:05Z")),
        logs={
            0: "a peer is gone\n" + TORCHRUN_ACCOUNT.format(rank=0, status=-6),
            1: "\n".join(f"step {n}" for n in range(100))
            + "\nerror (UserError): row 7 is too long\n"
            + TORCHRUN_ACCOUNT.format(rank=9, status=status),
        },
    )
    with pytest.raises(
        RatchetError, match=f"rank 9 on node 1.*ended with status {status}"
    ) as caught:
        launcher.run()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "step 99" in message
    assert "step 50" not in message
    assert message.splitlines()[0].endswith("error (UserError): row 7 is too long")
    assert "torch/distributed" not in message
    assert "a peer is gone" not in message
    assert NAME in api.jobs


@pytest.mark.process
def test_the_account_of_the_installed_torchrun_is_understood(
    api: KubernetesApi, launcher: Launcher, tmp_path: Path
) -> None:
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('error (UserError): no such column', file=sys.stderr)\n"
        "    sys.exit(2)\n"
        "time.sleep(30)\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(rank),
    ]
    node = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert node.returncode == 1
    failed(
        api,
        pod(NAME, 0, "Failed", **ended(node.returncode, NOW)),
        logs={0: node.stderr},
    )
    with pytest.raises(
        UserError,
        match=r"rank 1 on node 0 .* ended with status 2: error \(UserError\): no such column",
    ):
        launcher.run()


def test_a_rank_that_knew_why_goes_before_one_that_only_lost_its_peer(
    api: KubernetesApi, launcher: Launcher
) -> None:
    failed(
        api,
        pod(NAME, 0, "Failed", **ended(1, NOW)),
        pod(NAME, 1, "Failed", **ended(1, NOW)),
        logs={
            0: "connection closed by peer\n"
            + TORCHRUN_ACCOUNT.format(rank=0, status=1),
            1: "error (Corrupt): shard 3 is damaged\n"
            + TORCHRUN_ACCOUNT.format(rank=8, status=3),
        },
    )
    with pytest.raises(Corrupt, match="shard 3 is damaged"):
        launcher.run()


def test_only_pods_of_the_last_restart_are_blamed(
    api: KubernetesApi, launcher: Launcher
) -> None:
    failed(
        api,
        pod(NAME, 0, "Failed", restart=0, **ended(75, "2026-01-01T00:00:00Z")),
        pod(NAME, 1, "Failed", restart=1, **ended(2, NOW)),
        pod(NAME, 0, "Running", restart=1),
        logs={1: "wrong recipe"},
    )
    with pytest.raises(UserError, match="node 1"):
        launcher.run()


def test_no_secret_of_a_log_is_shown(api: KubernetesApi, launcher: Launcher) -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "HF_TOKEN": "hf-not-like-others",
        "AWS_ACCESS_KEY_ID": "ratchet",
        "HOME": "/root",
    }
    failed(
        api,
        pod(NAME, 0, "Failed", **ended(1, NOW)),
        logs={
            0: "tried wJalrXUtnFEMI/K7MDENG and hf-not-like-others in /root for ratchet-6f11\n"
            "MLFLOW_TRACKING_PASSWORD=correct-horse api_key: 'battery'\n"
            "GET https://ann:staple@host/x?X-Amz-Signature=0badcafe&y=1 Authorization: Bearer abcdefgh12345\n"
            "AKIAIOSFODNN7EXAMPLE \x1b[31mred\x1b[0m pad_token: <pad>, tokens: 512 \udcff\n"
        },
    )
    with pytest.raises(RatchetError) as caught:
        launcher.run(secrets=secret_values(environment))
    message = str(caught.value)
    hidden = (
        "wJalr",
        "hf-not",
        "correct-horse",
        "battery",
        "staple",
        "0badcafe",
        "abcdefgh12345",
        "AKIAIOSFODNN7EXAMPLE",
    )
    assert [word for word in hidden if word in message] == []
    assert "\x1b" not in message
    # The id of a key may be a common word: it is no secret.
    assert "in /root for ratchet-6f11" in message
    assert "pad_token: <pad>, tokens: 512" in message


def test_a_node_that_was_taken_away_is_transient(
    api: KubernetesApi, launcher: Launcher
) -> None:
    failed(
        api, pod(NAME, 1, "Failed", reason="Evicted", message="low on memory"), logs={}
    )
    with pytest.raises(Transient, match=r"node 1 .* was taken away \(Evicted\)"):
        launcher.run()


def test_want_of_memory_is_named(api: KubernetesApi, launcher: Launcher) -> None:
    failed(
        api, pod(NAME, 0, "Failed", **ended(137, NOW, "OOMKilled")), logs={0: "step 1"}
    )
    with pytest.raises(RatchetError, match="memory limit is too small"):
        launcher.run()


@pytest.mark.parametrize("gone", ["pods", "log"])
def test_a_failure_without_pods_or_log_is_still_told(
    api: KubernetesApi, launcher: Launcher, gone: str
) -> None:
    failed(api, pod(NAME, 0, "Failed", **ended(3, NOW)), logs={})
    if gone == "pods":
        api.pods = []
    with pytest.raises(RatchetError, match="FailedJobs: jobset failed") as caught:
        launcher.run()
    assert (
        "none of its pods is left" if gone == "pods" else "its log is empty or gone"
    ) in str(caught.value)
    assert isinstance(caught.value, Corrupt) == (gone == "log")


def test_a_failure_whose_log_may_not_be_read_names_the_permission(
    api: KubernetesApi, launcher: Launcher
) -> None:
    failed(api, pod(NAME, 0, "Failed", **ended(1, NOW)), logs={0: "x"})
    api.denied = {("get", "pods/log")}
    with pytest.raises(
        RatchetError, match=r"FailedJobs.*no permission to get pods/log"
    ):
        launcher.run()


def test_a_missing_runtime_is_the_users_to_mend(
    api: KubernetesApi, launcher: Launcher
) -> None:
    failed(api, logs={}, reason="TrainingRuntimeNotSupported")
    with pytest.raises(
        UserError, match="TrainingRuntime ratchet-deepspeed in namespace ml"
    ):
        launcher.run()
