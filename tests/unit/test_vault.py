"""The vault is opened once, by publish, for one model."""

from __future__ import annotations

import pytest

from components.contracts.recipe import TaskSource
from components.contracts.rows import Dropped
from components.contracts.summaries import EvaluateSummary, PublishSummary
from components.contracts.summaries.publish import VaultRefusal
from components.contracts.summaries.summary import Share
from components.errors import Corrupt
from components.prepare.tasks import make_examples
from components.publish.step import PublishInputs, run
from components.publish.vault import vault_sha256
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary, receipt_uri
from components.statistics import wilson_interval
from components.storage import keys
from tests.unit.crafted import decided, recipe_of
from tests.unit.measuring import begun, evaluate, model, question, round_zero

VAULT = [question(number) for number in range(60, 90)]
SPLITS = {
    "validation": [question(number) for number in range(8)],
    "test": [question(number) for number in range(10, 18)],
}


def campaign(context: Context, *, vault: bool = True) -> Receipt:
    recipe = recipe_of(generate={"max_new_tokens": 4})
    return begun(context, recipe, **SPLITS, **({"vault": VAULT} if vault else {}))


def publish(context: Context, start: Receipt, champion: Receipt, **changes: object) -> Receipt:
    evaluation = evaluate(context, start, champion)
    state = decided(
        context,
        start,
        champion=champion.ref,
        champion_evaluation=evaluation.ref,
        first_evaluation=evaluation.ref,
        history=(round_zero(champion, evaluation),),
        **changes,
    )
    return run(PublishInputs(state), context)


def card(context: Context, receipt: Receipt) -> str:
    ref = receipt.objects["README.md"]
    return context.cache.get(
        context.store, keys.object_key(ref.sha256), ref.sha256, ref.size
    ).read_text()


def test_the_published_model_is_measured_on_the_vault(context: Context) -> None:
    start = campaign(context)
    receipt = publish(context, start, model(context, 0))
    found = read_summary(receipt, PublishSummary).vault
    assert isinstance(found, Share)
    assert found.n == len(VAULT)
    right = round(found.accuracy * len(VAULT))
    assert (found.low, found.high) == wilson_interval(right, len(VAULT))
    assert f"| vault accuracy (opened once, n = 30) | {found.accuracy:.4f}" in card(
        context, receipt
    )
    # The same measurement by evaluate, where the vault's prompts are an ordinary split.
    plain = begun(
        context,
        recipe_of(generate={"max_new_tokens": 4}),
        validation=SPLITS["validation"],
        test=VAULT,
    )
    measured = read_summary(evaluate(context, plain, model(context, 0)), EvaluateSummary)
    assert measured.test_accuracy == found.accuracy


def test_it_is_not_opened_again_for_another_model(context: Context) -> None:
    start, first = campaign(context), model(context, 0)
    before = publish(context, start, first)
    after = publish(context, start, model(context, 1))
    refusal = read_summary(after, PublishSummary).vault
    assert isinstance(refusal, VaultRefusal)
    assert first.ref in refusal.refused
    assert "not measured: it was opened before" in card(context, after)
    # For the same model it may be, in a later state: the number is the same.
    again = publish(context, start, first, rounds_without_gain=3)
    assert again.ref != before.ref
    assert read_summary(again, PublishSummary).vault == read_summary(before, PublishSummary).vault


def test_data_without_a_vault_has_no_line_of_it(context: Context) -> None:
    receipt = publish(context, campaign(context, vault=False), model(context, 0))
    assert read_summary(receipt, PublishSummary).vault is None
    assert "vault" not in card(context, receipt)
    assert not list(context.store.list("vault/"))


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


def test_a_damaged_record_is_no_licence_to_open(context: Context) -> None:
    start = campaign(context)
    prepared = load_campaign(context, receipt_uri(context, start)).prepared
    context.store.put_bytes(keys.vault_key(vault_sha256(prepared)), b"[]")
    with pytest.raises(Corrupt, match="is not the record of an opened vault"):
        publish(context, start, model(context, 0))
