"""The filters that a recipe may turn on: contamination, difficulty, paths, the choice among what
is left, calibrated votes; the audit."""

from __future__ import annotations

import itertools
import random

import pytest

from components.contracts.recipe import SelectSection
from components.contracts.rows import Dropped, Prompt, TrainingRow
from components.errors import UserError
from components.select.attribute_shift import Balanced, attributes, distances
from components.select.filter_audit import Audit
from components.select.filters.consistency import calibrated_share
from components.select.filters.repeats import edit_distance, equations
from components.select.scored_samples import Block, Outcome, ScoredSample, make_scored_samples
from tests.unit.crafted import right_of
from tests.unit.selections import account_of, answers, ask, kept_texts, reasons, say, select
from tests.unit.test_filters import sentence
from tests.unit.test_mix import rows

OPEN = SelectSection(verifier=False, max_length_ratio=1000.0, minhash_threshold=1.0)
QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def with_settings(**settings: object) -> SelectSection:
    return SelectSection.model_validate({**OPEN.model_dump(), **settings})


def asked(text: str) -> list[ScoredSample]:
    return answers(ask(text, "72"), "She sold 72.")


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        QUESTION.upper().replace(",", " ;"),
        QUESTION.replace("Natalia", "Weng"),
        f"Please solve this carefully. {QUESTION} Think step by step.",
        QUESTION.replace("friends", "pals").replace("altogether", "in total"),
    ],
)
def test_a_reworded_evaluation_question_never_teaches_where_the_firewall_is_asked_to_look(
    text: str,
) -> None:
    evaluation = [(ask(QUESTION, "72"), "She sold 48/2 = 24 clips in May.")]
    section = with_settings(contamination="overlap")
    assert reasons(select(asked(text), section, evaluation=evaluation)) == {"in_evaluation": 1}
    # Without, other words are another question.
    whole = "atalia" in text.lower() and "pals" not in text
    assert (
        reasons(select(asked(text), OPEN, evaluation=evaluation)) == {"in_evaluation": 1}
    ) is whole


def test_the_answer_of_an_evaluation_item_is_no_training_text_either() -> None:
    solution = (
        "She sold 48 divided by 2 which is 24 clips in May so 48 plus 24 is 72 clips altogether"
    )
    leaked = answers(
        ask("Tell me about clips.", "?"), f"Well: {solution}.", "No idea about any clips."
    )
    outcome = select(
        leaked, with_settings(contamination="overlap"), evaluation=[(ask(QUESTION, "72"), solution)]
    )
    assert kept_texts(outcome) == ["No idea about any clips."]


def test_other_questions_and_those_of_a_shared_template_pass_the_firewall() -> None:
    template = "Find the greatest common divisor of two whole numbers and give nothing but the answer as a numeral: {}"
    evaluation = [(ask(template.format(f"{n} and {n + 7}"), "1"), "1") for n in range(100, 120)]
    other = ask(
        "A farmer has 12 cows and buys 5 more at the market on Monday. How many cows does he have now?",
        "17",
    )
    outcome = select(
        answers(other, "17"), with_settings(contamination="overlap"), evaluation=evaluation
    )
    assert reasons(outcome) == {}
    short, like = answers(ask("12+35=", "47"), "47"), [(ask("12+34=", "46"), "46")]
    assert reasons(select(short, with_settings(contamination="overlap"), evaluation=like)) == {}


@pytest.mark.parametrize(("items", "dropped"), [(9, {"in_evaluation": 1}), (10, {})])
def test_a_run_of_words_that_ten_evaluation_items_share_is_their_template(
    items: int, dropped: dict[str, int]
) -> None:
    run = "give the answer as one whole number with nothing before it or after it"
    evaluation = [(ask(f"Item {'abcdefghijk'[n] * 9}: {run}", "1"), "1") for n in range(items)]
    outcome = select(
        answers(ask("Say something of your own.", "?"), f"They say: {run}."),
        with_settings(contamination="overlap"),
        evaluation=evaluation,
    )
    assert reasons(outcome) == dropped


