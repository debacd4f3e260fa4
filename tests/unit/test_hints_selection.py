"""What select makes of samples with a hint, and which prompts wait for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from components.contracts.rows import Dropped, HardPrompt, Prompt, prompt_id
from components.contracts.summaries.select import HintPool
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from components.select.scored_samples import BLOCK_SAMPLES
from components.select.step import SelectInputs
from components.select.step import run as select
from components.verifiers import reference_answer
from tests.unit.crafted import ask as ask_exactly
from tests.unit.crafted import generated, rows
from tests.unit.hinted import EASY, HARD, SUMS, Said, after, ask, begun, hinted_counts
from tests.unit.selecting import summary_of


def selected(
    context: Context,
    texts: Said,
    helped: Said,
    *,
    before: Sequence[Receipt] = (),
    **settings: Any,
) -> Receipt:
    """One round of selection; a template of words by default."""
    options: dict[str, Any] = {"hints": {}, **settings}
    state = begun(context, SUMS, **options)
    shard = generated(
        context,
        [one for one, _ in texts],
        {one.text: own for one, own in texts},
        round=1 + len(before),
        hinted=helped if options["hints"] is not None else None,
    )
    return select(SelectInputs(after(context, state, *before), (shard,)), context)


TEXTS: Said = [
    *(
        (one, [f"{one.text}{reference_answer(one)}", "so it is 9", "none"])
        for one in EASY
    ),
    *((one, ["it is 9", "9", "well, 9"]) for one in HARD),
]
HELPED: Said = [
    (
        HARD[0],
        ["one and none make 1", "Hint for a derivation: it is 1", "it comes to 2"],
    ),
    (HARD[1], ["3", "The answer is 3.", "$\\boxed{3}$"]),
    (HARD[2], ["no idea: 7", ""]),
]


def test_hinted_samples_are_counted_apart_and_count_for_nothing_else(
    context: Context,
) -> None:
    audit = [ask(f"{n}+90=", str(n + 90)) for n in range(30)]
    texts = [*TEXTS, *((one, [reference_answer(one), "0", "1"]) for one in audit)]
    common: dict[str, Any] = {
        "audit": audit,
        # Each of a prompt's samples says something else: a tie, of which the first is right.
        "select": {
            "min_vote_share": 0.3,
            "tie_goes_to_first": True,
            "difficulty": {"replay": 1.0},
        },
    }
    receipt = selected(context, texts, HELPED, **common)
    without = selected(context, texts, [], **{**common, "hints": None})
    # The bias is that of the rows, whoever wrote them.
    apart = {"hinted", "too_hard", "self_rows", "bias", "filters", "shards"}
    assert summary_of(receipt).model_dump(exclude=apart) == summary_of(
        without
    ).model_dump(exclude=apart)
    counts = hinted_counts(receipt)
    assert counts.dropped == {
        "empty": 1,
        "leaked_hint": 1,
        "parroted_hint": 3,
        "verifier": 2,
    }
    assert (
        counts.prompts,
        counts.generated,
        counts.accepted,
        counts.prompts_accepted,
    ) == (
        3,
        8,
        1,
        1,
    )
    assert summary_of(receipt).self_rows == summary_of(without).self_rows + 1
    accepted, dropped = (
        rows(context, receipt, "accepted.jsonl"),
        rows(context, receipt, "dropped.jsonl", Dropped),
    )
    assert len(accepted) + len(dropped) == summary_of(receipt).generated + 8
    assert sum(bool(row.row.get("hinted")) for row in dropped) == 7
    [row] = [row for row in accepted if row.provenance.get("hinted")]
    assert row.completion == "one and none make 1"
    assert row.weight > 0
    hard = {
        one.prompt_id for one in rows(context, receipt, "too_hard.jsonl", HardPrompt)
    }
    assert hard == {one.id for one in HARD[1:]}, (
        "but no prompt of the audit, and not the one that was answered"
    )
    assert all(
        verdict.provenance["pass_rate"] == pytest.approx(1 / 3)
        for verdict in accepted
        if verdict != row
    )


def test_an_exact_answer_to_a_hint_is_no_parrot_where_nothing_else_is_right(
    context: Context,
) -> None:
    word, plain = (
        ask_exactly("capital of France", "Paris"),
        ask_exactly("capital of Peru", "Lima"),
    )
    receipt = selected(
        context,
        [(word, ["Rome"]), (plain, ["Lima"])],
        [(word, ["Paris", "Paris it is"])],
    )
    assert hinted_counts(receipt).dropped == {"verifier": 1}
    assert hinted_counts(receipt).accepted == 1


def test_a_prompt_waits_until_it_is_answered_and_those_hinted_in_vain_wait_behind(
    context: Context,
) -> None:
    one, two, three, four, five = HARD[:5]

    def wrong(*prompts: Prompt) -> Said:
        return [(EASY[0], ["0+0=0"]), *((prompt, ["9", "9"]) for prompt in prompts)]

    first = selected(context, wrong(one, two, three, five), [])
    second = selected(
        context, wrong(four), [(one, ["0+1=1", "9"]), (two, ["8"])], before=[first]
    )
    right = (three, ["9", f"it is {reference_answer(three)}"])
    third = selected(
        context, [*wrong(one), right], [(four, ["8"])], before=[first, second]
    )
    pools = [
        [
            (row.prompt_id, row.round, row.hints)
            for row in rows(context, receipt, "too_hard.jsonl", HardPrompt)
        ]
        for receipt in (first, second, third)
    ]
    assert pools[0] == [
        (identity, 1, 0)
        for identity in sorted(prompt.id for prompt in (one, two, three, five))
    ]
    others = [(identity, 1, 0) for identity in sorted((three.id, five.id))]
    assert pools[1] == [(four.id, 2, 0), *others, (two.id, 1, 1)]
    assert pools[2] == [
        (one.id, 3, 0),
        (five.id, 1, 0),
        (four.id, 2, 1),
        (two.id, 1, 1),
    ], "asked again, too hard again"
    for receipt in (second, third):
        assert summary_of(receipt).too_hard == HintPool(found=1, answered=1, waiting=4)


def test_what_has_no_answer_or_is_evaluated_on_gets_no_hint(context: Context) -> None:
    pattern = Prompt(
        id=prompt_id("say x"),
        text="say x",
        verifier="regex",
        reference={"answer": "x+"},
    )
    mute = Prompt(id=prompt_id("why"), text="why", verifier="numeric")
    leaked = ask("leaked 1+1=", "2")
    texts: Said = [
        (EASY[0], ["0+0=0"]),
        *((one, ["7"]) for one in (HARD[0], mute, leaked)),
        (pattern, ["y"]),
    ]
    receipt = selected(context, texts, [], validation=[leaked])
    assert [
        row.prompt_id for row in rows(context, receipt, "too_hard.jsonl", HardPrompt)
    ] == [HARD[0].id]


def test_answers_with_and_without_a_hint_are_known_to_be_the_same_in_any_block(
    context: Context,
) -> None:
    prompts = [ask(f"what is {n}+1=", str(n + 1)) for n in range(BLOCK_SAMPLES // 2)]
    right = [(one, reference_answer(one)) for one in prompts]
    # Three rows that pass, of each prompt: a block is full after one's two without a hint.
    texts: Said = [
        (one, [f"it must be {answer}", f"one more is {answer}"])
        for one, answer in right
    ]
    helped: Said = [(one, [f"it must be {answer}"]) for one, answer in right]
    receipt = selected(context, texts, helped, select={"minhash_threshold": 1.0})
    said = Counter(
        (row.prompt, row.completion) for row in rows(context, receipt, "accepted.jsonl")
    )
    assert set(said.values()) == {1}
    assert hinted_counts(receipt).dropped == {"duplicate": len(prompts)}
    assert summary_of(receipt).accepted == len(said) == 2 * len(prompts)
