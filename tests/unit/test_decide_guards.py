"""A candidate that is better and must not be promoted: the guards and blocks of a round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from components.contracts.rows import TextResult
from components.contracts.summaries.evaluate import CollapseAlarm, ModelScores
from components.decide.step import DecideInputs, run
from components.runtime.context import Context
from components.runtime.receipts import Receipt, receipt_uri
from tests.unit.crafted import evaluate_summary, recipe_of, store, with_dev
from tests.unit.decisions import Campaign, simple, told


def test_a_better_candidate_that_lost_human_language_is_rejected(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40), perplexity=2.0)
    receipt = campaign.round(simple(70), perplexity=2.3)
    assert told(receipt).verdict == "rejected"
    assert (
        "collapse guard: perplexity on human text is 1.150 times that of the best model so far"
        in told(receipt).why
    )
    assert told(campaign.round(simple(71), perplexity=2.1)).verdict == "promoted"


def test_the_collapse_guard_compares_with_round_zero_so_it_cannot_creep(
    campaign: Campaign,
) -> None:
    campaign.round(simple(20), perplexity=2.0)
    assert told(campaign.round(simple(40), perplexity=2.15)).verdict == "promoted"
    assert told(campaign.round(simple(60), perplexity=2.25)).verdict == "rejected"


def test_without_human_text_to_measure_the_gate_decides_alone(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40), perplexity=None)
    assert told(campaign.round(simple(60), perplexity=None)).verdict == "promoted"


BLOCK = CollapseAlarm(
    measure="distinct_2",
    value=0.7,
    limit=0.85,
    why="distinct-2 is 0.70 of round 0's, at least 0.85",
)


def test_a_block_rejects_what_is_better_and_the_second_in_a_row_ends_the_campaign(
    context: Context,
) -> None:
    campaign = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "patience": 9, "max_rounds": 9}),
    )
    campaign.round(simple(40))
    receipt = campaign.round(simple(60), blocks=[BLOCK])
    assert (told(receipt).verdict, told(receipt).stop) == ("rejected", None)
    assert told(receipt).why.startswith(
        "collapse guard: distinct-2 is 0.70 of round 0's"
    )
    assert told(receipt).alarms == ("distinct_2",)
    assert "- **blocks**: collapse guard: distinct-2 is 0.70" in campaign.card
    assert campaign.state.champion_round == 0
    campaign.round(simple(60))
    assert campaign.state.champion_round == 2
    campaign.round(simple(80), blocks=[BLOCK])
    assert told(campaign.round(simple(81), blocks=[BLOCK])).stop == "alarm"
    assert "two rounds in a row were rejected by alarms" in campaign.card


def test_a_warning_is_told_and_blocks_nothing(campaign: Campaign) -> None:
    campaign.round(simple(40))
    receipt = campaign.round(simple(60), warnings=[BLOCK])
    assert told(receipt).verdict == "promoted"
    assert "- warning: collapse guard: distinct-2" in campaign.card


def measured_beside(campaign: Campaign, right: int, tokens_right: int) -> DecideInputs:
    """A round whose evaluation holds the champion too: 50 prompts right, and 90 of 100 tokens of
    each retention row."""
    inputs = campaign.inputs(simple(60))
    texts = {
        name: [
            TextResult(
                id=f"{number}",
                split="retention",
                loss=0.1,
                num_tokens=100,
                num_right=count,
            )
            for number in range(40)
        ]
        for name, count in (
            ("retention.jsonl", tokens_right),
            ("champion/retention.jsonl", 90),
        )
    }
    files: dict[str, Sequence[Any] | bytes] = {
        "results.jsonl": with_dev(simple(right)),
        "champion/results.jsonl": with_dev(simple(50)),
        **texts,
    }
    scores = evaluate_summary(round=1)
    champion = {name: getattr(scores, name) for name in ModelScores.model_fields}
    summary = scores.model_copy(update={"champion": ModelScores(**champion)})
    made = store(
        campaign.context, "evaluate", files, summary, {"candidate": inputs.train}
    )
    return replace(inputs, evaluate=made)


def test_the_champion_is_read_from_beside_the_candidate_with_what_both_retained(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    promoted = run(measured_beside(campaign, 70, 90), campaign.context)
    assert (
        "20 prompts only the candidate got right" in told(promoted).why
    )  # of the 50 measured beside it, not of 40
    assert told(promoted).verdict == "promoted"
    lost = run(measured_beside(campaign, 70, 80), campaign.context)
    assert told(lost).verdict == "rejected"
    assert (
        "retention guard: the candidate lost human text: token accuracy -10.00 points on 40 rows"
        in told(lost).why
    )


def human_texts(right: int, loss: float, count: int = 40) -> list[TextResult]:
    """Human texts of 1,000 tokens, so many of which are right."""
    return [
        TextResult(
            id=f"{number}",
            split="retention",
            loss=loss,
            num_tokens=1000,
            num_right=right,
        )
        for number in range(count)
    ]


def round_with_texts(
    campaign: Campaign,
    right: int,
    texts: Sequence[TextResult],
    champion_texts: Sequence[TextResult],
    champion_right: int,
) -> Receipt:
    """Decide a round whose candidate and champion were measured on human texts."""
    number = len(campaign.receipts)
    inputs = campaign.inputs(simple(right))
    files: dict[str, Sequence[Any] | bytes] = {
        "results.jsonl": with_dev(simple(right)),
        "retention.jsonl": texts,
    }
    scores = evaluate_summary(round=number, perplexity=math.exp(texts[0].loss))
    files["champion/results.jsonl"] = with_dev(simple(champion_right))
    files["champion/retention.jsonl"] = champion_texts
    champion = {name: getattr(scores, name) for name in ModelScores.model_fields}
    scores = scores.model_copy(update={"champion": ModelScores(**champion)})
    made = store(
        campaign.context, "evaluate", files, scores, {"candidate": inputs.train}
    )
    receipt = run(replace(inputs, evaluate=made), campaign.context)
    campaign.receipts.append(receipt)
    campaign.uri = receipt_uri(campaign.context, receipt)
    return receipt


def test_human_text_cannot_be_lost_a_little_with_every_promotion(
    context: Context,
) -> None:
    decide = {
        "goal": {"threshold": 0.99},
        "max_rounds": 5,
        "patience": 9,
        "retention_margin": 0.01,
    }
    campaign = Campaign(context, recipe_of(decide=decide))
    verdicts = []
    previous = human_texts(900, 0.5)
    champion_right = 0
    # Each candidate solves 20 prompts more and loses 0.6 points of the texts: with a margin of one
    # point that is allowed once.
    for number in range(3):
        texts = human_texts(900 - 6 * number, 0.5)
        right = 20 + 20 * number
        receipt = round_with_texts(campaign, right, texts, previous, champion_right)
        verdicts.append(told(receipt).verdict)
        if told(receipt).verdict != "rejected":
            previous = texts
            champion_right = right
    assert verdicts == ["promoted", "promoted", "rejected"]
    assert "token accuracy -1.20 points on 40 rows" in told(receipt).why


def test_perplexity_is_held_against_the_best_champion_and_not_round_0_alone(
    context: Context,
) -> None:
    decide = {"goal": {"threshold": 0.99}, "max_rounds": 5, "patience": 9}
    campaign = Campaign(context, recipe_of(decide=decide))
    first, best = human_texts(900, 0.5), human_texts(900, 0.4)
    round_with_texts(campaign, 20, first, first, 20)
    assert told(round_with_texts(campaign, 50, best, first, 20)).verdict == "promoted"
    # 2 % worse than round 0, and 12.7 % worse than the champion of round 1.
    receipt = round_with_texts(campaign, 80, human_texts(900, 0.52), best, 50)
    assert told(receipt).verdict == "rejected"
    assert "1.127 times that of the best model so far" in told(receipt).why
    # Cut at another length it is another text.
    cut = [
        text.model_copy(update={"num_tokens": 10, "num_right": 9})
        for text in human_texts(9, 0.52)
    ]
    assert told(round_with_texts(campaign, 80, cut, cut, 50)).verdict == "promoted"


def test_the_same_model_measured_on_more_texts_is_no_collapse(context: Context) -> None:
    decide = {"goal": {"threshold": 0.99}, "max_rounds": 5, "patience": 9}
    campaign = Campaign(context, recipe_of(decide=decide))
    easy = human_texts(900, 0.5, count=20)
    # A run that goes on measures 20 texts more, which are harder for any model.
    hard = [
        text.model_copy(update={"id": f"{text.id}-more", "loss": 2.0}) for text in easy
    ]
    round_with_texts(campaign, 20, easy, easy, 0)
    receipt = round_with_texts(campaign, 60, [*easy, *hard], [*easy, *hard], 20)
    assert told(receipt).verdict == "promoted"
    worse = [text.model_copy(update={"loss": 0.7}) for text in easy]
    receipt = round_with_texts(campaign, 90, [*worse, *hard], [*easy, *hard], 60)
    assert told(receipt).verdict == "rejected"
    assert (
        "perplexity on human text is 1.221 times that of the best model so far"
        in told(receipt).why
    )