def test_thirteen_words_in_a_row_are_needed_and_enough() -> None:
    question = "Tell: the quick brown fox jumps over the lazy dog near a calm river bank"
    words = question.split()[1:]
    evaluation = [(ask(question, "?"), "1")]
    section = with_settings(contamination="overlap")
    for count, kept in ((12, 1), (13, 0)):
        text = " ".join(["I", "like", *words[:count], "much"])
        outcome = select(answers(ask("Say something.", "?"), text), section, evaluation=evaluation)
        assert len(outcome[0]) == kept


def test_solved_prompts_are_replayed_a_little_and_half_solved_ones_count_most() -> None:
    solved = [
        one
        for n in range(200)
        for one in answers(ask(f"easy {chr(97 + n % 26)} {n}", "1"), "1", "1 ")
    ]
    half = answers(ask("half", "1"), "1", "2", "1 ", "3")
    rare = answers(ask("rare", "1"), "1", "2", "3", "4", "5", "6", "7", "8")
    hopeless = answers(ask("hopeless", "1"), "2", "3")
    section = SelectSection(minhash_threshold=1.0, difficulty={"replay": 0.1})
    kept, dropped = select([*solved, *half, *rare, *hopeless], section, seed=3)
    weights = {one.prompt.text: one.weight for one in kept}
    assert weights["half"] == 1.0
    assert weights["rare"] == pytest.approx(4 * 1 / 8 * 7 / 8)
    replayed = [one for one in kept if one.prompt.text.startswith("easy")]
    assert 8 <= len(replayed) <= 35
    assert {one.weight for one in replayed} == {4 * 0.75 * 0.25}
    assert {row.row["prompt"] for row in dropped if row.reason == "solved"}.isdisjoint(
        {"half", "rare", "hopeless"}
    )
    assert all(one.prompt.text != "hopeless" for one in kept)


def test_difficulty_without_a_verifier_is_an_error_of_the_recipe() -> None:
    with pytest.raises(ValueError, match="difficulty needs"):
        SelectSection(verifier=False, difficulty={})


def test_of_answers_by_the_same_equations_the_most_unlike_stays() -> None:
    same = "48/2 = 24 in May. 48+24 = 72 in all."
    texts = [
        same,
        f"First of all, {same}",
        f"Let us see what she did in May and then in April: {same}",
        "48+48/2 = 72 clips.",
        "It is 72.",
        "Surely 72.",
    ]
    outcome = select(answers(ask("clips", "?"), *texts), with_settings(distinct_paths=True))
    assert kept_texts(outcome) == texts[2:]
    assert reasons(outcome) == {"same_path": 2}


