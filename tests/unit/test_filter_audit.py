"""The audit says how precise filters are, which vote is enough, and when a round is blocked."""

from __future__ import annotations

import pytest

from components.contracts.rows import Dropped
from components.errors import UserError
from components.select.filter_audit import Audit
from components.select.filters.consistency import calibrated_share
from components.select.scored_samples import (
    Block,
    Outcome,
    ScoredSample,
    make_scored_samples,
)
from tests.unit.crafted import ask, right_of, say
from tests.unit.selections import account_of, answers, with_settings


def voted(share: float, right: bool, number: int) -> list[ScoredSample]:
    """A prompt of ten samples of which `share` agree, on the right answer or on a wrong one."""
    prompt = ask(f"audit {share} {number}", "7")
    agreeing, samples = round(10 * share), list[str]()
    samples += ["7" if right else "8"] * agreeing + [
        f"other {n}" for n in range(10 - agreeing)
    ]
    return make_scored_samples(
        {prompt.id: prompt},
        [say(prompt, index, text) for index, text in enumerate(samples)],
    )


def audit_samples(shares: dict[float, int], count: int = 100) -> list[ScoredSample]:
    """`count` prompts of each share of votes, of which so many have a right majority."""
    groups = [
        voted(share, verdict, number)
        for share, right in shares.items()
        for number, verdict in enumerate(right_of(count, right))
    ]
    return [
        one
        for group in sorted(groups, key=lambda group: group[0].prompt.id)
        for one in group
    ]


def test_the_vote_threshold_is_the_smallest_that_is_proved_precise() -> None:
    assert calibrated_share(audit_samples({0.3: 20, 0.6: 90, 0.9: 100})) == 0.6
    assert calibrated_share(audit_samples({0.3: 20, 0.6: 60, 0.9: 100})) == 0.9
    assert calibrated_share(audit_samples({0.3: 100, 0.9: 100})) == 0.3
    with pytest.raises(
        UserError,
        match=r"of 300 audit prompts .* best lower bound of the precision is 0\.\d+",
    ):
        calibrated_share(audit_samples({0.3: 20, 0.6: 60, 0.9: 80}))
    with pytest.raises(UserError, match=r"of 5 audit prompts"):
        calibrated_share(audit_samples({0.9: 5}, 5))


def test_a_prompt_is_judged_by_its_majority_whichever_sample_came_first() -> None:
    prompts = [ask(f"first of all {number}", "7") for number in range(100)]
    audit = [one for prompt in prompts for one in answers(prompt, "8", "7", "7", "7")]
    assert calibrated_share(audit) == 0.75
    wrong = [one for prompt in prompts for one in answers(prompt, "7", "8", "8", "8")]
    with pytest.raises(UserError, match=r"best lower bound of the precision is 0\.000"):
        calibrated_share(wrong)


def test_tied_audit_prompts_are_no_evidence_for_a_threshold() -> None:
    audit = audit_samples({0.9: 100})
    tied: list[ScoredSample] = []
    for number in range(100):
        prompt = ask(f"audit tied {number}", "7")
        texts = ["7"] * 5 + ["8"] * 5
        samples = [say(prompt, index, text) for index, text in enumerate(texts)]
        tied += make_scored_samples({prompt.id: prompt}, samples)
    both = sorted([*audit, *tied], key=lambda one: one.key)
    assert calibrated_share(both) == 0.9
    assert calibrated_share(both, ties_count=True) == 0.5


def test_a_calibrated_vote_drops_below_its_threshold() -> None:
    audit = audit_samples({0.3: 20, 0.6: 90, 0.9: 100})
    samples = voted(0.5, True, 1000) + voted(0.7, True, 1001)
    kept, dropped, account = account_of(
        samples, with_settings(calibrate_vote=True), audit=audit
    )
    assert {one.vote_share for one in kept} == {0.7}
    assert account.audit is not None
    assert (account.audit.filters["vote"].precision or 0.0) > 0.94
    assert len(dropped) + len(kept) == 20


