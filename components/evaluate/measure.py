"""Measurements of one model: answers, samples, likelihood of human text, classes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from components.canonical import derived_seed, digest_of
from components.contracts.artifacts import split_file
from components.contracts.rows import (
    Prompt,
    Result,
    Sample,
    TextResult,
    TrainingRow,
    label_of,
)
from components.contracts.summaries.evaluate import VerificationGap
from components.evaluate.collapse import Measured
from components.evaluate.harness import folder_of, run_harness
from components.evaluate.questions import SPLITS_READ, Questions
from components.evaluate.verification_gap import generation_verification
from components.measures import ClassChoice, class_choice
from components.runtime.campaign import Campaign
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch_folder
from components.verifiers import Room, Verdict, verdicts_of, verify_all
from components.verifiers.numeric_error import error_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.modeling.encoding import Codec
    from components.modeling.scoring import RowScore

# Rows of one forward pass. Scores do not depend on them but for the last digits, which change with
# the padding: a change makes new measurements.
_LABEL_BATCH = 64
_HARNESS_BATCH = 16
_GREEDY = 0.0
"""Temperature of answers that are not samples."""
_ITS_OWN = 1.0
"""Temperature that leaves a model's distribution as it is, which continuations of text show."""


@dataclass(frozen=True)
class Account:
    """Numbers of a measurement beside its rows."""

    tokens: int
    """Sampled tokens."""
    generation_verification: VerificationGap | None
    """None without two samples a prompt."""
    harness: dict[str, dict[str, float]]
    """lm-eval's task → metric → value."""
    skipped: dict[str, str]
    """Measurement that was not made, or not on all rows → reason."""


