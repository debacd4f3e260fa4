"""The recipe's section `evaluate`: the measures of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.contracts.recipe.section import Positive, Section


class Harness(Section):
    """Tasks of lm-eval (the language model evaluation harness), from files alone."""

    # From files alone: the network may be closed, and a data set of a hub may change.
    folder: str
    """file:// or package:// URI of a folder of task YAMLs and their data: `dataset_path` json, csv,
    parquet or text, `data_files` relative to the folder. Tags that run code (`!function`) are
    refused."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of tasks in that folder."""
    limit: Positive | None = None
    """Questions of each task; None: all."""


class EvaluateSection(Section):
    """The measures of a model: greedy accuracy always, pass@k on demand."""

    pass_k: Annotated[int, Field(ge=0)] = 0
    """k of pass@k on the validation split (2107.03374); 0: not measured."""
    # For the samples of pass@k; accuracy is that of greedy answers.
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 0.7
    batch_size: Positive = 256
    max_perplexity_rows: Positive = 200
    """Rows of the retention (else dev) split whose perplexity is measured."""
    # Both grow with the square of the number of answers.
    diversity_rows: Positive = 1024
    """Answers whose diversity is measured: the same prompts, chosen by their ids, for every model.
    Self-BLEU and Vendi score, which compare every answer with every other, take the first 48 and
    256 of them."""
    harness: Harness | None = None
    """None: lm-eval is not run."""
