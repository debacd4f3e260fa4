"""Prompts that are too hard are tried again with their answer as a hint, and what the model then
says may teach."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.canonical import canonical_json
from components.contracts.recipe import Hints, SelectSection
from components.contracts.rows import (
    Dropped,
    HardPrompt,
    Prompt,
    Sample,
    TrainingRow,
    prompt_id,
    read_rows,
)
from components.contracts.state import State
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.contracts.summaries.select import HintedCounts, HintPool
from components.errors import Transient, UserError
from components.generate.hint_prompts import hinted
from components.generate.step import GenerateInputs
from components.generate.step import run as generate
from components.modeling.load import save_checkpoint
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary, receipt_uri
from components.select.filters.hint_leaks import own_words
from components.select.scored_samples import BLOCK_SAMPLES
from components.select.step import SelectInputs
from components.select.step import run as select
from components.verifiers import reference_answer, verify
from tests.doubles.openai_api import MODEL, OpenAiApi
from tests.unit.crafted import PLAN, generated, recipe_of, store
from tests.unit.crafted import ask as ask_exactly
from tests.unit.tiny import save_tiny, tiny_model

TEMPLATE = "{prompt}({answer})"


def ask(text: str, answer: str, **tags: str) -> Prompt:
    """A prompt whose answer is the last number that is said."""
    return Prompt(
        id=prompt_id(text), text=text, verifier="numeric", reference={"answer": answer}, tags=tags
    )


SUMS = [ask(f"{a}+{b}=", str(a + b)) for a in range(5) for b in range(5)]
Said = list[tuple[Prompt, Sequence[str]]]
HARD = [one for one in SUMS if int(str(one.reference["answer"])) % 2]
EASY = [one for one in SUMS if one not in HARD]


def told(receipt: Receipt) -> SelectSummary:
    """What select says of a round."""
    return read_summary(receipt, SelectSummary)


def hinted_counts(receipt: Receipt) -> HintedCounts:
    """What became of a round's samples with a hint."""
    counts = told(receipt).hinted
    assert counts is not None
    return counts


def rows(context: Context, receipt: Receipt, name: str, kind: Any = TrainingRow) -> list[Any]:
    return list(read_rows(fetch(context, receipt, name), kind))


def begun(
    context: Context,
    prompts: Sequence[Prompt],
    *,
    champion: Receipt | None = None,
    hints: dict[str, Any] | None,
    audit: Sequence[Prompt] = (),
    validation: Sequence[Prompt] = (),
    select: dict[str, Any] | None = None,
    samples: int = 4,
    peers: int = 1,
    **section: Any,
) -> str:
    """URI of a state after round 0 of a campaign whose rounds ask `prompts`."""
    settings = {
        "prompts_per_round": len(prompts),
        "max_new_tokens": 8,
        "batch_size": 16,
        "shards": 1,
        **section,
    }
    recipe = recipe_of(
        generate={**settings, "hints": hints},
        select={
            "minhash_threshold": 1.0,
            "min_accepted": 1,
            "max_length_ratio": 10.0,
            **(select or {}),
        },
        train={"num_peers": peers},
    )
    splits = {
        "unlabelled": prompts,
        "audit": audit,
        "validation": validation,
        "train": (),
        "test": (),
    }
    prepared = store(
        context, "prepare", {f"splits/{name}.jsonl": own for name, own in splits.items()}, {}
    )
    state = State(
        run_id="crafted-run",
        prepared=prepared.ref,
        round=0,
        champion_round=0,
        plan=PLAN.model_copy(update={"samples_per_prompt": samples}),
        champion=champion.ref if champion is not None else "train/champion",
    )
    files = {
        name: canonical_json(one.model_dump(mode="json"))
        for name, one in (("recipe.json", recipe), ("state.json", state))
    }
    return receipt_uri(context, store(context, "start", files, {}))


def after(context: Context, uri: str, *selections: Receipt) -> str:
    """URI of the state of the same campaign after as many rounds as there are selections."""
    start = json.loads(context.store.get_bytes(uri.removeprefix(f"{context.store.root}/")))
    state = State.model_validate_json(context.store.get_bytes(_object(start, "state.json")))
    changes = {"round": len(selections), "selections": tuple(one.ref for one in selections)}
    files = {
        "recipe.json": context.store.get_bytes(_object(start, "recipe.json")),
        "state.json": canonical_json(state.model_copy(update=changes).model_dump(mode="json")),
    }
    return receipt_uri(context, store(context, "start", files, changes))