@dataclass(frozen=True)
class _LoadedModel:
    """A model in memory, asked in the way of its campaign."""

    context: Context
    campaign: Campaign
    model: PreTrainedModel
    codec: Codec

    def answers(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """Return one answer to each prompt: the greedy one, of raw text a drawn continuation."""
        questions = [prompt for prompt in prompts if not prompt.is_text]
        texts = [prompt for prompt in prompts if prompt.is_text]
        seeds = [[0]] * len(questions)
        answers = self._sampled(questions, seeds, temperature=_GREEDY, top_k=0)
        # A greedy continuation goes round in circles, however good the model is (1904.09751).
        seed = self.campaign.recipe.seed
        text_seeds = [[derived_seed(seed, "text", prompt.id)] for prompt in texts]
        answers += self._sampled(texts, text_seeds, temperature=_ITS_OWN, top_k=0)
        positions = {prompt.id: position for position, prompt in enumerate(prompts)}
        return sorted(answers, key=lambda answer: positions[answer.prompt_id])

    def losses(self, prompts: Sequence[Prompt]) -> list[RowScore | None]:
        """Return the score of each prompt's reference answer; all None where no goal needs it."""
        from components.modeling.scoring import reference_losses

        recipe = self.campaign.recipe
        if recipe.decide.goal.metric != "perplexity":
            return [None] * len(prompts)
        return reference_losses(
            self.model, self.codec, prompts, recipe.train.max_length
        )

    def samples(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """Return the samples for pass@k: `pass_k` of each prompt."""
        recipe = self.campaign.recipe
        section = recipe.evaluate
        if not section.pass_k:
            return []
        # The round is not part of the seed: every model samples with the same random numbers.
        seeds = [
            [
                derived_seed(recipe.seed, "pass", prompt.id, index)
                for index in range(section.pass_k)
            ]
            for prompt in prompts
        ]
        return self._sampled(
            prompts, seeds, temperature=section.temperature, top_k=recipe.generate.top_k
        )

    def _sampled(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float,
        top_k: int,
    ) -> list[Sample]:
        from components.modeling.inference.answers import sample_all
        from components.modeling.inference.sampling import Sampling

        if not prompts:
            return []
        recipe = self.campaign.recipe
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=1.0,
            max_new_tokens=recipe.generate.max_new_tokens,
            batch_size=recipe.evaluate.batch_size,
        )
        return sample_all(
            self.context, self.model, self.codec, prompts, seeds, sampling
        )

    def classes(self, questions: Questions) -> dict[str, ClassChoice]:
        """Return prompt id → the class that the model finds likeliest, with its squared error."""
        from components.modeling.labels import label_probabilities

        labelled = [prompt for prompt in questions.prompts if label_of(prompt)]
        if not questions.labels or not labelled:
            return {}
        conversations = [prompt.asked for prompt in labelled]
        probabilities = label_probabilities(
            self.model, self.codec, conversations, questions.labels, _LABEL_BATCH
        )
        return {
            prompt.id: class_choice(questions.labels, chances, label_of(prompt))
            for prompt, chances in zip(labelled, probabilities, strict=True)
        }

    def text_results(
        self, questions: Questions
    ) -> tuple[list[TextResult], dict[str, str]]:
        """Return (likelihoods of the human texts, reason for those that are skipped)."""
        from components.modeling.likelihood import EncodedRow
        from components.modeling.scoring import TEXT_BATCH, score_rows

        limit = self.campaign.recipe.train.max_length
        texts: list[TrainingRow] = []
        rows: list[EncodedRow] = []
        for text in questions.texts:
            encoded = self.codec.encode(text, "last")[0]
            # Cut like a training row. A prompt that fills it leaves nothing to score.
            if encoded.num_masked < min(len(encoded.ids), limit):
                texts.append(text)
                rows.append(EncodedRow(encoded.ids[:limit], encoded.num_masked))
        scores = score_rows(self.model, rows, self.codec.pad_id, TEXT_BATCH)
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
        num_skipped = len(questions.texts) - len(texts)
        if not num_skipped:
            return results, {}
        reason = f"{num_skipped} rows whose prompt is as long as train.max_length"
        return results, {"texts": reason}


def conditions(
    context: Context, campaign: Campaign, settings: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return everything that a measurement depends on beside the model's weights.

    Two measurements of equal weights under equal conditions are the same work.

    Args:
        context: Number of threads.
        campaign: Data and seed of the campaign.
        settings: The part of the recipe that the results depend on.
    """
    import torch
    import transformers

    split_files = {split_file(split) for split in SPLITS_READ}
    objects = campaign.prepared.objects
    # Kernels differ between processors, and with them the last digits of logits: a greedy answer
    # may turn over.
    device = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return {
        "prompts": {
            name: ref.sha256 for name, ref in objects.items() if name in split_files
        },
        "code": code_digest("evaluate"),
        "settings": settings,
        "seed": campaign.recipe.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": context.threads,
        "device": device,
    }


def measurement_key(train: Receipt, under: dict[str, JsonValue]) -> str:
    """Return the content address of a measurement.

    Args:
        train: Receipt of the model.
        under: `conditions` of the measurement.
    """
    # The weights and not the receipt: a training that was repeated may give the same model.
    weights = {
        name: ref.sha256
        for name, ref in train.objects.items()
        if name.startswith("model/")
    }
    return digest_of({"model": weights, **under})


def measure(
    context: Context,
    campaign: Campaign,
    train: Receipt,
    questions: Questions,
    *,
    harness: bool,
) -> tuple[Measured, Account]:
    """Measure the model of a train receipt; return its rows and the other numbers.

    Args:
        context: Store, clock and number of threads.
        campaign: Recipe of the campaign.
        train: Receipt of the model.
        questions: Prompts, texts and classes.
        harness: Run lm-eval's tasks too, if the recipe asks for them.
    """
    import torch

    from components.modeling.inference.answers import load_for_answers

    # The number of threads changes the order of sums, and with it the last digits.
    torch.set_num_threads(context.threads)
    section = campaign.recipe.evaluate
    folder = fetch_folder(context, train, "model")
    try:
        model, codec = load_for_answers(folder, campaign.recipe.model.system_prompt)
        loaded = _LoadedModel(context, campaign, model, codec)
        answers = loaded.answers(questions.prompts)
        samples = loaded.samples(questions.sampled_prompts)
        # Sampling charges its own seconds.
        begin = context.clock()
        room = Room(context.threads, context.free_memory_bytes)
        verdicts = _verdicts(questions.sampled_prompts, samples, room)
        classes = loaded.classes(questions)
        asked = [
            (prompt, answer.text)
            for prompt, answer in zip(questions.prompts, answers, strict=True)
        ]
        graded = verdicts_of(asked, room)
        losses = loaded.losses(questions.prompts)
        results = _results(
            questions, answers, graded, losses, samples, verdicts, classes
        )
        texts, skipped = loaded.text_results(questions)
        metrics: dict[str, dict[str, float]] = {}
        if harness and section.harness is not None:
            tasks_folder = folder_of(section.harness, context)
            metrics = run_harness(
                context,
                section.harness,
                tasks_folder,
                model,
                codec.tokenizer,
                _HARNESS_BATCH,
            )
        context.charge("compute_seconds", context.clock() - begin)
    finally:
        # A checkpoint may be larger than what is left of the disk for the next one.
        shutil.rmtree(folder, ignore_errors=True)
    account = Account(
        tokens=sum(sample.num_tokens for sample in (*answers, *samples)),
        generation_verification=generation_verification(
            questions.sampled_prompts, samples, verdicts
        ),
        harness=metrics,
        skipped={**questions.skipped, **skipped},
    )
    return Measured(results, texts, samples), account


def _verdicts(
    prompts: Sequence[Prompt], samples: Sequence[Sample], room: Room
) -> list[bool]:
    """Return, for each sample, True if the verifier accepts it."""
    prompts_by_id = {prompt.id: prompt for prompt in prompts}
    asked = [(prompts_by_id[sample.prompt_id], sample.text) for sample in samples]
    return verify_all(asked, room)


def _results(
    questions: Questions,
    answers: Sequence[Sample],
    graded: Sequence[Verdict],
    losses: Sequence[RowScore | None],
    samples: Sequence[Sample],
    verdicts: Sequence[bool],
    classes: Mapping[str, ClassChoice],
) -> list[Result]:
    """Return one row per prompt.

    Args:
        questions: The prompts.
        answers: Answer to each prompt.
        graded: Verdict on each of them.
        losses: Score of each prompt's reference answer.
        samples: Samples for pass@k.
        verdicts: Verdict on each sample.
        classes: Prompt id → class chosen by likelihood; prompts without a class have none.
    """
    verdicts_by_prompt: dict[str, list[bool]] = defaultdict(list)
    for sample, right in zip(samples, verdicts, strict=True):
        verdicts_by_prompt[sample.prompt_id].append(right)
    results = []
    asked = zip(
        questions.prompts, questions.splits, answers, graded, losses, strict=True
    )
    for prompt, split, answer, verdict, loss in asked:
        # Dev and test prompts are not sampled.
        prompt_verdicts = verdicts_by_prompt.get(prompt.id, [])
        chosen = classes.get(prompt.id)
        result = Result(
            prompt_id=prompt.id,
            split=split,
            correct=verdict.score >= prompt.check.threshold,
            score=verdict.score,
            text=answer.text,
            # A piece of text may stop anywhere.
            finished=answer.finished or prompt.is_text,
            num_tokens=answer.num_tokens,
            num_samples=len(prompt_verdicts),
            num_correct=sum(prompt_verdicts),
            tags=prompt.tags,
            predicted=chosen.name if chosen is not None else "",
            label=label_of(prompt),
            label_error=chosen.squared_error if chosen is not None else None,
            numeric=prompt.verifier == "numeric",
            error=error_of(prompt, answer.text),
            loss=loss.loss / loss.num_tokens if loss is not None else None,
            loss_tokens=loss.num_tokens if loss is not None else 0,
            stretch=prompt.stretch,
        )
        results.append(result)
    return results
