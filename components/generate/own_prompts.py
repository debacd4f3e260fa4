"""Prompts that the model writes itself: after examples (Self-Instruct, 2212.10560), or as the next
message of a user (Magpie, 2406.08464)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.canonical import derived_seed, normalised_text
from components.contamination import Overlap
from components.contracts.artifacts import split_file
from components.contracts.rows import (
    Dropped,
    Prompt,
    Sample,
    TrainingRow,
    prompt_id,
    read_rows,
)
from components.errors import UserError
from components.generate.batches import Ask
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import fetch
from components.runtime.reserved_prompts import evaluation_items
from components.text_similarity import (
    Shingles,
    band_hashes,
    jaccard,
    numbers_key,
    rows_per_band,
    shingles_of,
)

_NEXT = re.compile(r"\n\s*Question\s*\d*\s*:")
"""Begin of one more question, which a model that goes on with the list writes by itself."""
_LABEL = re.compile(r"\A\s*(?:Question\s*\d*\s*[:.)]|\d+[.)]\s|[-*]\s)\s*")


@dataclass(frozen=True)
class Written:
    """Prompts that the model wrote."""

    prompts: list[Prompt]
    """Those to ask, in the order of the tries."""
    dropped: list[Dropped]
    """The others, with the reason."""


def writing_campaign(campaign: Campaign) -> Campaign:
    """Return the campaign with the sampling settings that prompts are written by."""
    section = campaign.recipe.generate
    settings = section.own_prompts
    generate = section.model_copy(update={"max_new_tokens": settings.max_new_tokens})
    recipe = campaign.recipe.model_copy(update={"generate": generate})
    plan = campaign.state.plan.model_copy(update={"temperature": settings.temperature})
    state = campaign.state.model_copy(update={"plan": plan})
    return campaign.model_copy(update={"recipe": recipe, "state": state})


def writing_asks(campaign: Campaign, known: Sequence[str]) -> list[Ask]:
    """Return the requests for the prompts of a round, each with a seed of its own.

    Args:
        campaign: Recipe and round.
        known: Prompts of the data that may be shown.

    Raises:
        UserError: Examples are to be shown, and the data has none.
    """
    section = campaign.recipe.generate
    if section.own_prompts.form == "examples" and not known:
        raise UserError(
            "generate.own_prompts.form is examples, and the data has no prompt to show: give "
            "labelled rows or unlabelled prompts, or use form: turn with a chat model"
        )
    number = campaign.next_round
    asks = []
    for index in range(section.prompts_per_round):
        identity = prompt_id(f"own prompt {number} {index}")
        seed = derived_seed(campaign.recipe.seed, number, identity, 0)
        asks.append(Ask(_request(campaign, identity, known, seed), 0, seed))
    return asks


def _request(
    campaign: Campaign, identity: str, known: Sequence[str], seed: int
) -> Prompt:
    """Return what the model is asked in order to write one prompt."""
    settings = campaign.recipe.generate.own_prompts
    if settings.form == "turn":
        return Prompt(id=identity, text="", verifier="exact", opens_turn=True)
    shown = random.Random(seed).sample(known, min(settings.shown, len(known)))
    lines = [f"Question {place}: {text}" for place, text in enumerate(shown, 1)]
    text = "\n".join([settings.instruction, "", *lines, f"Question {len(shown) + 1}:"])
    return Prompt(id=identity, text=text, verifier="exact")


def known_prompts(context: Context, campaign: Campaign) -> list[str]:
    """Return the prompts of the train and unlabelled splits, each once."""
    labelled = read_rows(
        fetch(context, campaign.prepared, split_file("train")), TrainingRow
    )
    texts = [row.prompt for row in labelled if row.prompt and not row.is_text]
    unlabelled = read_rows(
        fetch(context, campaign.prepared, split_file("unlabelled")), Prompt
    )
    texts += [prompt.text for prompt in unlabelled if not prompt.is_text]
    return list(dict.fromkeys(texts))


def sift(
    context: Context,
    campaign: Campaign,
    samples: Sequence[Sample],
    known: Sequence[str],
) -> Written:
    """Return the written prompts that are new and may be trained on, and the others.

    Args:
        context: Store of the data.
        campaign: Recipe and data.
        samples: What the model wrote, in the order of the tries.
        known: Prompts of the data: one of them is not new.
    """
    settings = campaign.recipe.generate.own_prompts
    parts = campaign.recipe.select.contamination == "overlap"
    reserved = Overlap(evaluation_items(context, campaign.prepared), parts=parts)
    repeats = _Repeats(settings.max_similarity, known)
    written = Written([], [])
    for sample in samples:
        text, is_whole = _question(sample, settings.form)
        reason, detail = "", ""
        if not text:
            reason = "empty"
        elif not is_whole:
            reason = "cut_off"
        elif found := reserved.of_prompt(text):
            reason, detail = "in_evaluation", found
        elif found := repeats.of(text):
            reason, detail = "repeats", found
        if reason:
            row = Dropped(
                reason=reason, detail=detail, row={"prompt": text, "seed": sample.seed}
            )
            written.dropped.append(row)
        else:
            prompt = Prompt(id=prompt_id(text), text=text, verifier=settings.verifier)
            written.prompts.append(prompt)
    return written


def _question(sample: Sample, form: str) -> tuple[str, bool]:
    """Return (the question in what the model wrote, whether it is whole)."""
    if form == "turn":
        return sample.text.strip(), sample.finished
    following = _NEXT.search(sample.text)
    text = sample.text if following is None else sample.text[: following.start()]
    return _LABEL.sub("", text).strip(), sample.finished or following is not None


class _Repeats:
    """Finds prompts that were there before, word for word or nearly."""

    def __init__(self, max_similarity: float, known: Sequence[str]) -> None:
        self._max_similarity = max_similarity
        self._wholes: set[str] = set()
        self._earlier: list[Shingles] = []
        self._by_band: dict[tuple[int, int], list[int]] = {}
        for text in known:
            self._add(text)

    def of(self, text: str) -> str:
        """Return the reason why a prompt is not new; a new one is remembered and has none."""
        if normalised_text(text).casefold() in self._wholes:
            return "there is an equal prompt"
        shingles = shingles_of(text)
        # A prompt shares several bands with one that is like it.
        near = {
            place for band in self._bands(text) for place in self._by_band.get(band, ())
        }
        similarity = max(
            (jaccard(shingles, self._earlier[place]) for place in near), default=0.0
        )
        if similarity >= self._max_similarity:
            return f"similarity {similarity:.2f} to an earlier prompt"
        self._add(text)
        return ""

    def _add(self, text: str) -> None:
        self._wholes.add(normalised_text(text).casefold())
        for band in self._bands(text):
            self._by_band.setdefault(band, []).append(len(self._earlier))
        self._earlier.append(shingles_of(text))

    def _bands(self, text: str) -> Iterator[tuple[int, int]]:
        rows = rows_per_band(self._max_similarity)
        # With the numbers as salt: sums of one form differ in nothing else.
        hashes = band_hashes([shingles_of(text)], [numbers_key(text)], rows)
        return enumerate(hashes[0].tolist())