def _object(receipt: dict[str, Any], name: str) -> str:
    sha256 = str(receipt["objects"][name]["sha256"])
    return f"objects/{sha256[:2]}/{sha256}"


# A model that needs the hint


@pytest.fixture(scope="module")
def champion_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tiny decoder that adds up where the sum is even, says 9 where it is odd, and with a hint
    says what it adds up and then the hint."""
    folder = tmp_path_factory.mktemp("champion")
    model, codec = tiny_model("llama", max_length=32)
    answers = {one.text: reference_answer(one) for one in SUMS}
    pairs = [(hinted(one, TEMPLATE).text, one.text + answers[one.text]) for one in SUMS]
    pairs += [(one.text, one.text + (answers[one.text] if one in EASY else "9")) for one in SUMS]
    encoded = [codec.row_ids(prompt, completion) for prompt, completion in pairs]
    length = max(len(row) for row, _ in encoded)
    ids = torch.tensor([row + [codec.pad_id] * (length - len(row)) for row, _ in encoded])
    places = torch.arange(length)
    # What follows a row is seen by none of its tokens and bears no loss.
    taught = torch.stack([(places >= masked) & (places < len(row)) for row, masked in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids.masked_fill(~taught, -100)).loss.backward()
        optimizer.step()
    save_checkpoint(model.eval(), codec.tokenizer, folder)
    return {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_prompts_the_model_never_answers_teach_in_the_next_round_without_the_hint(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    state = begun(context, SUMS, champion=champion, hints={"template": TEMPLATE}, shards=2)
    selections: list[Receipt] = []
    for _ in range(2):
        uri = after(context, state, *selections)
        shards = tuple(generate(GenerateInputs(uri, shard), context) for shard in range(2))
        selections.append(select(SelectInputs(uri, shards), context))
    first, second = selections
    hard = {one.id: one for one in HARD}
    assert {row.prompt_id for row in rows(context, first, "too_hard.jsonl", HardPrompt)} == set(
        hard
    )
    assert told(first).too_hard == HintPool(found=12, answered=0, waiting=12)
    assert hinted_counts(first).generated == 0
    helped = [
        row for row in rows(context, second, "accepted.jsonl") if row.provenance.get("hinted")
    ]
    assert {row.provenance["prompt_id"] for row in helped} == set(hard), (
        "every hard prompt has its row"
    )
    for row in helped:
        prompt = hard[row.provenance["prompt_id"]]
        assert row.prompt == prompt.text, (
            "the row's prompt is the prompt as it is, not as the model saw it"
        )
        assert row.completion == prompt.text + reference_answer(prompt), (
            "the way to the answer, then the answer"
        )
        assert verify(prompt, row.completion)
        assert "pass_rate" not in row.provenance
        assert row in [
            one.model_copy(update={"weight": row.weight})
            for one in rows(context, second, "mix.jsonl")
        ]
    assert hinted_counts(second).prompts_accepted == 12
    assert told(second).too_hard == HintPool(found=12, answered=12, waiting=0)
    # Without a hint it is as wrong as before, and that is what the round tells of the model.
    assert told(second).prompts_accepted == told(first).prompts_accepted == 13
    assert told(second).acceptance == told(first).acceptance


def test_hints_change_no_other_sample_and_no_division_changes_any(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    pool = store(
        context,
        "select",
        {"too_hard.jsonl": [HardPrompt(prompt_id=one.id, round=1) for one in HARD]},
        {},
    )
    drawn = []
    for shards, hints in ((1, True), (3, True), (1, False)):
        section = (
            {"template": TEMPLATE, "samples_per_prompt": 2, "prompts_per_round": 8}
            if hints
            else None
        )
        state = begun(context, SUMS, champion=champion, hints=section, shards=shards)
        receipts = [
            generate(GenerateInputs(after(context, state, pool), one), context)
            for one in range(shards)
        ]
        names = ("samples.jsonl", "hinted_samples.jsonl") if hints else ("samples.jsonl",)
        drawn.append(
            [
                sorted(
                    (one for receipt in receipts for one in rows(context, receipt, name, Sample)),
                    key=lambda one: (one.prompt_id, one.index),
                )
                for name in names
            ]
        )
    assert drawn[0] == drawn[1]
    assert drawn[2][0] == drawn[0][0]
    assert {one.prompt_id for one in drawn[0][1]} == {one.id for one in HARD[:8]}, (
        "the first eight of the pool"
    )
    assert {one.index for one in drawn[0][1]} == {4, 5}
    assert len({one.seed for one in (*drawn[0][0], *drawn[0][1])}) == 4 * 25 + 2 * 8


def test_every_peer_is_shown_its_share_of_the_hints(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    random_peer = {f"peer-1/{name}": tiny for name, tiny in _random_files().items()}
    champion = store(context, "train", {**champion_files, **random_peer}, {"round": 0})
    pool = store(
        context,
        "select",
        {"too_hard.jsonl": [HardPrompt(prompt_id=one.id, round=1) for one in HARD]},
        {},
    )
    for wanted in (1, 2):
        section = {"template": TEMPLATE, "samples_per_prompt": wanted}
        state = begun(context, SUMS, champion=champion, hints=section, samples=3, peers=2)
        shard = generate(GenerateInputs(after(context, state, pool), 0), context)
        right = Counter(
            (
                one.index,
                verify(next(sum_of for sum_of in HARD if sum_of.id == one.prompt_id), one.text),
            )
            for one in rows(context, shard, "hinted_samples.jsonl", Sample)
        )
        # Sample 3 is of the peer that knows nothing, sample 4 of the champion.
        assert right[3, False] > right[3, True]
        assert right[4, True] == (12 if wanted == 2 else 0)
        assert right.total() == 12 * wanted


def _random_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {
            path.name: path.read_bytes()
            for path in save_tiny(Path(folder), "llama", max_length=32).iterdir()
        }


def test_without_hints_a_round_is_addressed_and_written_as_ever(
    context: Context, champion_files: dict[str, bytes]
) -> None:
    champion = store(context, "train", champion_files, {"round": 0})
    plain = begun(context, SUMS, champion=champion, hints=None)
    shard = generate(GenerateInputs(plain, 0), context)
    receipt = select(SelectInputs(plain, (shard,)), context)
    assert "hints" not in shard.config["section"]
    assert shard.inputs.keys() == {"prepare", "champion"}
    assert shard.objects.keys() == {"prompts.jsonl", "samples.jsonl"}
    assert receipt.objects.keys() == {"accepted.jsonl", "dropped.jsonl", "mix.jsonl"}
    assert "hint" not in receipt.config
    assert read_summary(shard, GenerateSummary).hinted is None
    assert (told(receipt).hinted, told(receipt).too_hard) == (None, None)
    assert not any("hinted" in row.row for row in rows(context, receipt, "dropped.jsonl", Dropped))


# Another engine, and a shard that is cut short


class Solver(OpenAiApi):
    """Adds up where the sum is even or it is told."""

    def completion(self, payload: dict[str, Any]) -> dict[str, Any]:
        done = super().completion(payload)
        text = payload["messages"][-1]["content"]
        prompt, _, hint = text.removesuffix(")").partition("(")
        sum_of = next(str(one.reference["answer"]) for one in SUMS if one.text == prompt)
        answer = hint or (sum_of if int(sum_of) % 2 == 0 else "9")
        done["choices"][0] |= {
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": prompt + answer},
        }
        return done


@pytest.fixture
def solver() -> Iterator[Solver]:
    server = Solver()
    yield server
    server.close()


def test_an_endpoint_is_shown_hints_too_and_a_shard_goes_on_after_its_last_hinted_batch(
    context: Context, solver: Solver
) -> None:
    context = dataclasses.replace(context, environment=solver.environment)
    asked = {"model": MODEL, "concurrency": 1, "max_retries": 0}
    champion = store(context, "train", {"model/config.json": b"{}"}, {})
    state = begun(
        context,
        SUMS,
        champion=champion,
        hints={"template": TEMPLATE},
        engine="openai",
        endpoint=asked,
        samples=1,
    )
    first = select(SelectInputs(state, (generate(GenerateInputs(state, 0), context),)), context)
    uri = after(context, state, first)
    solver.answers_left = 25 + 4
    with pytest.raises(Transient):
        generate(GenerateInputs(uri, 0), context)
    saved = [key.rpartition("-")[2] for key in context.store.list("progress/")]
    # Twenty-five prompts in four batches, then twelve hinted ones in four, of which one was done.
    assert saved == [f"{number:05d}.json" for number in range(5)]
    for key in list(context.store.list("replay/")):
        context.store.delete(key)
    solver.payloads.clear()
    solver.answers_left = None
    shard = generate(GenerateInputs(uri, 0), context)
    assert len(solver.payloads) == 9, "only what was not saved is asked again"
    assert {one["messages"][-1]["content"] for one in solver.payloads} <= {
        hinted(one, TEMPLATE).text for one in HARD
    }
    assert not list(context.store.list("progress/"))
    receipt = select(SelectInputs(uri, (shard,)), context)
    assert hinted_counts(receipt).prompts_accepted == 12
    counts = read_summary(shard, GenerateSummary)
    assert counts.hinted is not None
    assert (counts.hinted.generated, counts.generated) == (12, 25)


# What select makes of it


def selected(
    context: Context, texts: Said, helped: Said, *, before: Sequence[Receipt] = (), **settings: Any
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
    *((one, [f"{one.text}{reference_answer(one)}", "so it is 9", "none"]) for one in EASY),
    *((one, ["it is 9", "9", "well, 9"]) for one in HARD),
]
HELPED: Said = [
    (HARD[0], ["one and none make 1", "Hint for a derivation: it is 1", "it comes to 2"]),
    (HARD[1], ["3", "The answer is 3.", "$\\boxed{3}$"]),
    (HARD[2], ["no idea: 7", ""]),
]


def test_hinted_samples_are_counted_apart_and_count_for_nothing_else(context: Context) -> None:
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
    assert told(receipt).model_dump(exclude=apart) == told(without).model_dump(exclude=apart)
    counts = hinted_counts(receipt)
    assert counts.dropped == {"empty": 1, "leaked_hint": 1, "parroted_hint": 3, "verifier": 2}
    assert (counts.prompts, counts.generated, counts.accepted, counts.prompts_accepted) == (
        3,
        8,
        1,
        1,
    )
    assert told(receipt).self_rows == told(without).self_rows + 1
    accepted, dropped = (
        rows(context, receipt, "accepted.jsonl"),
        rows(context, receipt, "dropped.jsonl", Dropped),
    )
    assert len(accepted) + len(dropped) == told(receipt).generated + 8
    assert sum(bool(row.row.get("hinted")) for row in dropped) == 7
    [row] = [row for row in accepted if row.provenance.get("hinted")]
    assert row.completion == "one and none make 1"
    assert row.weight > 0
    hard = {one.prompt_id for one in rows(context, receipt, "too_hard.jsonl", HardPrompt)}
    assert hard == {one.id for one in HARD[1:]}, (
        "but no prompt of the audit, and not the one that was answered"
    )
    assert all(
        verdict.provenance["pass_rate"] == pytest.approx(1 / 3)
        for verdict in accepted
        if verdict != row
    )


def test_what_gives_a_hint_away_is_its_own_words() -> None:
    assert own_words("{prompt}\n(Hint: {answer})") == ["hint", ")"]
    assert own_words(TEMPLATE) == ["(", ")"]
    assert own_words("Knowing that it is {answer}, {prompt}") == ["knowing that it is", ","]
    assert "a derivation it comes" in own_words(Hints().template)


def test_an_exact_answer_to_a_hint_is_no_parrot_where_nothing_else_is_right(
    context: Context,
) -> None:
    word, plain = ask_exactly("capital of France", "Paris"), ask_exactly("capital of Peru", "Lima")
    receipt = selected(
        context, [(word, ["Rome"]), (plain, ["Lima"])], [(word, ["Paris", "Paris it is"])]
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
    second = selected(context, wrong(four), [(one, ["0+1=1", "9"]), (two, ["8"])], before=[first])
    right = (three, ["9", f"it is {reference_answer(three)}"])
    third = selected(context, [*wrong(one), right], [(four, ["8"])], before=[first, second])
    pools = [
        [
            (row.prompt_id, row.round, row.hints)
            for row in rows(context, receipt, "too_hard.jsonl", HardPrompt)
        ]
        for receipt in (first, second, third)
    ]
    assert pools[0] == [
        (identity, 1, 0) for identity in sorted(prompt.id for prompt in (one, two, three, five))
    ]
    others = [(identity, 1, 0) for identity in sorted((three.id, five.id))]
    assert pools[1] == [(four.id, 2, 0), *others, (two.id, 1, 1)]
    assert pools[2] == [(one.id, 3, 0), (five.id, 1, 0), (four.id, 2, 1), (two.id, 1, 1)], (
        "asked again, too hard again"
    )
    for receipt in (second, third):
        assert told(receipt).too_hard == HintPool(found=1, answered=1, waiting=4)


def test_what_has_no_answer_or_is_evaluated_on_gets_no_hint(context: Context) -> None:
    pattern = Prompt(
        id=prompt_id("say x"), text="say x", verifier="regex", reference={"answer": "x+"}
    )
    mute = Prompt(id=prompt_id("why"), text="why", verifier="numeric")
    leaked = ask("leaked 1+1=", "2")
    texts: Said = [
        (EASY[0], ["0+0=0"]),
        *((one, ["7"]) for one in (HARD[0], mute, leaked)),
        (pattern, ["y"]),
    ]
    receipt = selected(context, texts, [], validation=[leaked])
    assert [row.prompt_id for row in rows(context, receipt, "too_hard.jsonl", HardPrompt)] == [
        HARD[0].id
    ]


def test_answers_with_and_without_a_hint_are_known_to_be_the_same_in_any_block(
    context: Context,
) -> None:
    prompts = [ask(f"what is {n}+1=", str(n + 1)) for n in range(BLOCK_SAMPLES // 2)]
    right = [(one, reference_answer(one)) for one in prompts]
    # Three rows that pass, of each prompt: a block is full after one's two without a hint.
    texts: Said = [
        (one, [f"it must be {answer}", f"one more is {answer}"]) for one, answer in right
    ]
    helped: Said = [(one, [f"it must be {answer}"]) for one, answer in right]
    receipt = selected(context, texts, helped, select={"minhash_threshold": 1.0})
    said = Counter((row.prompt, row.completion) for row in rows(context, receipt, "accepted.jsonl"))
    assert set(said.values()) == {1}
    assert hinted_counts(receipt).dropped == {"duplicate": len(prompts)}
    assert told(receipt).accepted == len(said) == 2 * len(prompts)


# What a person writes


def test_hints_need_a_verifier_and_a_template_with_both_places() -> None:
    with pytest.raises(UserError, match=r"generate.hints needs `select.verifier: true`"):
        recipe_of(generate={"hints": {}}, select={"verifier": False})
    for template in ("{prompt}", "the answer is {answer}", "{prompt} {answer} {answer}"):
        with pytest.raises(
            UserError, match=r"generate.hints.template: must hold \{(prompt|answer)\} once"
        ):
            recipe_of(generate={"hints": {"template": template}})
    assert SelectSection().verifier


def test_a_hint_is_put_together_from_text_alone() -> None:
    odd = ask_exactly("what is {answer}? {0.__class__}", "{prompt}")
    assert hinted(odd, "{answer}: {prompt}").text == "{prompt}: what is {answer}? {0.__class__}"
    assert hinted(odd, TEMPLATE).id == odd.id


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (ask("2+2=", " 4 "), "4"),
        (ask("2+2=", "two and two make 4\n#### 4"), "4"),
        (ask("x", "is 7 %"), "7%"),
        (ask("2+2=", "so the answer is $1,200."), "1200"),
        (ask("x", "none"), ""),
        (
            Prompt(id="a", text="x", verifier="choice", reference={"answer": "so #### (B) a cart"}),
            "(B) a cart",
        ),
        (
            Prompt(id="a", text="x", verifier="math", reference={"answer": "thus \\boxed{x^2}"}),
            "x^2",
        ),
        (Prompt(id="a", text="4711=", verifier="task/reverse"), "1174"),
        (
            Prompt(
                id="a",
                text="x",
                verifier="reasoning_gym",
                reference={"name": "gcd", "entry": {"answer": "6"}},
            ),
            "6",
        ),
        (Prompt(id="a", text="x", verifier="regex", reference={"answer": "a|b"}), ""),
        (Prompt(id="a", text="x", verifier="exact"), ""),
        (ask("0*1=", "0"), "0"),
    ],
)
def test_the_answer_of_a_hint_is_the_one_the_verifier_holds(prompt: Prompt, answer: str) -> None:
    assert reference_answer(prompt) == answer
