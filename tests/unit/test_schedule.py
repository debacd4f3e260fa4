"""A schedule is what was said last, however often it is said and whatever the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.schedule import checked_cron, schedule, unschedule
from components.cli.cluster.submit import Submission, plan_submission
from components.cli.package.package_file import Package
from components.errors import UserError
from tests.doubles.kfp_api import KfpApi
from tests.doubles.kubernetes_api import failing, lost, reset
from tests.unit.submissions import COMMIT, STORE, cli

CRON = "0 0 3 * * 1"


def wanted(package: Package, **parameters: Any) -> Submission:
    return plan_submission(package, {"store": STORE, **parameters}, commit=COMMIT)


def test_a_schedule_said_twice_is_there_once(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    done, made = schedule(pipelines, wanted(package), "weekly", CRON)
    assert (done, [one["recurring_run_id"] for one in kfp.all("recurringruns")]) == (
        "created",
        [made],
    )
    posts = sum(method != "GET" for method, _ in kfp.requests)
    assert schedule(pipelines, wanted(package), "weekly", CRON) == ("unchanged", made)
    assert sum(method != "GET" for method, _ in kfp.requests) == posts


def test_at_most_one_of_its_runs_is_under_way_and_none_is_made_up_for(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    schedule(pipelines, wanted(package), "weekly", CRON)
    [one] = kfp.all("recurringruns")
    assert (one["max_concurrency"], one["no_catchup"], one["mode"]) == (
        "1",
        True,
        "ENABLE",
    )
    assert one["trigger"] == {"cron_schedule": {"cron": CRON}}
    assert one["service_account"] == "ratchet-run"


@pytest.mark.parametrize("change", ["cron", "parameters", "commit", "disabled"])
def test_a_changed_schedule_takes_the_place_of_the_old_one(
    kfp: KfpApi, pipelines: Pipelines, package: Package, change: str
) -> None:
    _, before = schedule(pipelines, wanted(package), "weekly", CRON)
    if change == "disabled":
        kfp.objects["recurringruns"][before].update(mode="DISABLE", status="DISABLED")
    other = wanted(package, seed=7) if change == "parameters" else wanted(package)
    if change == "commit":
        other = plan_submission(package, {"store": STORE}, commit="f" * 40)
    done, made = schedule(
        pipelines, other, "weekly", "0 0 4 * * *" if change == "cron" else CRON
    )
    assert done == "replaced"
    assert made != before
    assert [one["recurring_run_id"] for one in kfp.all("recurringruns")] == [made]


def test_the_old_schedule_is_deleted_only_after_the_new_one_is_there(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    schedule(pipelines, wanted(package), "weekly", CRON)
    kfp.requests.clear()
    schedule(pipelines, wanted(package, seed=7), "weekly", CRON)
    changes = [
        method
        for method, path in kfp.requests
        if "recurringruns" in path and method != "GET"
    ]
    assert changes == ["POST", "DELETE"]


def test_twins_are_cleared_away_and_other_names_are_left_alone(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    _, kept = schedule(pipelines, wanted(package), "weekly", CRON)
    kfp.add(
        "recurringruns",
        **{
            k: v
            for k, v in kfp.all("recurringruns")[0].items()
            if not k.endswith("_run_id")
        },
    )
    _, other = schedule(pipelines, wanted(package), "nightly", "0 0 1 * * *")
    assert schedule(pipelines, wanted(package), "weekly", CRON) == ("replaced", kept)
    assert [one["recurring_run_id"] for one in kfp.all("recurringruns")] == [
        kept,
        other,
    ]


@pytest.mark.parametrize(
    "fault", [reset, lost, failing(500), failing(503)], ids=lambda one: one.__name__
)
def test_whatever_happens_to_the_creation_there_is_one_schedule(
    kfp: KfpApi, pipelines: Pipelines, package: Package, fault: Any
) -> None:
    kfp.faults_of["POST", "/recurringruns"] = [fault, fault]
    _, made = schedule(pipelines, wanted(package), "weekly", CRON)
    assert [one["recurring_run_id"] for one in kfp.all("recurringruns")] == [made]


def test_a_removed_schedule_is_gone_and_removing_it_again_is_no_failure(
    kfp: KfpApi, pipelines: Pipelines, package: Package
) -> None:
    schedule(pipelines, wanted(package), "weekly", CRON)
    assert unschedule(pipelines, "ratchet", "weekly") == "removed"
    assert unschedule(pipelines, "ratchet", "weekly") == "absent"
    assert kfp.all("recurringruns") == []


@pytest.mark.parametrize("removes", [False, True])
def test_a_run_that_goes_on_outlives_its_schedule(
    kfp: KfpApi, pipelines: Pipelines, package: Package, removes: bool
) -> None:
    _, before = schedule(pipelines, wanted(package), "weekly", CRON)
    experiment = pipelines.experiment("ratchet")
    for state in ("SUCCEEDED", "RUNNING"):
        of_schedule = {"experiment_id": experiment, "recurring_run_id": before}
        run = kfp.add("runs", display_name=state, state=state, **of_schedule)

    def say() -> str:
        if removes:
            return unschedule(pipelines, "ratchet", "weekly")
        return schedule(pipelines, wanted(package, seed=7), "weekly", CRON)[0]

    assert say() == ("disabled" if removes else "replaced")
    assert kfp.objects["recurringruns"][before]["status"] == "DISABLED"
    assert say() == ("disabled" if removes else "unchanged")
    kfp.objects["runs"][run["run_id"]]["state"] = "FAILED"
    assert say() == ("removed" if removes else "replaced")
    assert before not in kfp.objects["recurringruns"]
    assert kfp.killed == []


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("0 3 * * 1", CRON),
        ("30 0 3 * * MON-FRI", "30 0 3 * * MON-FRI"),
        ("@daily", "@daily"),
        ("@every 6h", "@every 6h"),
    ],
)
def test_five_fields_get_their_seconds(given: str, read: str) -> None:
    assert checked_cron(given) == read


@pytest.mark.parametrize(
    "given", ["", "3", "0 3 * *", "0 3 * * 1 2 3", "0 3 * * $(id)", "@sometimes"]
)
def test_a_wrong_cron_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(UserError, match="for example '0 3"):
        checked_cron(given)


@pytest.mark.process
def test_the_verb_has_a_schedule_and_removes_it(
    kfp: KfpApi, package: Package, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(package.text)
    common = (
        str(tmp_path / "p.yaml"),
        "--store",
        STORE,
        "--namespace",
        "ml",
        "--commit",
        COMMIT,
    )
    # Before the package is looked at, and anything is sent.
    for options in ((), ("--remove", "--cron", "0 3 * * 1"), ("--cron", "soon")):
        refused = cli(kfp, "schedule", "no-such-recipe", "--namespace", "ml", *options)
        assert (refused.returncode, "cron" in refused.stderr) == (2, True), (
            refused.stderr
        )
    recipe = "recipe={model: {source: 's3://bucket-that-is-not-there/model'}}"
    done = cli(kfp, "schedule", *common, "--cron", "0 3 * * 1", "--param", recipe)
    assert (done.returncode, done.stdout) == (0, "schedule ratchet-demo: created\n"), (
        done.stderr
    )
    # A schedule is found by its name: what its runs will read is not looked at.
    assert "cannot be seen" not in done.stderr
    assert kfp.all("recurringruns")[0]["trigger"]["cron_schedule"]["cron"] == CRON
    assert (
        cli(kfp, "schedule", *common, "--remove").stdout
        == "schedule ratchet-demo: removed\n"
    )
