"""Likelihood of given texts, held against a plain forward pass and against what the model itself
says."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch

from components.measures import class_choice
from components.modeling.encoding import Codec
from components.modeling.inference.attention import use_shared_heads
from components.modeling.inference.sampler import Request, Sampling, sample
from components.modeling.labels import label_probabilities
from components.modeling.likelihood import EncodedRow
from components.modeling.scoring import score_rows
from tests.unit.kinds_of_models import KINDS, random_model
from tests.unit.tiny import tiny_model

PROMPTS = ["12=", "(4)=", "9+9=", "120=", "7="]


def alone(model: Any, row: EncodedRow) -> tuple[float, int]:
    """Summed loss and right tokens of one row, by transformers' own forward."""
    with torch.inference_mode():
        logits = model(torch.tensor([row.ids]), use_cache=False).logits[0, :-1].float()
    wanted = torch.tensor(row.ids[1:])
    token_losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    losses = token_losses[row.num_masked - 1 :]
    right = (logits.argmax(-1) == wanted)[row.num_masked - 1 :]
    return float(losses.sum()), int(right.sum())


@pytest.mark.parametrize("architecture", ["llama-nope", "gpt2", "lstm"])
@pytest.mark.parametrize("chunk_tokens", [None, 3])
def test_rows_are_scored_as_by_a_forward_pass_of_each_alone(
    architecture: str, chunk_tokens: int | None
) -> None:
    model, codec = tiny_model(architecture)
    rows = [
        EncodedRow(*codec.row_ids(prompt, prompt[::-1] * (3 - place % 3)))
        for place, prompt in enumerate(PROMPTS)
    ]
    done: list[int] = []
    scores = score_rows(
        model, rows, codec.pad_id, 2, done.append, chunk_tokens=chunk_tokens
    )
    assert done == [2, 2, 1]
    for row, score in zip(rows, scores, strict=True):
        loss, right = alone(model, row)
        assert score.loss == pytest.approx(loss, rel=1e-4)
        assert (score.num_right, score.num_tokens) == (right, row.num_targets)


def test_all_tokens_are_right_exactly_where_greedy_decoding_says_the_text() -> None:
    model, codec = tiny_model()
    greedy = Sampling(0.0, 0, 1.0, 6, 8)
    requests = [Request(tuple(codec.prompt_ids(prompt)), (0,)) for prompt in PROMPTS]
    rows = []
    for answer in sample(model, requests, greedy, codec.end_ids, codec.pad_id):
        ids = [*requests[answer.request].ids, *answer.ids]
        rows += [
            EncodedRow(ids, len(requests[answer.request].ids)),
            EncodedRow([*ids[:-1], (ids[-1] + 1) % 20], 1),
        ]
    scores = score_rows(model, rows, codec.pad_id, 4)
    assert [score.num_right == score.num_tokens for score in scores] == [
        True,
        False,
    ] * len(PROMPTS)


def expected_probabilities(model: Any, rows: list[EncodedRow]) -> list[float]:
    """The likelihoods of rows, each computed alone, divided by their sum."""
    likelihoods = [math.exp(-alone(model, row)[0]) for row in rows]
    return [likelihood / sum(likelihoods) for likelihood in likelihoods]


@pytest.mark.parametrize("architecture", ["llama", "llama-nope", "gpt2", "lstm"])
@pytest.mark.parametrize("batch_size", [1, 3, 12, 64])
def test_probabilities_of_labels_are_their_likelihoods_normalised_over_the_labels(
    architecture: str, batch_size: int
) -> None:
    model, codec = tiny_model(architecture)
    labels = ["1", "11", "2040", "98"]
    found = label_probabilities(model, codec, PROMPTS, labels, batch_size)
    for prompt, probabilities in zip(PROMPTS, found, strict=True):
        rows = [EncodedRow(*codec.row_ids(prompt, one)) for one in labels]
        assert probabilities == pytest.approx(
            expected_probabilities(model, rows), rel=1e-4
        )


@pytest.mark.parametrize("shared_heads", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_as_likely_behind_a_cache_as_in_a_row_of_its_own(
    kind: str, shared_heads: bool
) -> None:
    # Prompts longer than a sliding window, and of other lengths than their neighbours.
    _, codec = tiny_model()
    model = random_model(kind)
    if shared_heads:
        use_shared_heads(model)
    prompts = ["12=", "123456789=", "98765+4321=", "7="]
    labels = ["1", "2040", "98"]
    found = label_probabilities(model, codec, prompts, labels, 12)
    for prompt, probabilities in zip(prompts, found, strict=True):
        rows = [EncodedRow(*codec.row_ids(prompt, one)) for one in labels]
        assert probabilities == pytest.approx(
            expected_probabilities(model, rows), rel=1e-3, abs=1e-5
        )


def test_a_label_may_fill_the_last_position_of_a_model() -> None:
    model, codec = tiny_model("gpt2", max_length=10)
    labels = ["1", "20400"]
    found = label_probabilities(model, codec, ["12=", "1="], labels, 4)
    rows = [EncodedRow(*codec.row_ids("12=", one)) for one in labels]
    assert max(len(row.ids) for row in rows) == 10
    assert found[0] == pytest.approx(expected_probabilities(model, rows), rel=1e-4)


def test_labels_may_change_what_stands_in_front_of_them() -> None:
    model, codec = tiny_model()
    labels = ["1", "20", "3"]

    class Turning:
        """A codec whose prompt ends otherwise for one of the labels."""

        pad_id = codec.pad_id

        def row_ids(self, prompt: str, label: str) -> tuple[list[int], int]:
            return codec.row_ids(prompt[:-1] + "+" if label == "20" else prompt, label)

    found = label_probabilities(model, cast(Codec, Turning()), PROMPTS, labels, 6)
    for prompt, probabilities in zip(PROMPTS, found, strict=True):
        rows = [EncodedRow(*Turning().row_ids(prompt, one)) for one in labels]
        assert probabilities == pytest.approx(
            expected_probabilities(model, rows), rel=1e-4
        )


def test_a_model_that_knows_the_classes_is_sure_of_them() -> None:
    model, codec = tiny_model(seed=1)
    labels = {"even": "22", "odd": "1"}
    rows = [
        (f"{number}=", labels["odd" if number % 2 else "even"]) for number in range(40)
    ]
    learn(model, codec, rows[:30])
    names = sorted(labels.values())
    found = label_probabilities(model, codec, [prompt for prompt, _ in rows], names, 16)
    choices = [
        class_choice(names, probabilities, label)
        for probabilities, (_, label) in zip(found, rows, strict=True)
    ]
    assert (
        sum(one.name == label for one, (_, label) in zip(choices, rows, strict=True))
        >= 36
    )
    assert sum(one.squared_error for one in choices) / len(choices) < 0.2


def learn(model: Any, codec: Codec, rows: list[tuple[str, str]]) -> None:
    """A few steps of plain gradient descent on the labels."""
    from components.modeling.likelihood import CompletionLoss, collate

    batch = collate([EncodedRow(*codec.row_ids(*row)) for row in rows], codec.pad_id)
    loss, optimizer = (
        CompletionLoss(model),
        torch.optim.AdamW(model.parameters(), lr=5e-3),
    )
    for _ in range(60):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
