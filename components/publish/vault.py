"""The vault: prompts that no round has used, put once, to the model that is published.

A number stays honest as long as nothing was chosen by it. So the store records which model a vault
was opened for, and before it is read; a second opening is refused unless it is for that very model.
"""

from __future__ import annotations

import json
import shutil

from components.canonical import canonical_json, digest_of
from components.contracts.artifacts import split_file
from components.contracts.rows import Prompt, read_rows
from components.contracts.summaries.publish import VaultRefusal
from components.contracts.summaries.summary import Share
from components.errors import Corrupt
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, fetch_folder
from components.statistics import wilson_interval
from components.storage import keys
from components.verifiers import verify


def vault_sha256(prepared: Receipt) -> str:
    """Return the SHA-256 of a campaign's vault; empty if its data has none."""
    ref = prepared.objects.get(split_file("vault"))
    return ref.sha256 if ref is not None and ref.size else ""


def open_vault(
    context: Context, campaign: Campaign, champion: Receipt
) -> Share | VaultRefusal | None:
    """Return the greedy accuracy of the champion on the vault; None without a vault.

    It is a refusal if the vault was opened for another model before.

    Args:
        context: Store and number of threads.
        campaign: Data and recipe.
        champion: Receipt of the model's training.

    Raises:
        Corrupt: The record of the opening is none.
    """
    sha256 = vault_sha256(campaign.prepared)
    if not sha256:
        return None
    # By weights, not by receipt: the same model of another run is no second choice.
    weights = {
        name: ref.sha256 for name, ref in champion.objects.items() if name.startswith("model/")
    }
    model = digest_of(weights)
    opening = {"model": model, "champion": champion.ref, "run_id": campaign.state.run_id}
    # Recorded before the vault is read: a publish that is killed in between has opened it.
    first_opening = _first_opening(context, keys.vault_key(sha256), opening)
    if first_opening["model"] != model:
        return VaultRefusal(
            refused=f"it was opened before, for {first_opening['champion']} "
            f"of run {first_opening['run_id']}; a model that came later needs a new vault"
        )
    prompts = list(read_rows(fetch(context, campaign.prepared, split_file("vault")), Prompt))
    verdicts = _verdicts(context, campaign, champion, prompts)
    num_prompts = len(verdicts)
    num_right = sum(verdicts)
    low, high = wilson_interval(num_right, num_prompts)
    return Share(n=num_prompts, accuracy=num_right / num_prompts, low=low, high=high)


def _first_opening(context: Context, key: str, opening: dict[str, str]) -> dict[str, str]:
    """Return the record of the first opening, which is this one if there was none."""
    # Of two publishes at the same time, one writes and the other reads.
    if context.store.put_bytes(key, canonical_json(opening), if_absent=True):
        return opening
    try:
        first_opening = json.loads(context.store.get_bytes(key))
        return {name: str(first_opening[name]) for name in opening}
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"{context.store.root}/{key} is not the record of an opened vault") from None


def _verdicts(
    context: Context, campaign: Campaign, champion: Receipt, prompts: list[Prompt]
) -> list[bool]:
    """Return, for each prompt, True if the model's greedy answer is right."""
    import torch

    from components.modeling.inference.answers import load_for_answers, sample_all
    from components.modeling.inference.sampling import Sampling

    torch.set_num_threads(context.threads)
    recipe = campaign.recipe
    greedy = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=recipe.generate.max_new_tokens,
        batch_size=recipe.evaluate.batch_size,
    )
    folder = fetch_folder(context, champion, "model")
    try:
        model, codec = load_for_answers(folder, recipe.model.system_prompt)
        answers = sample_all(context, model, codec, prompts, [[0]] * len(prompts), greedy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [verify(prompt, answer.text) for prompt, answer in zip(prompts, answers, strict=True)]
