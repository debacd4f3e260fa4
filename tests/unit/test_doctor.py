"""All checks together: an API that cannot be used is one finding, and the verb tells all."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.cli.cluster.kfp_calls import ApiPatience
from components.cli.doctor.all_checks import Surroundings, all_checks
from components.cli.doctor.findings import Finding, as_document
from components.cli.doctor.machine_checks import machine_checks, profile_checks
from components.cli.package.profiles import load_profile
from components.errors import UserError
from tests.conftest import S3Server
from tests.doubles.kfp_api import Clock, KfpApi
from tests.doubles.kubernetes_api import KubernetesApi, failing
from tests.unit.doctoring import NAMESPACE, ROOT, TEST_IMAGES, by_check, sound


def everything(
    tmp_path: Path, namespace: str = NAMESPACE, **environment: str
) -> dict[str, Finding]:
    profile = load_profile("cpu", TEST_IMAGES)
    surroundings = Surroundings(
        store="",
        endpoint="",
        namespace=namespace,
        account="ratchet-run",
        token_file=None,
        environment={"HOME": str(tmp_path), **environment},
    )
    found = all_checks(profile, surroundings, local_step="", clock=time.time)
    return by_check(found)


def test_an_api_server_that_cannot_be_used_is_one_finding(
    api: KubernetesApi, tmp_path: Path
) -> None:
    gone = api.kubeconfig(tmp_path / "gone", "http://127.0.0.1:9")
    assert (
        "cannot be reached"
        in everything(tmp_path, KUBECONFIG=str(gone))["kubernetes"].found
    )
    there = api.kubeconfig(tmp_path / "there")
    api.token = "another"
    one = everything(tmp_path, KUBECONFIG=str(there))["kubernetes"]
    assert (one.status, "401" in one.found, "renew" in one.cure) == (
        "failed",
        True,
        True,
    )
    api.token, api.always = None, failing(503)
    assert everything(tmp_path, KUBECONFIG=str(there))["kubernetes"].status == "failed"
    (tmp_path / "empty").write_text("")
    assert (
        everything(tmp_path, KUBECONFIG=str(tmp_path / "empty"))["kubernetes"].status
        == "failed"
    )


def test_what_is_not_configured_is_skipped_and_says_how(tmp_path: Path) -> None:
    found = everything(tmp_path)
    assert {
        name: found[name].status for name in ("store", "kubernetes", "pipelines")
    } == dict.fromkeys(("store", "kubernetes", "pipelines"), "skipped")
    assert all(one.cure for one in found.values() if one.status != "ok")


def test_an_old_version_of_pipelines_and_one_without_namespaces_are_named(
    tmp_path: Path,
) -> None:
    kfp = KfpApi()
    kfp.health = {"multi_user": True, "tag_name": "2.15.0"}
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint)["pipelines"]
    assert (found.status, "2.15.0 is older than 2.17" in found.found) == (
        "failed",
        True,
    )
    kfp.health = {"multi_user": False, "tag_name": "2.17.0"}
    found = everything(tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint)["pipelines"]
    assert (found.status, "has one user" in found.found) == ("failed", True)
    kfp.close()


def test_runs_of_a_single_user_pipelines_are_looked_at_in_its_own_namespace(
    api: KubernetesApi, tmp_path: Path
) -> None:
    kfp = KfpApi()
    kfp.health = {"multi_user": False, "tag_name": "2.17.0"}
    sound(api, load_profile("cpu", TEST_IMAGES))
    api.objects["/api/v1/namespaces/kubeflow"] = {"metadata": {"name": "kubeflow"}}
    environment = {"KF_PIPELINES_ENDPOINT": kfp.endpoint}
    environment["KUBECONFIG"] = str(api.kubeconfig(tmp_path / "kubeconfig"))
    found = everything(tmp_path, "", **environment)
    kfp.close()
    assert found["namespace"].found == "kubeflow is that of Kubeflow Pipelines itself"
    account = found["serviceaccount ratchet-run"]
    assert (account.status, account.found) == ("failed", "is not in namespace kubeflow")
    assert found["pipelines"].status == "ok"


def test_the_api_of_pipelines_is_tried_with_its_token(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp = KfpApi()
    kfp.tokens = {"good"}
    found = everything(
        tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint, KF_PIPELINES_TOKEN="good"
    )["pipelines"]
    assert (found.status, "2.17.0" in found.found) == ("ok", True)
    found = everything(
        tmp_path, KF_PIPELINES_ENDPOINT=kfp.endpoint, KF_PIPELINES_TOKEN="bad-one"
    )["pipelines"]
    assert (
        found.status,
        "refuses the token" in found.found,
        "bad-one" in str(found),
    ) == (
        "failed",
        True,
        False,
    )
    kfp.close()
    # Nobody waits between the tries.
    patience = functools.partial(ApiPatience, clock=clock, sleep=clock.sleep)
    monkeypatch.setattr("components.cli.cluster.kfp_calls.ApiPatience", patience)
    checks = everything(tmp_path, KF_PIPELINES_ENDPOINT="http://127.0.0.1:9")
    found = checks["pipelines"]
    assert (found.status, "check the address" in found.cure) == ("failed", True)


def test_a_pod_without_shared_memory_gpu_or_scratch_is_found(tmp_path: Path) -> None:
    profile = load_profile("gpu-8", TEST_IMAGES)
    (tmp_path / "dev").mkdir()
    found = by_check(
        list(machine_checks(profile, "train", tmp_path / "dev", tmp_path / "none"))
    )
    assert {one.status for one in found.values()} == {"failed"}
    assert "emptyDir in memory" in found["shared memory here"].cure
    assert "0 of 8" in found["GPUs here"].found
    for number in range(8):
        (tmp_path / "dev" / f"nvidia{number}").touch()
    (tmp_path / "dev" / "shm").mkdir()
    found = by_check(
        list(machine_checks(profile, "generate", tmp_path / "dev", tmp_path))
    )
    assert (found["GPUs here"].status, found["scratch here"].status) == ("ok", "ok")


def test_shared_memory_that_does_not_fit_into_a_steps_memory_is_found(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.yaml").write_text("default: {memory: 2Gi, shared_memory: 4Gi}")
    [one] = profile_checks(load_profile(str(tmp_path / "p.yaml"), TEST_IMAGES))
    assert (one.status, "more memory" in one.cure) == ("failed", True)


@pytest.mark.process
def test_the_verb_tells_all_and_ends_with_1_where_something_failed(
    s3_server: S3Server, tmp_path: Path
) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "KF_", "KUBE"))
    }
    environment = {
        **kept,
        **s3_server.environment,
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, str(ROOT / "pipeline.py"), "doctor", "--store"]
    done = subprocess.run(
        [*command, s3_server.new_uri(), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["failed"], told["exit_code"]) == (0, 0, 0), (
        done.stderr
    )
    assert {"store write-once", "kubernetes", "pipelines"} <= {
        one["check"] for one in told["checks"]
    }
    done = subprocess.run(
        [*command, "s3://no-such-bucket/p"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "failed   store credentials" in done.stdout
    assert "→ make it, or correct the store's URI" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_a_recipe_that_does_not_fit_its_profile_is_a_finding(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "NO_COLOR": "1"}
    demo = str(ROOT / "recipes" / "demo.yaml")

    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "pipeline.py"), "doctor", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )

    told = doctor(demo, "--profile", "multi-node", "--json")
    checks = {one["check"]: one for one in json.loads(told.stdout)["checks"]}
    assert (told.returncode, checks["recipe"]["status"]) == (1, "failed")
    assert "--set train.num_nodes=2" in checks["recipe"]["cure"]
    changes = ("--set", "train.num_nodes=2", "--set", "train.num_processes=8")
    told = doctor(demo, *changes, "--profile", "multi-node", "--json")
    checks = {one["check"]: one for one in json.loads(told.stdout)["checks"]}
    assert checks["recipe"]["status"] == "ok"
    for arguments, said in (
        (("--set", "seed=1"), "--set changes a recipe; name the recipe too"),
        (("none.yaml",), "none.yaml"),
        ((demo, "--set", "sed=1"), "seed"),
    ):
        refused = doctor(*arguments)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_the_document_counts_what_was_found() -> None:
    document = as_document(
        [
            Finding("a", "ok", "x"),
            Finding("b", "failed", "y", "z"),
            Finding("c", "skipped", "w"),
        ]
    )
    assert (
        document["ok"],
        document["failed"],
        document["skipped"],
        document["warning"],
    ) == (
        1,
        1,
        1,
        0,
    )
    assert (document["exit_code"], document["checks"][1]["cure"]) == (1, "z")


def test_a_wrong_profile_is_an_error_of_usage() -> None:
    with pytest.raises(UserError):
        load_profile("none-such")