def test_the_audit_says_how_good_each_filter_is_and_that_none_of_it_is_trained_on() -> (
    None
):
    audit = audit_samples({0.2: 10, 0.9: 98})
    section = with_settings(min_vote_share=0.5, max_length_ratio=4.0)
    kept, _, account = account_of(voted(0.9, True, 5000), section, audit=audit)
    told = account.audit
    assert told is not None
    assert {one.prompt.text for one in kept} == {"audit 0.9 5000"}
    assert (told.prompts, told.samples) == (200, 2000)
    vote = told.filters["vote"]
    assert (vote.given, vote.accepted, vote.prompts_accepted) == (2000, 900, 100)
    assert vote.precision == pytest.approx(0.98)
    assert vote.recall == pytest.approx(98 * 9 / (98 * 9 + 10 * 2))
    assert vote.accepted_share == pytest.approx(0.45)
    assert 0.93 < vote.precision_low < 0.98
    assert told.model_accuracy == pytest.approx((98 * 0.9 + 10 * 0.2) / 200)
    assert told.teaches_errors == ()


def test_a_filter_that_keeps_the_model_s_errors_is_told_on() -> None:
    """Majorities of this model are wrong more often than its single samples."""
    audit = audit_samples({0.6: 10, 0.2: 90})
    _, _, account = account_of(
        voted(0.6, True, 5000), with_settings(min_vote_share=0.5), audit=audit
    )
    assert account.audit is not None
    assert account.audit.all.precision == pytest.approx(0.1)
    assert account.audit.teaches_errors == ("vote",)
    assert (
        account_of(voted(0.6, True, 5000), with_settings(min_vote_share=0.5))[2].audit
        is None
    )


def test_a_filter_that_is_better_by_what_may_be_chance_is_not_proved_to_help() -> None:
    """Half of the majorities are right, and 3 in 10 samples: few prompts do not prove that."""
    section = with_settings(min_vote_share=0.5)
    for prompts, unproved in ((6, ("vote",)), (100, ())):
        audit = audit_samples({0.6: prompts // 2}, prompts)
        account = account_of(voted(0.6, True, 5000), section, audit=audit)[2]
        assert account.audit is not None
        assert account.audit.model_accuracy == pytest.approx(0.3)
        assert account.audit.all.precision == pytest.approx(0.5)
        assert account.audit.teaches_errors == ()
        assert account.audit.unproved == unproved


@pytest.mark.parametrize(
    ("right", "right_kept", "wrong", "wrong_kept", "verdict"),
    [
        (
            194,
            184,
            6,
            2,
            "helps",
        ),  # 97 % right, 99 % of the kept: strong models have few errors
        (194, 184, 6, 0, "helps"),
        (194, 184, 6, 5, "unproved"),
        (
            194,
            184,
            6,
            6,
            "unproved",
        ),  # six errors do not show that the next is not dropped
        (194, 194, 6, 6, "unproved"),
        (180, 180, 20, 20, "teaches errors"),
        (120, 114, 80, 76, "teaches errors"),
        (120, 72, 80, 48, "teaches errors"),
        (120, 114, 80, 12, "helps"),
        (120, 60, 80, 70, "teaches errors"),
        (200, 100, 0, 0, "helps"),
        (0, 0, 50, 50, "teaches errors"),
        (100, 0, 100, 0, "unproved"),
        (3, 2, 3, 2, "unproved"),
    ],
)
def test_filters_block_a_round_only_if_it_is_shown_that_they_do_not_help(
    right: int, right_kept: int, wrong: int, wrong_kept: int, verdict: str
) -> None:
    prompts = [ask(f"known {number:03d}", "7") for number in range(right + wrong)]
    kept_prompts = {
        prompt.id
        for prompt in [*prompts[:right_kept], *prompts[right : right + wrong_kept]]
    }
    samples = [
        scored
        for number, prompt in enumerate(prompts)
        for scored in answers(prompt, "7" if number < right else "8")
    ]

    def keep(block: Block) -> Outcome:
        return [scored for scored in block if scored.prompt.id in kept_prompts], [
            Dropped(reason="x", detail="", row={})
            for scored in block
            if scored.prompt.id not in kept_prompts
        ]

    audit = Audit(sorted(samples, key=lambda scored: scored.key))
    audit.pass_through("mine", keep)
    found = audit.summary()
    assert found is not None
    assert found.teaches_errors == (("mine",) if verdict == "teaches errors" else ())
    assert found.unproved == (("mine",) if verdict == "unproved" else ())
