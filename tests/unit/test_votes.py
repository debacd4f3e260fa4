"""Votes are counted once, by answer: how an answer is worded changes no measure and hides no alarm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from components.contracts.recipe import SelectSection
from components.contracts.rows import Prompt, prompt_id
from components.contracts.state import RoundRecord
from components.contracts.summaries import SelectSummary
from components.contracts.summaries.select import PromptKind, Votes
from components.decide.step import DecideInputs
from components.decide.step import run as decide
from components.runtime.context import Context
from components.runtime.receipts import read_summary, receipt_uri
from components.select.scored_samples import ScoredSample
from components.select.step import SelectInputs
from components.select.step import run as select
from tests.unit.crafted import evaluated, generated, recipe_of, trained
from tests.unit.decisions import Campaign, simple
from tests.unit.selections import account_of, answers

WORDINGS = ("it is {}", "{}", "so we get {}", "I would say {}")


def ask(text: str, answer: int, **tags: str) -> Prompt:
    """A prompt whose answer is the last number that is said."""
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier="numeric",
        reference={"answer": str(answer)},
        tags=tags,
    )


def worded(*numbers: int) -> list[str]:
    """Answers that are all worded differently."""
    return [
        wording.format(number)
        for wording, number in zip(WORDINGS, numbers, strict=True)
    ]


def votes_of(
    samples: Sequence[ScoredSample], validation: Sequence[Prompt], **section: object
) -> Votes:
    settings = SelectSection.model_validate({"minhash_threshold": 1.0, **section})
    votes = account_of(samples, settings, validation=validation)[2].votes
    assert votes is not None
    return votes


VALIDATION = [ask(f"{n}+1=", n + 1, task="add") for n in range(10, 20)]


def test_answers_that_are_worded_differently_agree() -> None:
    asked = ask("30+1=", 31, task="add")
    votes = votes_of(answers(asked, *worded(31, 31, 31, 8)), VALIDATION)
    assert votes == Votes(
        prompts=1,
        agreement=0.75,
        prompts_passed=1,
        passed_agreement=0.75,
        refused_agreement=None,
        minority=1,
        minority_passed=0,
        accepted=3,
        disputed=0,
        kinds=(PromptKind(tags={"task": "add"}, prompts=1),),
    )


def test_a_majority_that_the_verifier_refuses_agrees_however_it_is_worded() -> None:
    asked = [
        ask(f"{n}+1=", n, task="add") for n in range(30, 34)
    ]  # the references are wrong
    samples = [one for prompt in asked for one in answers(prompt, *worded(7, 7, 7, 7))]
    votes = votes_of(samples, VALIDATION)
    assert (votes.prompts, votes.prompts_passed) == (4, 0)
    assert votes.refused_agreement == 1.0


def test_a_strict_vote_leaves_nothing_disputed_and_other_filters_take_nothing_back() -> (
    None
):
    asked = ask("30+1=", 31)
    samples = answers(asked, "31", "31", "8", "it is 31")
    lenient = votes_of(samples, VALIDATION, verifier=False)
    assert (lenient.accepted, lenient.disputed) == (4, 1)
    strict = votes_of(samples, VALIDATION, verifier=False, min_vote_share=0.5)
    assert (strict.accepted, strict.disputed) == (3, 0)
    assert (strict.minority, strict.minority_passed) == (1, 1)


def test_prompts_that_are_unlike_validation_are_not_counted() -> None:
    longer = ask("what is 30 + 1 if nothing else is added to it", 31)
    kind = ask("31+1=", 32, task="sort")
    samples = sorted(
        [
            *answers(longer, *worded(31, 31, 31, 31)),
            *answers(kind, *worded(32, 32, 32, 32)),
        ],
        key=lambda one: one.prompt.id,
    )
    votes = votes_of(samples, VALIDATION)
    assert votes.prompts == 1
    assert votes.kinds == (), "no validation prompt has its tags"


@pytest.mark.parametrize("agreeing", [2, 4])
def test_a_loop_that_grows_sure_of_what_is_wrong_is_warned_of_in_any_words(
    context: Context, agreeing: int
) -> None:
    audit = [ask(f"{n}+7=", n + 7) for n in range(100, 250)]
    recipe = recipe_of(
        select={"verifier": False, "min_accepted": 1, "minhash_threshold": 1.0},
        decide={"goal": {"threshold": 0.99}, "patience": 9},
    )
    campaign = Campaign(
        context, recipe, validation=tuple(VALIDATION), audit=tuple(audit)
    )
    campaign.round(simple(40))
    selected_round(campaign, audit, agreeing=2, audit_right=120)
    record = selected_round(campaign, audit, agreeing=agreeing, audit_right=60)
    assert record.measures["agreement"] == agreeing / 4
    warned = [
        alarm for alarm in record.alarms if "they agree with each other more" in alarm
    ]
    assert len(warned) == (agreeing > 2)


def selected_round(
    campaign: Campaign, audit: Sequence[Prompt], *, agreeing: int, audit_right: int
) -> RoundRecord:
    """A round whose mix the real step selects: of the four samples of a prompt so many agree."""
    context, number = campaign.context, len(campaign.receipts)
    pool = [ask(f"{n}+{number}=", n + number) for n in range(40, 60)]
    texts = {
        one.text: worded(*[7] * agreeing, *range(11, 15 - agreeing)) for one in pool
    }
    for place, one in enumerate(audit):
        right = int(one.reference["answer"])
        texts[one.text] = worded(*[right if place < audit_right else 7] * 4)
    champion = campaign.state.champion
    shard = generated(context, [*pool, *audit], texts, round=number, champion=champion)
    mix = select(SelectInputs(campaign.uri, (shard,)), context)
    assert read_summary(mix, SelectSummary).shards == (shard.ref,)
    candidate = trained(context, number, final_loss=0.2 - number / 1000)
    results = evaluated(context, candidate, simple(41 + number))
    decided = decide(DecideInputs(campaign.uri, mix, candidate, results), context)
    campaign.receipts.append(decided)
    campaign.uri = receipt_uri(context, decided)
    return campaign.state.history[-1]
