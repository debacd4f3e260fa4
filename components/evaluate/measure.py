"""Measurements of one model: answers, samples, likelihood of human text, classes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from components.canonical import derived_seed, digest_of
from components.contracts.rows import Prompt, Result, Sample, TextResult, TrainingRow, read_rows
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
_HARNESS_BATCH = 16
_LARGEST_ERROR = 1e100
"""An answer that is farther off counts as no number."""
_SPLITS_READ = ("validation", "test", "retention", "dev", "train")


@dataclass(frozen=True)
class Questions:
    """Everything that a model is measured on, the same for every model of a campaign."""

    prompts: list[Prompt]
    """Prompts of the validation and the test split."""
    splits: list[Literal["validation", "test"]]
    """Split of each prompt."""
    texts: list[TrainingRow]
    """Human texts for perplexity."""
    text_split: Literal["retention", "dev"]
    """Split of the texts."""
    labels: list[str]
    """Classes to choose from; empty without text-and-label rows."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Measurement that cannot be made → reason."""

    @property
    def test_prompts(self) -> list[Prompt]:
        """Prompts of the test split."""
        return [
            prompt
            for prompt, split in zip(self.prompts, self.splits, strict=True)
            if split == "test"
        ]


@dataclass(frozen=True)
class Account:
    """Numbers of a measurement beside its rows."""

    tokens: int
    """Sampled tokens."""
    generation_verification: dict[str, Any] | None
    """See `generation_verification`."""
    harness: dict[str, dict[str, float]]
    """lm-eval's task → metric → value."""
    skipped: dict[str, str]
    """Measurement that was not made, or not on all rows → reason."""


