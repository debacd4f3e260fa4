"""A release that needs approval waits for a person, who consents to one comparison."""

from __future__ import annotations

import dataclasses
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import JsonValue

from components.cli.releases import approve_run
from components.cli.verify import check_releases, check_run
from components.contracts.summaries import PublishSummary
from components.errors import Corrupt, UserError
from components.publish.approval import approve
from components.publish.release import opening_of
from components.publish.step import PublishInputs, outcome_of, run
from components.report.runs import load_run
from components.runtime import ledger
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    read_summary,
)
from components.storage import keys
from tests.unit.crafted import store
from tests.unit.measuring import model
from tests.unit.releasing import (
    NAME,
    campaign,
    cut_before_each_write,
    publish,
    state_of,
    taught_by,
)

pytestmark = pytest.mark.process


NEEDS_APPROVAL = {"publish": {"name": NAME, "approval": "required"}}
RUN = "crafted-run"


def test_a_release_that_needs_approval_waits_for_a_person(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]), **NEEDS_APPROVAL)
    state = state_of(context, start, champion)
    receipt = run(PublishInputs(state), context)
    version = read_summary(receipt, PublishSummary).version

    def waits() -> None:
        assert ledger.read_lines(context, NAME) == []
        assert load_run(context, RUN).status == "waiting for approval"

    waits()
    assert outcome_of(context, receipt) == {
        "status": "waiting for approval",
        "released": False,
        "prefix": "",
    }
    assert list(context.store.list("models/")) == []
    assert check_run(context, RUN).damaged == []
    # Nothing changes by starting the run again.
    assert run(PublishInputs(state), context) == receipt
    waits()
    with pytest.raises(UserError, match=f"{version} waits for approval, and not r9"):
        approve_run(context, RUN, "r9")
    approver = dataclasses.replace(context, environment={"RATCHET_USER": "ada"})
    num_cuts = cut_before_each_write(
        context, monkeypatch, lambda: approve_run(approver, RUN, version), waits
    )
    assert num_cuts > 3
    line = ledger.release_in_force(context, f"release://{NAME}")
    assert line.approval is not None
    assert (line.number, line.version, line.approval.approved_by) == (1, version, "ada")
    assert load_run(context, RUN).status == "published"
    assert outcome_of(context, receipt)["prefix"] == line.prefix
    assert check_releases(context, NAME).damaged == []
    # Approved by a second person, the first line stays; started again, the run is done.
    assert approve_run(context, RUN) == line
    run(PublishInputs(state), context)
    assert ledger.read_lines(context, NAME) == [line]


def test_an_approval_in_the_store_releases_at_the_next_start(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]), **NEEDS_APPROVAL)
    state = state_of(context, start, champion)
    receipt = run(PublishInputs(state), context)
    approval = {
        "publish": receipt.ref,
        "publish_digest": receipt.digest,
        "version": read_summary(receipt, PublishSummary).version,
        "approved_by": "a platform",
        "at": "2026-11-30T00:00:00Z",
    }
    key = keys.approval_key(receipt.key)
    for wrong in (
        b"yes",
        json.dumps({**approval, "publish_digest": "0" * 64}).encode(),
    ):
        context.store.put_bytes(key, wrong)
        with pytest.raises(Corrupt, match=f"{key}.* delete it"):
            run(PublishInputs(state), context)
    context.store.put_bytes(key, json.dumps(approval).encode())
    run(PublishInputs(state), context)
    [line] = ledger.read_lines(context, NAME)
    assert line.approval is not None
    assert line.approval.approved_by == "a platform"


def test_consent_to_a_comparison_is_none_to_what_came_after_it(
    context: Context,
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    start = campaign(context, base, taught_by(context, [first]), **NEEDS_APPROVAL)
    state = state_of(context, start, first)
    waiting = run(PublishInputs(state), context)
    # The run has another champion, which nobody has compared yet.
    state_of(context, start, second, round=1, champion_round=1)
    with pytest.raises(UserError, match=r"has gone on since .* start it again"):
        approve_run(context, RUN)
    # Another campaign of the name is released meanwhile.
    publish(context, campaign(context, base, taught_by(context, [second])), second)
    with pytest.raises(
        UserError, match=r"was compared before release 1 \(.* start the run again"
    ):
        approve(context, load_campaign(context, state), waiting)
    assert list(context.store.list("approvals/")) == []
    compared_anew = run(PublishInputs(state), context)
    assert outcome_of(context, compared_anew)["status"] == "waiting for approval"
    # Of two people who approve at the same time, one is first.
    approvers = [
        dataclasses.replace(context, environment={"RATCHET_USER": name})
        for name in ("ada", "bo")
    ]
    following = load_campaign(context, state)
    with ThreadPoolExecutor(2) as threads:
        lines = list(
            threads.map(lambda own: approve(own, following, compared_anew), approvers)
        )
    assert lines[0] == lines[1] == ledger.read_lines(context, NAME)[1]
    assert check_releases(context, NAME).damaged == []


def test_nothing_else_can_be_approved(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]))
    publish(context, start, champion)
    with pytest.raises(UserError, match="does not wait for approval: it is published"):
        approve_run(context, RUN)
    with pytest.raises(UserError, match="knows no run 'never'"):
        approve_run(context, "never")


OPENING_ID: dict[str, JsonValue] = {"prompts": "0" * 64, "number": 1}


@pytest.mark.parametrize(
    ("opening_id", "opening", "refusal"),
    [
        (OPENING_ID, {"schema_version": 0}, "schema_version: Input should be 1"),
        (OPENING_ID, {"share": 0.05}, "share: Extra inputs are not permitted"),
        (OPENING_ID, {"level": "all"}, "level: Input should be a valid number"),
        (OPENING_ID, {"alpha": None}, "alpha: Input should be a valid number"),
        ({"prompts": "0" * 64}, {}, "number: Field required"),
        ({**OPENING_ID, "model": "m"}, {}, "model: Extra inputs"),
    ],
)
def test_an_opening_of_another_version_is_told_in_one_line(
    context: Context,
    opening_id: dict[str, JsonValue],
    opening: dict[str, JsonValue],
    refusal: str,
) -> None:
    base, champion = model(context, 0), model(context, 1)
    start = campaign(context, base, taught_by(context, [champion]), **NEEDS_APPROVAL)
    receipt = run(PublishInputs(state_of(context, start, champion)), context)
    whole_id, whole = receipt.config["opening"]
    assert opening_of(receipt).model_dump(mode="json") == whole_id
    changed_id = whole_id if opening_id is OPENING_ID else opening_id
    config = {"opening": [changed_id, {**whole, **opening}]}
    older = store(context, "publish", {}, {"name": NAME}, config=config)
    words = rf"{older.ref}: the opening .* another version of Ratchet \({refusal}"
    with pytest.raises(UserError, match=words) as refused:
        opening_of(older)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("opening", [None, [], [OPENING_ID], {"number": 1}, "none"])
def test_a_release_without_an_opening_is_damaged(
    context: Context, opening: JsonValue
) -> None:
    config = {"opening": opening}
    receipt = store(context, "publish", {}, {"name": NAME}, config=config)
    with pytest.raises(Corrupt, match=re.escape(f"{receipt.ref}: a release without")):
        opening_of(receipt)
