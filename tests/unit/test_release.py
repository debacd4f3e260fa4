"""A release is proved better than the base and than the last release, and the ledger says so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.canonical import sealed
from components.cli.first_steps.try_model import Models, Settings
from components.cli.releases import approve_run, document_of, roll_back
from components.cli.verify import check_releases, check_run
from components.contracts.recipe import TaskSource
from components.contracts.releases import Line
from components.contracts.rows import Dropped, Prompt
from components.contracts.summaries import PrepareSummary, PublishSummary
from components.errors import Corrupt, UserError
from components.prepare.step import PrepareInputs
from components.prepare.step import run as prepare
from components.prepare.tasks import make_examples
from components.publish.approval import approve
from components.publish.openings import MAX_SPENT_OPENINGS
from components.publish.step import PublishInputs, outcome_of, run
from components.report.runs import load_run
from components.runtime import ledger
from components.runtime.attempts import Task, attempting
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    fetch,
    fetch_folder,
    read_summary,
    receipt_uri,
)
from components.storage import keys
from tests.unit.crafted import decided, recipe_of
from tests.unit.measuring import begun, evaluate, model, question, round_zero

pytestmark = pytest.mark.process

NAME = "crafted"
QUESTIONS = [question(number) for number in range(60, 90)]
SPLITS = {
    "validation": [question(number) for number in range(4)],
    "test": [question(number) for number in range(10, 14)],
}


def taught_by(context: Context, receipts: Sequence[Receipt], number: int = 12) -> list[Prompt]:
    """Prompts of which each model, in turn, has the right answer to its part, and no other."""
    from components.modeling.inference.answers import load_for_answers, sample_all
    from components.modeling.inference.sampling import Sampling

    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=4, batch_size=64)
    prompts = QUESTIONS[:number]
    texts = []
    for receipt in receipts:
        folder = fetch_folder(context, receipt, "model")
        loaded, codec = load_for_answers(folder, "")
        seeds = [[0]] * len(prompts)
        texts.append(
            [one.text for one in sample_all(context, loaded, codec, prompts, seeds, greedy)]
        )
        shutil.rmtree(folder)
    return [
        prompt.model_copy(
            update={"reference": {"answer": texts[index % len(receipts)][index] or "?"}}
        )
        for index, prompt in enumerate(prompts)
    ]


def campaign(
    context: Context, base: Receipt, vault: Sequence[Prompt] = (), **sections: Any
) -> Receipt:
    recipe = recipe_of(generate={"max_new_tokens": 4}, **{"publish": {"name": NAME}, **sections})
    splits = {**SPLITS, "vault": vault} if vault else SPLITS
    return begun(context, recipe, base=base, **splits)


def state_of(context: Context, start: Receipt, champion: Receipt, **changes: Any) -> str:
    evaluation = evaluate(context, start, champion)
    state = {
        "champion": champion.ref,
        "champion_evaluation": evaluation.ref,
        "first_evaluation": evaluation.ref,
        "history": (round_zero(champion, evaluation),),
    }
    return decided(context, start, **{**state, **changes})


def publish(context: Context, start: Receipt, champion: Receipt, **changes: Any) -> PublishSummary:
    receipt = run(PublishInputs(state_of(context, start, champion, **changes)), context)
    return read_summary(receipt, PublishSummary)


def card(context: Context, state: str) -> str:
    return fetch(context, run(PublishInputs(state), context), "README.md").read_text()


def test_a_release_is_proved_better_than_the_base_and_than_the_last_one(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    early = campaign(context, base, taught_by(context, [first]))
    released = publish(context, early, first)
    assert released.released, released.why
    assert (released.split, released.scores.n if released.scores else 0) == ("vault", 12)
    assert [rival.kind for rival in released.rivals] == ["base"]
    # The second model beats its base, and knows no more than half of what the release knows.
    late = campaign(context, base, taught_by(context, [first, first, second]))
    refused = publish(context, late, second)
    state = state_of(context, late, second)
    assert not refused.released
    assert (refused.version, refused.prefix) == ("", "")
    assert "not proved better than release 1" in refused.why
    assert [line.version for line in ledger.read_lines(context, NAME)] == [released.version]
    # On prompts that show it to be better, it is the second release.
    better = publish(context, campaign(context, base, taught_by(context, [second])), second)
    assert [(rival.kind, rival.verdict) for rival in better.rivals] == [
        ("base", "better"),
        ("release", "better"),
    ]
    lines = ledger.read_lines(context, NAME)
    assert [(line.number, line.predecessor) for line in lines] == [(1, None), (2, 1)]
    assert lines[1].asked_by
    assert sorted(context.store.list(better.prefix)) == sorted(
        better.prefix + name for name in lines[1].files
    )
    assert check_releases(context, NAME).damaged == []
    # Side by side: the last release is the champion itself, so the one before it is shown.
    with attempting(context, Task(run_id="late", name="decide-r0", round=0), "decide") as attempt:
        attempt.receipt = "decide/" + state.rpartition("/")[2].removesuffix(".json")
    settings = Settings(temperature=0.0, max_new_tokens=4, system_prompt="")
    with Models(context, "late", settings, compare=True) as models:
        names = ["base", "champion", f"release {released.version}"]
        assert list(models.folders) == names
        said = {name: models.answers(name, QUESTIONS[:3]) for name in names}
    with Models(context, f"release://{NAME}@1", settings, compare=False) as models:
        assert models.answers(f"release://{NAME}@1", QUESTIONS[:3]) == said[names[2]]
    assert said[names[2]] == [
        prompt.reference["answer"] for prompt in taught_by(context, [first], 3)
    ]


def test_the_base_itself_is_never_released(context: Context) -> None:
    base = model(context, 0)
    start = campaign(context, base, taught_by(context, [base]))
    state = state_of(context, start, base, champion_round=None, history=())
    summary = read_summary(run(PublishInputs(state), context), PublishSummary)
    assert not summary.released
    assert "no round was proved better" in summary.why
    text = card(context, state)
    assert "The campaign trained nothing of it." in text
    # Its prompts are as good as new.
    assert not summary.new_prompts_due
    assert "are due" not in text
    # Nothing had to be opened to know that.
    assert list(context.store.list("openings/")) == []
    assert list(context.store.list("models/")) == []


def test_a_model_that_is_worse_than_its_base_is_not_released(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    summary = publish(context, campaign(context, base, taught_by(context, [base])), champion)
    assert not summary.released
    assert "not proved better than base model" in summary.why
    assert ledger.read_lines(context, NAME) == []


def test_test_prompts_decide_where_there_is_no_vault(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    recipe = recipe_of(generate={"max_new_tokens": 4}, publish={"name": NAME})
    prompts = taught_by(context, [champion])
    start = begun(context, recipe, base=base, validation=SPLITS["validation"], test=prompts)
    summary = publish(context, start, champion)
    assert (summary.released, summary.split) == (True, "test")


def test_a_margin_lets_an_equal_model_replace_the_last_release(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    # Half of the prompts are right for each: 15 wins and 15 losses.
    both = taught_by(context, [first, second], 30)
    strict = publish(
        context, campaign(context, base, taught_by(context, [second, first], 30)), second
    )
    assert not strict.released
    lenient = campaign(
        context,
        base,
        both,
        publish={"name": NAME, "margin": 0.2},
        decide={"goal": {"threshold": 0.9}, "alpha": 0.5},
    )
    summary = publish(context, lenient, second)
    verdicts = {rival.kind: rival.verdict for rival in summary.rivals}
    assert verdicts["base"] == "better"
    assert (verdicts["release"], summary.released) == ("non-inferior", True), summary.why


def test_equal_releases_cannot_lose_the_margin_again_and_again(context: Context) -> None:
    base, first, second, third = (model(context, seed) for seed in range(4))
    section = {
        "publish": {"name": NAME, "margin": 0.2},
        "decide": {"goal": {"threshold": 0.9}, "alpha": 0.5},
    }
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    prompts = taught_by(context, [first, second], 30)
    assert publish(context, campaign(context, base, prompts, **section), second).released
    # The first release was the last that was proved better: it stays a rival.
    last = publish(
        context, campaign(context, base, taught_by(context, [second, third], 30), **section), third
    )
    assert [rival.kind for rival in last.rivals] == ["base", "release", "anchor"]
    assert last.rivals[2].name.startswith("release 1 ")


def test_prompts_wear_out(context: Context) -> None:
    base = model(context, 0)
    prompts = taught_by(context, [base])
    said = [
        publish(context, campaign(context, base, prompts), model(context, seed))
        for seed in range(1, MAX_SPENT_OPENINGS + 2)
    ]
    levels = [summary.rivals[0].level for summary in said[:-1]]
    assert levels == pytest.approx([0.05 / 2**k for k in range(1, MAX_SPENT_OPENINGS + 1)])
    assert sum(levels) < 0.05
    assert [summary.new_prompts_due for summary in said] == [False, False, True, True, True]
    assert "worn out" in said[-1].why
    assert said[-1].scores is None
    # Asked again about the same model, the answer is the same and costs nothing.
    assert publish(context, campaign(context, base, prompts), model(context, 2)) == said[1]
    # A release costs nothing: on other prompts two openings in a row have the whole level.
    for seed in (11, 12):
        champion = model(context, seed)
        summary = publish(
            context, campaign(context, base, taught_by(context, [champion])), champion
        )
        assert summary.rivals[0].level == pytest.approx(0.025)
    openings = document_of(context, NAME)["openings"]
    assert isinstance(openings, list)
    assert [opening["spent"] for opening in openings if isinstance(opening, dict)] == [0.0, 0.0]


class PowerCut(Exception):
    """The end of a process, before a write."""


def cut_before_each_write(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[], object],
    after_cut: Callable[[], None],
) -> int:
    """Do `work` again and again, cut short before its first write, then its second and so on, until
    it gets through. Return the number of cuts."""
    put_bytes, put_file = context.store.put_bytes, context.store.put_file
    writes = 0
    limit = 0

    def counted(write: Any) -> Any:
        def writing(key: str, *arguments: Any, **options: Any) -> Any:
            nonlocal writes
            # Attempt records are for people.
            if not key.startswith("attempts/"):
                writes += 1
                if writes > limit:
                    raise PowerCut(key)
            return write(key, *arguments, **options)

        return writing

    monkeypatch.setattr(
        type(context.store), "put_bytes", lambda self, *a, **o: counted(put_bytes)(*a, **o)
    )
    monkeypatch.setattr(
        type(context.store), "put_file", lambda self, *a, **o: counted(put_file)(*a, **o)
    )
    while True:
        writes = 0
        try:
            work()
        except PowerCut:
            after_cut()
            limit += 1
        else:
            monkeypatch.undo()
            return limit


def test_a_crash_between_any_two_writes_leaves_the_old_release_in_force(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    old = ledger.read_lines(context, NAME)
    state = state_of(context, campaign(context, base, taught_by(context, [second])), second)

    def old_is_in_force() -> None:
        assert ledger.read_lines(context, NAME) == old
        assert ledger.release_in_force(context, f"release://{NAME}").number == 1

    num_cuts = cut_before_each_write(
        context, monkeypatch, lambda: run(PublishInputs(state), context), old_is_in_force
    )
    assert num_cuts > 5
    assert ledger.release_in_force(context, f"release://{NAME}").number == 2
    assert check_releases(context, NAME).damaged == []
    # Done again, nothing is written anew.
    run(PublishInputs(state), context)
    assert len(ledger.read_lines(context, NAME)) == 2


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
    for wrong in (b"yes", json.dumps({**approval, "publish_digest": "0" * 64}).encode()):
        context.store.put_bytes(key, wrong)
        with pytest.raises(Corrupt, match=f"{key}.* delete it"):
            run(PublishInputs(state), context)
    context.store.put_bytes(key, json.dumps(approval).encode())
    run(PublishInputs(state), context)
    [line] = ledger.read_lines(context, NAME)
    assert line.approval is not None
    assert line.approval.approved_by == "a platform"


def test_consent_to_a_comparison_is_none_to_what_came_after_it(context: Context) -> None:
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
    with pytest.raises(UserError, match=r"was compared before release 1 \(.* start the run again"):
        approve(context, load_campaign(context, state), waiting)
    assert list(context.store.list("approvals/")) == []
    compared_anew = run(PublishInputs(state), context)
    assert outcome_of(context, compared_anew)["status"] == "waiting for approval"
    # Of two people who approve at the same time, one is first.
    approvers = [
        dataclasses.replace(context, environment={"RATCHET_USER": name}) for name in ("ada", "bo")
    ]
    following = load_campaign(context, state)
    with ThreadPoolExecutor(2) as threads:
        lines = list(threads.map(lambda own: approve(own, following, compared_anew), approvers))
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


def test_of_two_writers_the_second_compares_with_the_first(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    states = [
        state_of(context, campaign(context, base, taught_by(context, [champion])), champion)
        for champion in (first, second)
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda state: run(PublishInputs(state), context), states))
    lines = ledger.read_lines(context, NAME)
    assert [(line.number, line.predecessor) for line in lines] == [(1, None), (2, 1)]
    assert [rival.kind for rival in lines[1].rivals] == ["base", "release"]


def test_a_published_folder_is_never_written_again(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    prompts = taught_by(context, [champion])
    first = publish(context, campaign(context, base, prompts), champion)
    files = {key: context.store.get_bytes(key) for key in context.store.list(first.prefix)}
    # The same model by a run with another goal.
    goal = {"goal": {"threshold": 0.5}}
    again = publish(context, campaign(context, base, prompts, decide=goal), champion, stop="target")
    assert (again.prefix, again.target_met, first.target_met) == (first.prefix, True, False)
    assert "release 1" in again.why
    assert {key: context.store.get_bytes(key) for key in context.store.list(first.prefix)} == files
    assert len(ledger.read_lines(context, NAME)) == 1
    assert check_releases(context, NAME).damaged == []


def test_a_rollback_is_a_new_line(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    for champion in (first, second):
        publish(context, campaign(context, base, taught_by(context, [champion])), champion)
    earlier = ledger.read_lines(context, NAME)
    line = roll_back(context, NAME, earlier[0].version)
    assert (line.number, line.action, line.returns_to, line.predecessor) == (3, "rollback", 1, 2)
    assert ledger.read_lines(context, NAME) == [*earlier, line]
    assert ledger.release_in_force(context, f"release://{NAME}").version == earlier[0].version
    pinned = ledger.release_in_force(context, f"release://{NAME}@{earlier[1].version}")
    assert pinned.number == 2
    with pytest.raises(UserError, match="in force already"):
        roll_back(context, NAME, "1")
    with pytest.raises(UserError, match="has no version 'r9'; there are"):
        roll_back(context, NAME, "r9")
    with pytest.raises(UserError, match="nothing was released under the name 'other'"):
        roll_back(context, "other", "1")
    # A retraining that ends with the same weights undoes no rollback, and opens no prompts.
    decide = {"goal": {"threshold": 0.5}}
    retrained = campaign(context, base, taught_by(context, [second]), decide=decide)
    refused = publish(context, retrained, second)
    assert not refused.released
    assert f"which was rolled back; `rollback {NAME} {earlier[1].version}` puts it" in refused.why
    assert ledger.read_lines(context, NAME) == [*earlier, line]
    # The next release is compared with the one in force.
    third = model(context, 3)
    summary = publish(context, campaign(context, base, taught_by(context, [third])), third)
    assert summary.rivals[1].name == f"release 3 ({earlier[0].version})"
    context.store.delete(f"{earlier[1].prefix}model.safetensors")
    with pytest.raises(Corrupt, match=r"model.safetensors is gone; restore it"):
        roll_back(context, NAME, "2")


def test_a_rollback_withdraws_what_it_passes_over_until_it_is_in_force_again() -> None:
    def line(number: int, weights: str, returns_to: int | None = None) -> Line:
        action = "rollback" if returns_to else "release"
        fields = {"number": number, "weights": weights, "action": action, "returns_to": returns_to}
        return Line.model_construct(**fields)  # type: ignore[arg-type]

    names = "abc"
    lines = [line(number, name) for number, name in enumerate(names, 1)]
    lines.append(line(4, "a", returns_to=1))
    assert [ledger.withdrawn_release(lines, name) for name in names] == [None, *lines[1:3]]
    lines.append(line(5, "b", returns_to=2))
    assert [ledger.withdrawn_release(lines, name) for name in names] == [None, None, lines[2]]


def test_a_damaged_ledger_is_told(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    summary = publish(context, campaign(context, base, taught_by(context, [champion])), champion)
    context.store.put_bytes(f"{summary.prefix}config.json", b"{}")
    assert any("config.json" in line for line in check_releases(context, NAME).damaged)
    key = keys.release_key(NAME, 1)
    stored = json.loads(context.store.get_bytes(key))
    context.store.put_bytes(key, json.dumps({**stored, "score": 0.125}).encode())
    with pytest.raises(Corrupt, match="its checksum does not fit"):
        ledger.read_lines(context, NAME)
    line = {name: value for name, value in stored.items() if name != "checksum"}
    context.store.put_bytes(key, sealed({**line, "files": {}}))
    assert any(
        "not the receipt that was released" in one for one in check_releases(context, NAME).damaged
    )
    whole = context.store.get_bytes(key)
    for cut in (b"[]", b"", whole[: len(whole) // 2], whole[:-1]):
        context.store.put_bytes(key, cut)
        with pytest.raises(Corrupt, match="not a line of the ledger"):
            ledger.read_lines(context, NAME)
    # A line that is gone: a new one in its place would bring back those after it.
    context.store.put_bytes(key, whole)
    context.store.put_bytes(keys.release_key(NAME, 3), whole)
    with pytest.raises(Corrupt, match=r"000002.json is gone, although .*000003.json is there"):
        ledger.read_lines(context, NAME)
    context.store.delete(key)
    with pytest.raises(Corrupt, match=r"000001.json is gone"):
        ledger.release_in_force(context, f"release://{NAME}")


def test_prompts_that_the_last_release_was_trained_on_do_not_decide(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    recipe = recipe_of(generate={"max_new_tokens": 4}, publish={"name": NAME})
    seen = taught_by(context, [second])
    start = begun(
        context,
        recipe,
        base=base,
        **SPLITS,
        vault=taught_by(context, [first], 8),
        unlabelled=seen[8:],
    )
    publish(context, start, first)
    summary = publish(context, campaign(context, base, seen), second)
    assert summary.scores is not None
    assert summary.scores.n == 8


def test_a_release_is_the_base_of_the_next_campaign_with_splits_of_its_own(
    context: Context, tmp_path: Path
) -> None:
    base, champion = model(context, 0), model(context, 1)
    recipe = recipe_of(generate={"max_new_tokens": 4}, publish={"name": NAME})
    vault = taught_by(context, [champion])
    taught = [question(number) for number in range(40, 60)]
    start = begun(context, recipe, base=base, **SPLITS, vault=vault, unlabelled=taught)
    released = publish(context, start, champion)
    # The file has every prompt of the first campaign, and new ones.
    old = [*SPLITS["validation"], *SPLITS["test"], *vault]
    prompts = [*old, *taught, *(question(number) for number in range(14, 40))]
    rows = [{"prompt": one.text, "completion": one.text[0]} for one in prompts]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "name": "next",
        "seed": 5,
        "model": {"source": f"release://{NAME}"},
        "data": {"sources": [{"uri": data.as_uri()}]},
        "decide": {"goal": {"threshold": 0.9}, "alpha": 0.5},
        "publish": {"name": NAME},
        "generate": {"max_new_tokens": 4},
    }
    inputs = PrepareInputs(recipe=document, overrides={}, resume_from="", job_id="")
    following = prepare(inputs, context)
    campaign_of_next = load_campaign(context, receipt_uri(context, following))
    prepared = campaign_of_next.prepared
    counts = read_summary(prepared, PrepareSummary)
    assert counts.rejected["measured_before"] > 0
    assert counts.rejected["trained_before"] > 0
    measured, learned = {one.id for one in old}, {one.id for one in taught}
    for split in ("train", "unlabelled"):
        path = fetch(context, prepared, f"splits/{split}.jsonl")
        ids = {json.loads(line)["id"].split("-")[0] for line in path.read_text().splitlines()}
        assert ids
        assert not ids & measured, split
    for split in ("validation", "test"):
        path = fetch(context, prepared, f"splits/{split}.jsonl")
        ids = {json.loads(line)["id"] for line in path.read_text().splitlines()}
        assert ids
        assert not ids & learned, split
    # A base that no round beats is not released once more, as a success of this campaign.
    unbeaten = publish(context, following, prepared, champion_round=None)
    assert not unbeaten.released
    assert "no round was proved better" in unbeaten.why
    # The base is the release, byte by byte; a champion has to beat it once, not twice.
    line = ledger.read_lines(context, NAME)[0]
    weights = prepared.objects["model/model.safetensors"].sha256
    assert weights == line.files["model.safetensors"]
    second = publish(context, following, model(context, 2))
    assert [rival.kind for rival in second.rivals] == ["base"]
    assert released.released
    document["model"] = {"source": "release://other"}
    with pytest.raises(UserError, match="nothing was released under the name 'other'"):
        prepare(PrepareInputs(recipe=document, overrides={}, resume_from="", job_id=""), context)


@pytest.mark.parametrize("task", ["reverse", "reasoning_gym/gcd"])
def test_tasks_fill_it_with_prompts_of_its_own_and_leave_other_splits_alone_without_it(
    task: str,
) -> None:
    ladder = {"ladder": {"labelled": [1, 3], "climb": [4, 6]}} if task == "reverse" else {}
    counts = {"labelled": 40, "dev": 4, "unlabelled": 10, "validation": 12, "test": 12}

    def splits(vault: int) -> dict[str, list[str]]:
        source = TaskSource.model_validate({"task": task, **counts, **ladder, "vault": vault})
        found: dict[str, list[str]] = {}
        for item in make_examples(source, 3):
            assert not isinstance(item, Dropped)
            found.setdefault(item[0], []).append(item[1].identity)
        return found

    with_it, without = splits(12), splits(0)
    assert len(with_it["vault"]) == 12
    assert not set(with_it["vault"]) & {
        one for name, own in with_it.items() if name != "vault" for one in own
    }
    assert "vault" not in without
    assert {name: len(own) for name, own in with_it.items() if name != "vault"} == {
        name: len(own) for name, own in without.items()
    }