def test_equations_are_read_in_order_however_they_are_spaced() -> None:
    assert equations("She sold 48 / 2 = <<48/2=24>>24 clips.\nSo 48+24 = 72.") == equations(
        "48/2 = <<48/2=24>>24; so\n48 + 24=72"
    )
    assert equations("no numbers at all") == ()
    assert equations("3+4 = 7") != equations("4+3 = 7")


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_edit_distance_is_levenshteins(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize("by", ["diversity", "k-centre"])
def test_a_diverse_choice_covers_what_a_flood_of_like_rows_would_hide(by: str) -> None:
    draw = random.Random(4)
    begin = "tell me something about the sheep that graze"
    cased = {"".join(draw.choice((letter, letter.upper())) for letter in begin) for _ in range(120)}
    flood = [
        one
        for text in sorted(cased)
        for one in answers(ask(text, "?"), "a white sheep on a green hill")
    ]
    rare = [one for n in range(8) for one in answers(ask(f"rare {n}", "?"), sentence(draw))]
    choice = {"by": by, "rows": 16, "clusters": 16}
    kept, dropped = select([*flood, *rare], with_settings(keep=choice))
    assert len(kept) == 16
    assert sum(one.prompt.text.startswith("rare") for one in kept) >= 7
    assert {row.reason for row in dropped} == {"choice"}
    assert select([*flood, *rare], with_settings(keep=choice))[0] == kept, (
        "the choice is the same every time"
    )


SCORES = {"1": 0.5, "2": 0.9, "3": 0.1, "4": None, "5": 0.7, "6": 0.3}
"""Text of a sample → its score by whatever scorer is asked; 4 is too long for the model."""


@pytest.mark.parametrize(
    ("by", "kept", "scorer"),
    [
        ("influence", {"2", "5", "1"}, "influence"),
        # A perplexity: the lowest is the likeliest.
        ("likelihood", {"3", "6", "1"}, "base"),
        ("difficulty", {"2", "5", "1"}, "difficulty"),
    ],
)
def test_strategies_keep_as_many_samples_and_say_by_which_score(
    by: str, kept: set[str], scorer: str
) -> None:
    asked_for: list[str] = []

    def score(block: Block) -> list[float | None]:
        asked_for.extend(one.text for one in block)
        return [SCORES[one.text] for one in block]

    samples = answers(ask("q", "?"), *SCORES)
    section = with_settings(keep={"by": by, "share": 0.5})
    outcome, dropped, account = account_of(samples, section, scorers={scorer: score})
    assert {one.text for one in outcome} == kept
    assert {one.text: one.scores for one in outcome} == {
        text: {scorer: SCORES[text]} for text in kept
    }
    assert account.by_reason == {"choice": 2, "unscored": 1}
    assert {row.row["scores"][scorer] for row in dropped if row.reason == "choice"} == {
        SCORES[text] for text in SCORES.keys() - kept - {"4"}
    }
    assert sorted(asked_for) == sorted(SCORES), "each sample is scored once"
    for other in ("random", "diversity", "k-centre", "score"):
        section = with_settings(keep={"by": other, "share": 0.5})
        assert len(select(samples, section)[0]) == 3


def test_the_top_score_and_the_most_undecided_prompts_are_kept() -> None:
    agreed = answers(ask("agreed", "?"), "1", "1 ", "1  ", "2")
    split = answers(ask("split", "?"), "1", "2", "3", "4")
    both = [*agreed, *split]
    top = select(both, with_settings(keep={"by": "score", "rows": 2}))
    assert {one.prompt.text for one in top[0]} == {"agreed"}
    undecided = ask("undecided", "1"), ask("nearly sure", "1")
    right = [
        *answers(undecided[0], "1", "1 ", "2", "3"),
        *answers(undecided[1], "1", "1 ", "1  ", "2"),
    ]
    section = SelectSection(keep={"by": "difficulty", "share": 0.5}, minhash_threshold=1.0)
    assert {one.prompt.text for one in select(right, section)[0]} == {"undecided"}
    assert len(select(both, with_settings(keep={"by": "random", "rows": 3}))[0]) == 3
    assert len(select(agreed, with_settings(keep={"by": "random", "rows": 30}))[0]) == 2
    smaller = {"by": "random", "rows": 3, "share": 0.2}
    assert len(select(both, with_settings(keep=smaller))[0]) == 2
    with pytest.raises(ValueError, match="give `share` or `rows`"):
        with_settings(keep={"by": "random"})


def voted(share: float, right: bool, number: int) -> list[ScoredSample]:
    """A prompt of ten samples of which `share` agree, on the right answer or on a wrong one."""
    prompt = ask(f"audit {share} {number}", "7")
    agreeing, samples = round(10 * share), list[str]()
    samples += ["7" if right else "8"] * agreeing + [f"other {n}" for n in range(10 - agreeing)]
    return make_scored_samples(
        {prompt.id: prompt}, [say(prompt, index, text) for index, text in enumerate(samples)]
    )


def audit_samples(shares: dict[float, int], count: int = 100) -> list[ScoredSample]:
    """`count` prompts of each share of votes, of which so many have a right majority."""
    groups = [
        voted(share, verdict, number)
        for share, right in shares.items()
        for number, verdict in enumerate(right_of(count, right))
    ]
    return [one for group in sorted(groups, key=lambda group: group[0].prompt.id) for one in group]


def test_the_vote_threshold_is_the_smallest_that_is_proved_precise() -> None:
    assert calibrated_share(audit_samples({0.3: 20, 0.6: 90, 0.9: 100})) == 0.6
    assert calibrated_share(audit_samples({0.3: 20, 0.6: 60, 0.9: 100})) == 0.9
    assert calibrated_share(audit_samples({0.3: 100, 0.9: 100})) == 0.3
    with pytest.raises(
        UserError, match=r"of 300 audit prompts .* best lower bound of the precision is 0\.\d+"
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
    kept, dropped, account = account_of(samples, with_settings(calibrate_vote=True), audit=audit)
    assert {one.vote_share for one in kept} == {0.7}
    assert account.audit is not None
    assert (account.audit.filters["vote"].precision or 0.0) > 0.94
    assert len(dropped) + len(kept) == 20


def test_the_audit_says_how_good_each_filter_is_and_that_none_of_it_is_trained_on() -> None:
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
    assert account_of(voted(0.6, True, 5000), with_settings(min_vote_share=0.5))[2].audit is None


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
        (194, 184, 6, 2, "helps"),  # 97 % right, 99 % of the kept: strong models have few errors
        (194, 184, 6, 0, "helps"),
        (194, 184, 6, 5, "unproved"),
        (194, 184, 6, 6, "unproved"),  # six errors do not show that the next is not dropped
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
        prompt.id for prompt in [*prompts[:right_kept], *prompts[right : right + wrong_kept]]
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


def test_bias_is_nothing_for_like_rows_and_one_for_rows_with_nothing_in_common() -> None:
    labelled = attributes(rows(100, 0))
    assert distances(attributes(rows(100, 1)), labelled) == {
        "length": 0.0,
        "answer": 0.0,
        "slice": 0.0,
    }
    other = [
        row.model_copy(update={"completion": "x" * 500, "tags": {"task": "essay"}, "id": str(n)})
        for n, row in enumerate(rows(100, 1))
    ]
    assert distances(attributes(other), labelled) == {"length": 1.0, "answer": 1.0, "slice": 1.0}
    assert distances(attributes([]), labelled) == {}


def test_bias_sees_a_class_that_is_no_longer_answered() -> None:
    def labels(*answers: str) -> list[TrainingRow]:
        texts = itertools.cycle(answers)
        return [row.model_copy(update={"completion": next(texts)}) for row in rows(100, 1)]

    even, one_sided = attributes(labels("yes", "no")), attributes(labels("yes"))
    assert distances(one_sided, even)["answer"] == pytest.approx(0.558, abs=0.01)
    # Weights bring it back, unless an answer is too rare for a factor of four.
    most = labels("yes", "yes", "yes", "no")
    balanced = Balanced(most, even)
    assert distances(attributes(most), even)["answer"] > 0.15
    assert distances(attributes(balanced), even)["answer"] == pytest.approx(0, abs=1e-6)
    assert [row.id for row in balanced] == [row.id for row in balanced] == [row.id for row in most]
    rare = Balanced(labels(*["yes"] * 19, "no"), even)
    assert {row.completion: row.weight for row in rare} == {"yes": pytest.approx(10 / 19), "no": 4}


def test_prompts_of_any_kind_of_id_are_all_there() -> None:
    odd = Prompt(id="not-hex", text="odd", verifier="exact", reference={"answer": "1"})
    samples = make_scored_samples({"not-hex": odd}, [say(odd, 0, "1")])
    assert kept_texts(select(samples, SelectSection())) == ["1"]
