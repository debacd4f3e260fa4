"""One run per name and commit, whatever the network does."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.cli.cluster.inputs import digest_of_inputs
from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import (
    Access,
    ApiPatience,
    Unreachable,
    access_from,
)
from components.cli.cluster.submit import plan_submission, start
from components.cli.package.package_file import Package
from components.errors import UserError
from tests.conftest import BUCKET, S3Server
from tests.doubles.kfp_api import Clock, KfpApi, page
from tests.doubles.kubernetes_api import cut_off, failing, lost, reset
from tests.unit.submissions import COMMIT, STORE, TOKEN, patience, wanted, watch


def test_a_submission_uploads_a_version_of_the_commit_and_begins_one_run(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    started = start(pipelines, wanted(package))
    [run], [version], [experiment] = (
        kfp.all("runs"),
        kfp.all("versions"),
        kfp.all("experiments"),
    )
    assert (started.run_id, started.attached, started.state) == (
        run["run_id"],
        False,
        "PENDING",
    )
    assert started.url == f"{kfp.endpoint}/#/runs/details/{run['run_id']}"
    assert run["service_account"] == "ratchet-run"
    assert run["runtime_config"]["parameters"] == {"store": STORE}
    assert run["display_name"].startswith(f"ratchet-demo {COMMIT[:12]}")
    assert version["display_name"].startswith(COMMIT[:12])
    assert version["pipeline_spec"] == {
        "pipeline_spec": package.spec,
        "platform_spec": package.platform,
    }
    assert (experiment["display_name"], experiment["namespace"]) == ("ratchet", "ml")


def test_the_same_submission_again_joins_the_run_and_makes_nothing(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    first = start(pipelines, wanted(package))
    posts = len([one for one in kfp.requests if one[0] == "POST"])
    second = start(pipelines, wanted(package))
    assert (second.run_id, second.attached) == (first.run_id, True)
    assert len([one for one in kfp.requests if one[0] == "POST"]) == posts


def test_another_commit_other_parameters_or_another_package_is_another_run(
    package: Package,
) -> None:
    other = Package(
        package.text.replace("memoryLimit: 4.294967296", "memoryLimit: 5.0")
    )
    names = {
        wanted(package).name,
        plan_submission(package, {"store": STORE}, commit="f" * 40).name,
        wanted(package, parameters={"seed": 1}).name,
        wanted(other).name,
    }
    assert len(names) == 4
    assert wanted(package).name == wanted(package).name


def test_other_data_behind_the_same_address_is_another_run_and_the_same_data_is_not(
    package: Package, s3_server: S3Server
) -> None:
    client = s3_server.client()
    recipe = {
        "model": {"source": f"s3://{BUCKET}/inputs/model"},
        "data": {"sources": [{"uri": f"s3://{BUCKET}/inputs/qa.jsonl"}]},
    }

    def name() -> str:
        digest = digest_of_inputs(recipe, s3_server.environment)
        return wanted(package, inputs_digest=digest).name

    def put(key: str, body: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"inputs/{key}", Body=body)

    with pytest.raises(UserError, match=r"no such object"):
        name()
    put("qa.jsonl", b"{}\n")
    put("model/config.json", b"{}")
    first = name()
    put("qa.jsonl", b"{}\n")
    assert name() == first
    put("qa.jsonl", b'{"prompt": "1"}\n')
    assert name() != first
    put("qa.jsonl", b"{}\n")
    put("model/config.json", b"{ }")
    assert name() != first
    put("model/config.json", b"{}")
    assert name() == first
    # What cannot change behind its address leaves the name as it was without it.
    procedural: dict[str, Any] = {
        "model": {"source": "scratch"},
        "data": {"tasks": [{}]},
    }
    assert digest_of_inputs(procedural, {}) == ""


def test_a_name_of_ones_own_with_other_parameters_is_refused(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    start(pipelines, wanted(package, name="nightly"))
    assert start(pipelines, wanted(package, name="nightly")).attached
    with pytest.raises(
        UserError, match="with another seed; give this one another --name"
    ):
        start(pipelines, wanted(package, name="nightly", parameters={"seed": 1}))
    assert len(kfp.all("runs")) == 1


def test_again_begins_another_run_and_a_later_one_joins_the_one_that_lives(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    first = start(pipelines, wanted(package))
    kfp.objects["runs"][first.run_id]["state"] = "FAILED"
    assert start(pipelines, wanted(package)).state == "FAILED"
    second = start(pipelines, wanted(package), again=True)
    assert (second.attached, len(kfp.all("runs"))) == (False, 2)
    assert start(pipelines, wanted(package)).run_id == second.run_id


@pytest.mark.parametrize(
    ("states", "is_joined"),
    [
        (["FAILED"], False),
        (["SUCCEEDED", "FAILED"], True),
        (["RUNNING"], True),
        (["SUCCEEDED"], True),
        # A person cancelled it: a machine does not begin it again.
        (["FAILED", "CANCELED"], True),
        (["CANCELED", "FAILED"], False),
        ([], False),
    ],
)
def test_again_if_failed_begins_another_run_where_the_newest_failed_and_none_lives(
    kfp: KfpApi,
    pipelines: Pipelines,
    package: Package,
    states: list[str],
    is_joined: bool,
) -> None:
    for state in states:
        run = start(pipelines, wanted(package), again=True)
        kfp.objects["runs"][run.run_id]["state"] = state
    started = start(pipelines, wanted(package), again_if_failed=True)
    assert started.attached == is_joined
    assert len(kfp.all("runs")) == len(states) + (not is_joined)
    # The one that was begun lives: a second job of CI joins it.
    if not is_joined:
        assert (
            start(pipelines, wanted(package), again_if_failed=True).run_id
            == started.run_id
        )


def test_an_archived_run_is_not_joined(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    first = start(pipelines, wanted(package))
    kfp.objects["runs"][first.run_id]["storage_state"] = "ARCHIVED"
    assert start(pipelines, wanted(package)).run_id != first.run_id


@pytest.mark.parametrize("kind", ["runs", "experiments", "pipelines", "upload_version"])
@pytest.mark.parametrize(
    "fault",
    [reset, lost, failing(500), failing(503), cut_off],
    ids=lambda one: one.__name__,
)
def test_whatever_happens_to_a_creation_there_is_one_of_each_at_the_end(
    kfp: KfpApi, pipelines: Pipelines, package: Package, kind: str, fault: Any
) -> None:
    kfp.faults_of["POST", f"/{kind}"] = [fault, fault]
    started = start(pipelines, wanted(package))
    assert [one["run_id"] for one in kfp.all("runs")] == [started.run_id]
    assert [len(kfp.all(one)) for one in ("experiments", "pipelines", "versions")] == [
        1,
        1,
        1,
    ]


def test_a_slow_answer_to_a_creation_makes_no_second_run(
    kfp: KfpApi, package: Package, clock: Clock
) -> None:
    under_way, given_up, created = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def late(handler: Any, carry_out: Any) -> None:
        under_way.set()
        given_up.wait()
        answer = carry_out()
        created.set()
        with suppress(OSError):  # nobody is left to read it
            handler.answer(*answer)

    def pause(seconds: float) -> None:
        # A busy machine may be late with other answers too.
        if under_way.is_set():
            given_up.set()
            created.wait()

    kfp.faults_of["POST", "/runs"] = [late]
    hasty = ApiPatience(clock=clock, sleep=pause, answer_seconds=0.3)
    started = start(Pipelines(Access(kfp.endpoint, "ml"), hasty), wanted(package))
    assert given_up.is_set()
    creations = [
        target
        for method, target in kfp.requests
        if method == "POST" and "/runs" in target
    ]
    assert len(creations) == 1
    assert [one["run_id"] for one in kfp.all("runs")] == [started.run_id]


@pytest.mark.parametrize(
    "fault",
    [reset, failing(429), failing(502), failing(504)],
    ids=lambda one: one.__name__,
)
def test_what_passes_is_waited_for_with_growing_pauses(
    kfp: KfpApi, pipelines: Pipelines, package: Package, clock: Clock, fault: Any
) -> None:
    kfp.faults = [fault] * 4
    start(pipelines, wanted(package))
    assert clock.slept[:4] == [1.0, 2.0, 4.0, 8.0]


def test_two_who_begin_at_once_end_with_the_same_run(
    kfp: KfpApi, package: Package
) -> None:
    """Both look before either has created: the later run is deleted."""
    both, found = threading.Barrier(2), []
    make = Pipelines.create_run

    class Together(Pipelines):
        def create_run(self, body: dict[str, Any]) -> dict[str, Any]:
            both.wait(60)
            made = make(self, body)
            both.wait(60)
            return made

    def begin() -> None:
        found.append(
            start(
                Together(Access(kfp.endpoint, "ml"), patience(Clock())), wanted(package)
            )
        )

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.run_id for one in found}) == 1
    assert [one["run_id"] for one in kfp.all("runs")] == [found[0].run_id]


def test_names_are_found_on_later_pages(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    kfp.page_size = 2
    first = start(pipelines, wanted(package))
    for _ in range(4):
        start(pipelines, wanted(package), again=True)
    for run in kfp.all("runs")[:-1]:
        run["state"] = "FAILED"
    assert (
        start(pipelines, wanted(package)).run_id
        == kfp.all("runs")[-1]["run_id"]
        != first.run_id
    )


def test_a_token_is_read_anew_when_it_is_refused(
    kfp: KfpApi, package: Package, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    kfp.tokens = {"old"}
    pipelines = Pipelines(Access(kfp.endpoint, "ml", token_file=file), patience(clock))
    started = start(pipelines, wanted(package))
    kfp.tokens = {"new"}
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            file.write_text("new\n")

    pipelines.patience = ApiPatience(clock=clock, sleep=sleep)
    kfp.states = ["SUCCEEDED"]
    assert watch(pipelines, started)[:2] == ("SUCCEEDED", 0)
    assert len(pauses) == 2


def test_a_token_that_stays_refused_is_said_without_showing_it(
    kfp: KfpApi, package: Package, clock: Clock, tmp_path: Path
) -> None:
    kfp.tokens = {"another"}
    (tmp_path / "token").write_text(TOKEN)
    by_file = Access(kfp.endpoint, "ml", token_file=tmp_path / "token")
    for access, cure in (
        (by_file, "put a valid one into .*--audience pipelines.kubeflow.org"),
        (
            Access(kfp.endpoint, "ml", TOKEN),
            "KF_PIPELINES_TOKEN.*kubectl -n ml create token ratchet-ci --audience",
        ),
    ):
        with pytest.raises(UserError, match=f"refuses the token .*{cure}") as caught:
            start(Pipelines(access, patience(clock)), wanted(package))
        assert TOKEN not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        start(
            Pipelines(
                Access(kfp.endpoint, token_file=tmp_path / "none"), patience(clock)
            ),
            wanted(package),
        )


def test_no_permission_names_what_and_where(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    kfp.forbidden = True
    with pytest.raises(
        UserError,
        match=r"no permission to list experiments in namespace ml: .*kubeflow-edit",
    ):
        start(pipelines, wanted(package))


def test_what_is_not_the_api_is_said(
    kfp: KfpApi, clock: Clock, package: Package
) -> None:
    with pytest.raises(UserError, match="not the API of Kubeflow Pipelines v2"):
        start(
            Pipelines(Access(f"{kfp.endpoint}/pipeline"), patience(clock)),
            wanted(package),
        )
    kfp.faults = [page]
    with pytest.raises(UserError, match="answers with a page"):
        start(Pipelines(Access(kfp.endpoint), patience(clock)), wanted(package))
    with pytest.raises(Unreachable, match="could not list experiments for 60 s"):
        start(Pipelines(Access("http://127.0.0.1:9"), patience(clock)), wanted(package))


@pytest.mark.parametrize(
    "endpoint", ["", "host:80", "https://me:hush@host", "ftp://host"]
)
def test_a_wrong_address_is_refused_before_anything_is_sent(endpoint: str) -> None:
    with pytest.raises(UserError, match="--endpoint") as caught:
        access_from({}, endpoint, "", None)
    assert "hush" not in str(caught.value)
