"""Ask one model everything that evaluate asks: answers, samples, likelihood of human text, classes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from components.canonical import derived_seed, digest_of
from components.contracts.artifacts import split_file
from components.contracts.rows import Prompt, Result, Sample, TextResult, TrainingRow, read_rows
from components.contracts.summaries.evaluate import VerificationGap
from components.evaluate.collapse import Measured
from components.evaluate.harness import folder_of, run_harness
from components.evaluate.scores import SPLITS, generation_verification
from components.runtime.campaign import Campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, fetch_folder
from components.verifiers import final_number, verify

MAX_LABELS = 64
"""With more different labels, choosing by likelihood costs too much and is no classification."""
_TEXT_BATCH = 32
_LABEL_BATCH = 64
_LARGEST_ERROR = 1e100
_SPLITS_READ = ("validation", "test", "retention", "dev", "train")


@dataclass(frozen=True)
class Questions:
    """What every model is asked: prompts of the two splits, human texts, labels to choose from."""

    prompts: list[Prompt]
    splits: list[Literal["validation", "test"]]
    """Of each prompt."""
    texts: list[TrainingRow]
    text_split: Literal["retention", "dev"]
    labels: list[str]
    skipped: dict[str, str] = field(default_factory=dict)
    """What cannot be measured → why."""

    @property
    def tested(self) -> list[Prompt]:
        """Prompts of the test split."""
        return [
            prompt
            for prompt, split in zip(self.prompts, self.splits, strict=True)
            if split == "test"
        ]


@dataclass(frozen=True)
class Account:
    """What is told of a measurement beside its rows."""

    tokens: int
    generation_verification: VerificationGap | None
    harness: dict[str, dict[str, float]]
    skipped: dict[str, str]


def conditions(context: Context, campaign: Campaign, settings: dict[str, Any]) -> dict[str, Any]:
    """All that a measurement depends on beside the model's weights: prompts, code, settings, seed,
    libraries, device.

    Two measurements of equal weights under equal conditions are the same work; everything else is
    measured anew.
    """
    import torch
    import transformers

    gpu = torch.cuda.is_available()
    kept = {split_file(split) for split in _SPLITS_READ}
    return {
        "prompts": {
            name: ref.sha256 for name, ref in campaign.prepared.objects.items() if name in kept
        },
        "code": code_digest("evaluate"),
        "settings": settings,
        "seed": campaign.recipe.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": context.threads,
        "device": torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability(),
    }


def measurement_key(train: Receipt, under: dict[str, Any]) -> str:
    """The content address of measuring the model of a train receipt under some conditions."""
    weights = {name: ref.sha256 for name, ref in train.objects.items() if name.startswith("model/")}
    return digest_of({"model": weights, **under})


def read_questions(context: Context, campaign: Campaign) -> Questions:
    """The held-out data of a campaign."""
    prompts: list[Prompt] = []
    splits: list[Literal["validation", "test"]] = []
    for split in SPLITS:
        own = list(read_rows(fetch(context, campaign.prepared, split_file(split)), Prompt))
        prompts += own
        splits += ["validation" if split == "validation" else "test"] * len(own)
    texts, text_split = _texts(context, campaign)
    labels, skipped = _labels(context, campaign, prompts)
    return Questions(prompts, splits, texts, text_split, labels, skipped)


def measure(
    context: Context, campaign: Campaign, train: Receipt, questions: Questions, *, harness: bool
) -> tuple[Measured, Account]:
    """Everything about the model of a train receipt; with lm-eval's tasks if `harness` and the
    recipe asks for them."""
    import torch

    from components.modeling.inference.answers import load_for_answers

    torch.set_num_threads(context.threads)
    section = campaign.recipe.evaluate
    folder = fetch_folder(context, train, "model")
    try:
        model, codec = load_for_answers(folder, campaign.recipe.model.system_prompt)
        answers = _greedy(context, campaign, model, codec, questions.prompts)
        samples = _samples(context, campaign, model, codec, questions.tested)
        begun = context.clock()
        verdicts = _verdicts(questions.tested, samples)
        classes = _classes(model, codec, questions)
        results = _results(questions, answers, samples, verdicts, classes)
        texts, skipped = _text_results(campaign, model, codec, questions)
        told = (
            run_harness(
                context,
                section.harness,
                folder_of(section.harness, context),
                model,
                codec.tokenizer,
                16,
            )
            if harness and section.harness is not None
            else {}
        )
        context.charge("compute_seconds", context.clock() - begun)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Measured(results, texts, samples), Account(
        tokens=sum(item.num_tokens for item in (*answers, *samples)),
        generation_verification=generation_verification(questions.tested, samples, verdicts),
        harness=told,
        skipped={**questions.skipped, **skipped},
    )


def _texts(
    context: Context, campaign: Campaign
) -> tuple[list[TrainingRow], Literal["retention", "dev"]]:
    """Human text for perplexity: the retention split, else dev rows."""
    limit = campaign.recipe.evaluate.max_perplexity_rows
    for split in ("retention", "dev"):
        rows = list(read_rows(fetch(context, campaign.prepared, split_file(split)), TrainingRow))
        if rows:
            return rows[:limit], "retention" if split == "retention" else "dev"
    return [], "dev"


def _labels(
    context: Context, campaign: Campaign, prompts: Sequence[Prompt]
) -> tuple[list[str], dict[str, str]]:
    """All classes of the data, in order; none unless there are prompts of text-and-label rows."""
    asked = {label for prompt in prompts if (label := label_of(prompt))}
    if not asked:
        return [], {}
    rows = read_rows(fetch(context, campaign.prepared, split_file("train")), TrainingRow)
    labels = sorted(
        asked | {row.tags["label"] for row in rows if row.tags.get("label") == row.completion}
    )
    if len(labels) > MAX_LABELS:
        return [], {"classification": f"{len(labels)} labels, at most {MAX_LABELS}"}
    if len(labels) < 2:
        return [], {"classification": f"one label alone ({labels[0]})"}
    return labels, {}


def label_of(prompt: Prompt) -> str:
    """The right class of a prompt that people brought as text and label; empty for any other."""
    label = prompt.tags.get("label", "")
    return label if label and label == prompt.reference.get("answer") else ""


def _greedy(
    context: Context, campaign: Campaign, model: Any, codec: Any, prompts: Sequence[Prompt]
) -> list[Sample]:
    from components.modeling.inference.answers import sample_all
    from components.modeling.inference.sampler import Sampling

    recipe = campaign.recipe
    greedy = Sampling(0.0, 0, 1.0, recipe.generate.max_new_tokens, recipe.evaluate.batch_size)
    return sample_all(context, model, codec, prompts, [[0]] * len(prompts), greedy)


def _samples(
    context: Context, campaign: Campaign, model: Any, codec: Any, prompts: Sequence[Prompt]
) -> list[Sample]:
    """For pass@k. The seeds do not depend on the round: every model is asked with the same dice."""
    from components.modeling.inference.answers import sample_all
    from components.modeling.inference.sampler import Sampling

    recipe, section = campaign.recipe, campaign.recipe.evaluate
    if not section.pass_k:
        return []
    drawn = Sampling(
        section.temperature,
        recipe.generate.top_k,
        1.0,
        recipe.generate.max_new_tokens,
        section.batch_size,
    )
    seeds = [
        [derived_seed(recipe.seed, "pass", prompt.id, index) for index in range(section.pass_k)]
        for prompt in prompts
    ]
    return sample_all(context, model, codec, prompts, seeds, drawn)


def _verdicts(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[bool]:
    by_id = {prompt.id: prompt for prompt in prompts}
    return [verify(by_id[sample.prompt_id], sample.text) for sample in samples]


def _classes(model: Any, codec: Any, questions: Questions) -> dict[str, str]:
    """Prompt id → the class that the model finds most likely."""
    from components.modeling.scoring import likeliest_labels

    asked = [prompt for prompt in questions.prompts if label_of(prompt)]
    if not questions.labels or not asked:
        return {}
    chosen = likeliest_labels(
        model, codec, [prompt.asked for prompt in asked], questions.labels, _LABEL_BATCH
    )
    return {prompt.id: label for prompt, label in zip(asked, chosen, strict=True)}


def _results(
    questions: Questions,
    answers: Sequence[Sample],
    samples: Sequence[Sample],
    verdicts: Sequence[bool],
    classes: dict[str, str],
) -> list[Result]:
    drawn: dict[str, list[bool]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        drawn[sample.prompt_id].append(right)
    return [
        Result(
            prompt_id=prompt.id,
            split=split,
            correct=verify(prompt, answer.text),
            text=answer.text,
            finished=answer.finished,
            num_tokens=answer.num_tokens,
            num_samples=len(drawn.get(prompt.id, ())),
            num_correct=sum(drawn.get(prompt.id, ())),
            tags=prompt.tags,
            predicted=classes.get(prompt.id, ""),
            label=label_of(prompt),
            numeric=prompt.verifier == "numeric",
            error=error_of(prompt, answer.text),
        )
        for prompt, split, answer in zip(questions.prompts, questions.splits, answers, strict=True)
    ]


def error_of(prompt: Prompt, text: str) -> float | None:
    """Answer minus reference of a numeric prompt, 50% being 0.5; None without a number or with an
    absurd one."""
    if prompt.verifier != "numeric":
        return None
    given, wanted = (_value(one) for one in (text, str(prompt.reference.get("answer", ""))))
    if given is None or wanted is None or abs(given - wanted) > _LARGEST_ERROR:
        return None
    return float(given - wanted)


def _value(text: str) -> Fraction | None:
    found = final_number(text)
    return None if found is None else found[0] / 100 if found[1] else found[0]


def _text_results(
    campaign: Campaign, model: Any, codec: Any, questions: Questions
) -> tuple[list[TextResult], dict[str, str]]:
    """Scores of the human texts, cut at the training length; a prompt that fills it leaves nothing
    to score."""
    from components.modeling.likelihood import EncodedRow
    from components.modeling.scoring import score_rows

    limit = campaign.recipe.train.max_length
    encoded = [codec.encode(row, "last")[0] for row in questions.texts]
    kept = [place for place, one in enumerate(encoded) if one.num_masked < min(len(one.ids), limit)]
    rows = [EncodedRow(encoded[place].ids[:limit], encoded[place].num_masked) for place in kept]
    scores = score_rows(model, rows, codec.pad_id, _TEXT_BATCH)
    results = [
        TextResult(
            id=questions.texts[place].id,
            split=questions.text_split,
            loss=score.loss / score.num_tokens,
            num_tokens=score.num_tokens,
            num_right=score.num_right,
            tags=questions.texts[place].tags,
        )
        for place, score in zip(kept, scores, strict=True)
    ]
    lost = len(encoded) - len(kept)
    return results, {
        "texts": f"{lost} rows whose prompt is as long as train.max_length"
    } if lost else {}