def conditions(context: Context, campaign: Campaign, settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a measurement depends on beside the model's weights.

    Two measurements of equal weights under equal conditions are the same work.

    Args:
        context: Number of threads.
        campaign: Data and seed of the campaign.
        settings: The part of the recipe that the results depend on.
    """
    import torch
    import transformers

    has_gpu = torch.cuda.is_available()
    split_files = {f"splits/{split}.jsonl" for split in _SPLITS_READ}
    objects = campaign.prepared.objects
    return {
        "prompts": {name: ref.sha256 for name, ref in objects.items() if name in split_files},
        "code": code_digest("evaluate"),
        "settings": settings,
        "seed": campaign.recipe.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": context.threads,
        "device": torch.cuda.get_device_name()
        if has_gpu
        else torch.backends.cpu.get_cpu_capability(),
    }


def measurement_key(train: Receipt, under: dict[str, Any]) -> str:
    """Return the content address of a measurement.

    Args:
        train: Receipt of the model.
        under: `conditions` of the measurement.
    """
    weights = {name: ref.sha256 for name, ref in train.objects.items() if name.startswith("model/")}
    return digest_of({"model": weights, **under})


def read_questions(context: Context, campaign: Campaign) -> Questions:
    """Return the questions of a campaign, read from its splits."""
    prompts: list[Prompt] = []
    splits: list[Literal["validation", "test"]] = []
    for split in SPLITS:
        path = fetch(context, campaign.prepared, f"splits/{split}.jsonl")
        split_prompts = list(read_rows(path, Prompt))
        prompts += split_prompts
        splits += ["validation" if split == "validation" else "test"] * len(split_prompts)
    texts, text_split = _texts(context, campaign)
    labels, skipped = _labels(context, campaign, prompts)
    return Questions(prompts, splits, texts, text_split, labels, skipped)


def measure(
    context: Context, campaign: Campaign, train: Receipt, questions: Questions, *, harness: bool
) -> tuple[Measured, Account]:
    """Measure the model of a train receipt; return its rows and the other numbers.

    Args:
        context: Store, clock and number of threads.
        campaign: Recipe of the campaign.
        train: Receipt of the model.
        questions: What the model is measured on.
        harness: Run lm-eval's tasks too, if the recipe asks for them.
    """
    import torch

    from components.modeling.inference.answers import load_for_answers

    torch.set_num_threads(context.threads)
    section = campaign.recipe.evaluate
    folder = fetch_folder(context, train, "model")
    try:
        model, codec = load_for_answers(folder, campaign.recipe.model.system_prompt)
        answers = _greedy(context, campaign, model, codec, questions.prompts)
        samples = _samples(context, campaign, model, codec, questions.test_prompts)
        # Sampling charges its own seconds.
        begin = context.clock()
        verdicts = _verdicts(questions.test_prompts, samples)
        classes = _classes(model, codec, questions)
        results = _results(questions, answers, samples, verdicts, classes)
        texts, skipped = _text_results(campaign, model, codec, questions)
        metrics: dict[str, dict[str, float]] = {}
        if harness and section.harness is not None:
            tasks_folder = folder_of(section.harness, context)
            metrics = run_harness(
                context, section.harness, tasks_folder, model, codec.tokenizer, _HARNESS_BATCH
            )
        context.charge("compute_seconds", context.clock() - begin)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    account = Account(
        tokens=sum(sample.num_tokens for sample in (*answers, *samples)),
        generation_verification=generation_verification(questions.test_prompts, samples, verdicts),
        harness=metrics,
        skipped={**questions.skipped, **skipped},
    )
    return Measured(results, texts, samples), account


def _texts(
    context: Context, campaign: Campaign
) -> tuple[list[TrainingRow], Literal["retention", "dev"]]:
    """Return (human texts for perplexity, their split): the retention split, else dev rows."""
    limit = campaign.recipe.evaluate.max_perplexity_rows
    splits: tuple[Literal["retention", "dev"], ...] = ("retention", "dev")
    for split in splits:
        path = fetch(context, campaign.prepared, f"splits/{split}.jsonl")
        rows = list(read_rows(path, TrainingRow))
        if rows:
            return rows[:limit], split
    return [], "dev"


def _labels(
    context: Context, campaign: Campaign, prompts: Sequence[Prompt]
) -> tuple[list[str], dict[str, str]]:
    """Return (all classes of the data in alphabetical order, reason to skip classification).

    There are none unless the prompts come from text-and-label rows.
    """
    prompt_labels = {label_of(prompt) for prompt in prompts} - {""}
    if not prompt_labels:
        return [], {}
    rows = read_rows(fetch(context, campaign.prepared, "splits/train.jsonl"), TrainingRow)
    train_labels = {row.tags["label"] for row in rows if row.tags.get("label") == row.completion}
    labels = sorted(prompt_labels | train_labels)
    if len(labels) > MAX_LABELS:
        return [], {"classification": f"{len(labels)} labels, at most {MAX_LABELS}"}
    if len(labels) < 2:
        return [], {"classification": f"one label alone ({labels[0]})"}
    return labels, {}


def label_of(prompt: Prompt) -> str:
    """Return the right class of a prompt made from a text and its label; empty for any other."""
    label = prompt.tags.get("label", "")
    return label if label and label == prompt.reference.get("answer") else ""


def _greedy(
    context: Context, campaign: Campaign, model: Any, codec: Any, prompts: Sequence[Prompt]
) -> list[Sample]:
    from components.modeling.inference.answers import sample_all
    from components.modeling.inference.sampler import Sampling

    recipe = campaign.recipe
    greedy = Sampling(0.0, 0, 1.0, recipe.generate.max_new_tokens, recipe.evaluate.batch_size)
    seeds = [[0]] * len(prompts)
    return sample_all(context, model, codec, prompts, seeds, greedy)


def _samples(
    context: Context, campaign: Campaign, model: Any, codec: Any, prompts: Sequence[Prompt]
) -> list[Sample]:
    """Return the samples for pass@k: `pass_k` of each prompt."""
    from components.modeling.inference.answers import sample_all
    from components.modeling.inference.sampler import Sampling

    recipe = campaign.recipe
    section = recipe.evaluate
    if not section.pass_k:
        return []
    sampling = Sampling(
        section.temperature,
        recipe.generate.top_k,
        1.0,
        recipe.generate.max_new_tokens,
        section.batch_size,
    )
    # The round is not part of the seed: every model samples with the same random numbers.
    seeds = [
        [derived_seed(recipe.seed, "pass", prompt.id, index) for index in range(section.pass_k)]
        for prompt in prompts
    ]
    return sample_all(context, model, codec, prompts, seeds, sampling)


def _verdicts(prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[bool]:
    by_id = {prompt.id: prompt for prompt in prompts}
    return [verify(by_id[sample.prompt_id], sample.text) for sample in samples]


def _classes(model: Any, codec: Any, questions: Questions) -> dict[str, str]:
    """Return prompt id → the class that the model finds most likely."""
    from components.modeling.scoring import likeliest_labels

    labelled = [prompt for prompt in questions.prompts if label_of(prompt)]
    if not questions.labels or not labelled:
        return {}
    chosen = likeliest_labels(
        model, codec, [prompt.text for prompt in labelled], questions.labels, _LABEL_BATCH
    )
    return {prompt.id: label for prompt, label in zip(labelled, chosen, strict=True)}


def _results(
    questions: Questions,
    answers: Sequence[Sample],
    samples: Sequence[Sample],
    verdicts: Sequence[bool],
    classes: dict[str, str],
) -> list[Result]:
    """Return one row per prompt; all lists are in the order of the prompts or of the samples."""
    verdicts_by_prompt: dict[str, list[bool]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        verdicts_by_prompt[sample.prompt_id].append(right)
    return [
        Result(
            prompt_id=prompt.id,
            split=split,
            correct=verify(prompt, answer.text),
            text=answer.text,
            finished=answer.finished,
            num_tokens=answer.num_tokens,
            num_samples=len(verdicts_by_prompt.get(prompt.id, ())),
            num_correct=sum(verdicts_by_prompt.get(prompt.id, ())),
            tags=prompt.tags,
            predicted=classes.get(prompt.id, ""),
            label=label_of(prompt),
            numeric=prompt.verifier == "numeric",
            error=error_of(prompt, answer.text),
        )
        for prompt, split, answer in zip(questions.prompts, questions.splits, answers, strict=True)
    ]


def error_of(prompt: Prompt, text: str) -> float | None:
    """Return answer minus reference of a numeric prompt; None if the answer holds no number.

    50% counts as 0.5.
    """
    if prompt.verifier != "numeric":
        return None
    answer = _value(text)
    reference = _value(str(prompt.reference.get("answer", "")))
    if answer is None or reference is None or abs(answer - reference) > _LARGEST_ERROR:
        return None
    return float(answer - reference)


def _value(text: str) -> Fraction | None:
    number = final_number(text)
    if number is None:
        return None
    value, is_percentage = number
    return value / 100 if is_percentage else value


def _text_results(
    campaign: Campaign, model: Any, codec: Any, questions: Questions
) -> tuple[list[TextResult], dict[str, str]]:
    """Return (likelihoods of the human texts, reason for those that are skipped).

    Texts are cut at the training length; a prompt that fills it leaves nothing to score.
    """
    from components.modeling.likelihood import EncodedRow
    from components.modeling.scoring import score_rows

    limit = campaign.recipe.train.max_length
    encoded = [codec.row_ids(row.prompt, row.completion) for row in questions.texts]
    texts: list[TrainingRow] = []
    encoded_rows: list[EncodedRow] = []
    for text, (ids, num_masked) in zip(questions.texts, encoded, strict=True):
        if num_masked < min(len(ids), limit):
            texts.append(text)
            encoded_rows.append(EncodedRow(ids[:limit], num_masked))
    scores = score_rows(model, encoded_rows, codec.pad_id, _TEXT_BATCH)
    results = [
        TextResult(
            id=text.id,
            split=questions.text_split,
            loss=score.loss / score.num_tokens,
            num_tokens=score.num_tokens,
            num_right=score.num_right,
            tags=text.tags,
        )
        for text, score in zip(texts, scores, strict=True)
    ]
    num_skipped = len(encoded) - len(texts)
    if not num_skipped:
        return results, {}
    return results, {"texts": f"{num_skipped} rows whose prompt is as long as train.max_length"}
