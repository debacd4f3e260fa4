"""A release is proved better than the base and than the last release, and the ledger says so."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.cli.first_steps.try_model import Models, Settings
from components.cli.releases import document_of
from components.cli.verify import check_releases
from components.contracts.recipe import TaskSource
from components.contracts.rows import Dropped
from components.contracts.summaries import PrepareSummary, PublishSummary
from components.errors import UserError
from components.prepare.tasks import make_examples
from components.publish.openings import MAX_SPENT_OPENINGS
from components.publish.step import PublishInputs, run
from components.runtime import ledger
from components.runtime.attempts import Task, attempting
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    fetch,
    read_summary,
    receipt_uri,
)
from tests.unit.crafted import recipe_of
from tests.unit.measuring import begun, model, question
from tests.unit.preparing import prepare
from tests.unit.releasing import (
    NAME,
    QUESTIONS,
    SPLITS,
    campaign,
    card,
    cut_before_each_write,
    publish,
    state_of,
    taught_by,
)

pytestmark = pytest.mark.process


def test_a_release_is_proved_better_than_the_base_and_than_the_last_one(
    context: Context,
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    early = campaign(context, base, taught_by(context, [first]))
    released = publish(context, early, first)
    assert released.released, released.why
    assert (released.split, released.scores.n if released.scores else 0) == (
        "vault",
        12,
    )
    assert [rival.kind for rival in released.rivals] == ["base"]
    # The second model beats its base, and knows no more than half of what the release knows.
    late = campaign(context, base, taught_by(context, [first, first, second]))
    refused = publish(context, late, second)
    state = state_of(context, late, second)
    assert not refused.released
    assert (refused.version, refused.prefix) == ("", "")
    assert "not proved better than release 1" in refused.why
    assert [line.version for line in ledger.read_lines(context, NAME)] == [
        released.version
    ]
    # On prompts that show it to be better, it is the second release.
    better = publish(
        context, campaign(context, base, taught_by(context, [second])), second
    )
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
    with attempting(
        context, Task(run_id="late", name="decide-r0", round=0), "decide"
    ) as attempt:
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


def test_a_trial_releases_nothing_and_opens_no_prompts(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    vault = taught_by(context, [champion])
    trial = campaign(context, base, vault, publish={"name": NAME, "release": False})
    summary = publish(context, trial, champion)
    assert not summary.released
    assert "publish.release: false" in summary.why
    assert list(context.store.list("openings/")) == []
    assert list(context.store.list("models/")) == []
    # The same campaign, no trial any more, has all its alpha.
    assert publish(context, campaign(context, base, vault), champion).released


def test_a_model_that_is_worse_than_its_base_is_not_released(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    summary = publish(
        context, campaign(context, base, taught_by(context, [base])), champion
    )
    assert not summary.released
    assert "not proved better than base model" in summary.why
    assert ledger.read_lines(context, NAME) == []


def test_test_prompts_decide_where_there_is_no_vault(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    recipe = recipe_of(generate={"max_new_tokens": 4}, publish={"name": NAME})
    prompts = taught_by(context, [champion])
    start = begun(
        context, recipe, base=base, validation=SPLITS["validation"], test=prompts
    )
    summary = publish(context, start, champion)
    assert (summary.released, summary.split) == (True, "test")


def test_a_margin_lets_an_equal_model_replace_the_last_release(
    context: Context,
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    # Half of the prompts are right for each: 15 wins and 15 losses.
    both = taught_by(context, [first, second], 30)
    strict = publish(
        context,
        campaign(context, base, taught_by(context, [second, first], 30)),
        second,
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
    assert (verdicts["release"], summary.released) == ("non-inferior", True), (
        summary.why
    )


def test_equal_releases_cannot_lose_the_margin_again_and_again(
    context: Context,
) -> None:
    base, first, second, third = (model(context, seed) for seed in range(4))
    section = {
        "publish": {"name": NAME, "margin": 0.2},
        "decide": {"goal": {"threshold": 0.9}, "alpha": 0.5},
    }
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    prompts = taught_by(context, [first, second], 30)
    assert publish(
        context, campaign(context, base, prompts, **section), second
    ).released
    # The first release was the last that was proved better: it stays a rival.
    last = publish(
        context,
        campaign(context, base, taught_by(context, [second, third], 30), **section),
        third,
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
    assert levels == pytest.approx(
        [0.05 / 2**k for k in range(1, MAX_SPENT_OPENINGS + 1)]
    )
    assert sum(levels) < 0.05
    assert [summary.new_prompts_due for summary in said] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert "worn out" in said[-1].why
    assert said[-1].scores is None
    # Asked again about the same model, the answer is the same and costs nothing.
    assert (
        publish(context, campaign(context, base, prompts), model(context, 2)) == said[1]
    )
    # A release costs nothing: on other prompts two openings in a row have the whole level.
    for seed in (11, 12):
        champion = model(context, seed)
        summary = publish(
            context, campaign(context, base, taught_by(context, [champion])), champion
        )
        assert summary.rivals[0].level == pytest.approx(0.025)
    openings = document_of(context, NAME)["openings"]
    assert isinstance(openings, list)
    assert [opening["spent"] for opening in openings if isinstance(opening, dict)] == [
        0.0,
        0.0,
    ]


def test_a_crash_between_any_two_writes_leaves_the_old_release_in_force(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    publish(context, campaign(context, base, taught_by(context, [first])), first)
    old = ledger.read_lines(context, NAME)
    state = state_of(
        context, campaign(context, base, taught_by(context, [second])), second
    )

    def old_is_in_force() -> None:
        assert ledger.read_lines(context, NAME) == old
        assert ledger.release_in_force(context, f"release://{NAME}").number == 1

    num_cuts = cut_before_each_write(
        context,
        monkeypatch,
        lambda: run(PublishInputs(state), context),
        old_is_in_force,
    )
    assert num_cuts > 5
    assert ledger.release_in_force(context, f"release://{NAME}").number == 2
    assert check_releases(context, NAME).damaged == []
    # Done again, nothing is written anew.
    run(PublishInputs(state), context)
    assert len(ledger.read_lines(context, NAME)) == 2


def test_of_two_writers_the_second_compares_with_the_first(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    states = [
        state_of(
            context, campaign(context, base, taught_by(context, [champion])), champion
        )
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
    files = {
        key: context.store.get_bytes(key) for key in context.store.list(first.prefix)
    }
    # The same model by a run with another goal.
    goal = {"goal": {"threshold": 0.5}}
    again = publish(
        context, campaign(context, base, prompts, decide=goal), champion, stop="target"
    )
    assert (again.prefix, again.target_met, first.target_met) == (
        first.prefix,
        True,
        False,
    )
    assert "release 1" in again.why
    assert {
        key: context.store.get_bytes(key) for key in context.store.list(first.prefix)
    } == files
    assert len(ledger.read_lines(context, NAME)) == 1
    assert check_releases(context, NAME).damaged == []


def test_prompts_that_the_last_release_was_trained_on_do_not_decide(
    context: Context,
) -> None:
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
    following = prepare(context, document)
    campaign_of_next = load_campaign(context, receipt_uri(context, following))
    prepared = campaign_of_next.prepared
    counts = read_summary(prepared, PrepareSummary)
    assert counts.rejected["measured_before"] > 0
    assert counts.rejected["trained_before"] > 0
    measured, learned = {one.id for one in old}, {one.id for one in taught}
    for split in ("train", "unlabelled"):
        path = fetch(context, prepared, f"splits/{split}.jsonl")
        ids = {
            json.loads(line)["id"].split("-")[0]
            for line in path.read_text().splitlines()
        }
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
        prepare(context, document)


@pytest.mark.parametrize("task", ["reverse", "reasoning_gym/gcd"])
def test_tasks_fill_it_with_prompts_of_its_own_and_leave_other_splits_alone_without_it(
    task: str,
) -> None:
    ladder = (
        {"ladder": {"labelled": [1, 3], "climb": [4, 6]}} if task == "reverse" else {}
    )
    counts = {"labelled": 40, "dev": 4, "unlabelled": 10, "validation": 12, "test": 12}

    def splits(vault: int) -> dict[str, list[str]]:
        source = TaskSource.model_validate(
            {"task": task, **counts, **ladder, "vault": vault}
        )
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
