"""The LSTM language model: padding and neighbours change nothing, it is sampled, saved and trained
as any model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.modeling.inference.sampler import Request, Sampling, sample
from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss
from components.modeling.load import load_model, save_checkpoint
from components.modeling.lstm import LstmConfig, LstmForCausalLM
from components.train.process.packing import keeps_rows_apart
from tests.unit.tiny import tiny_model
from tests.unit.trainings import train

PROMPTS = ["12=", "9876=", "5=", "13579=", "24680=", "777="]


def lively_model(seed: int = 0, **settings: Any) -> tuple[Any, Any]:
    """Fresh weights forget their prompt within a few tokens; four times as large, every token
    tells."""
    model, codec = tiny_model("lstm", seed, **settings)
    for weight in model.requires_grad_(False).parameters():
        weight.mul_(4)
    return model, codec


def padded(codec: Any, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """PROMPTS as (ids, mask), padded on one side."""
    codec.tokenizer.padding_side = "left" if left else "right"
    rows = codec.tokenizer.pad(
        {"input_ids": [codec.prompt_ids(text) for text in PROMPTS]}, return_tensors="pt"
    )
    return rows["input_ids"], rows["attention_mask"]


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_gives_the_same_logits_to_the_bit(
    tied: bool, tmp_path: Path
) -> None:
    _, codec = tiny_model("lstm")
    shape = {
        "vocab_size": len(codec.tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
    }
    model = LstmForCausalLM(LstmConfig(tie_word_embeddings=tied, **shape)).eval()
    save_checkpoint(model, codec.tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    ids = torch.tensor([[1, 5, 6, 7]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("embedding_size", [None, 20, 48])
@pytest.mark.parametrize("left", [True, False])
def test_padding_leaves_outputs_and_state_of_a_row_as_they_are(
    left: bool, embedding_size: int | None
) -> None:
    model, codec = lively_model(embedding_size=embedding_size)
    ids, mask = padded(codec, left)
    together = model(ids, attention_mask=mask, use_cache=True)
    state = together.cache.layers[0]
    for row, text in enumerate(PROMPTS):
        alone = model(torch.tensor([codec.prompt_ids(text)]), use_cache=True)
        torch.testing.assert_close(
            together.logits[row][mask[row].bool()], alone.logits[0]
        )
        torch.testing.assert_close(state.keys[row], alone.cache.layers[0].keys[0])
        torch.testing.assert_close(state.values[row], alone.cache.layers[0].values[0])


@pytest.mark.parametrize("embedding_size", [None, 20])
def test_a_sequence_may_come_in_pieces_with_padding_anywhere(
    embedding_size: int | None,
) -> None:
    model, _ = lively_model(embedding_size=embedding_size)
    torch.manual_seed(0)
    ids, mask = torch.randint(4, 21, (4, 24)), torch.rand(4, 24) < 0.6
    mask[0, :9] = mask[1, 9:16] = mask[2, 16:] = (
        False  # whole pieces of padding, at each place
    )
    cache: Any = None
    logits = []
    for start, end in ((0, 9), (9, 16), (16, 24)):
        output = model(
            ids[:, start:end],
            attention_mask=mask[:, :end].long(),
            cache=cache,
            use_cache=True,
        )
        cache = output.cache
        logits.append(output.logits)
    assert cache.get_seq_length() == 24
    for row in range(4):
        alone = model(ids[row][mask[row]][None], use_cache=True)
        torch.testing.assert_close(
            torch.cat(logits, dim=1)[row][mask[row]], alone.logits[0]
        )
        torch.testing.assert_close(
            cache.layers[0].values[row], alone.cache.layers[0].values[0]
        )


def test_generate_and_the_engine_agree_on_a_batch_of_mixed_lengths() -> None:
    model, codec = lively_model(seed=3)
    ids, mask = padded(codec, left=True)
    settings = {
        "attention_mask": mask,
        "max_new_tokens": 12,
        "do_sample": False,
        "pad_token_id": codec.pad_id,
    }
    theirs = model.generate(ids, **settings)[:, ids.shape[1] :].tolist()
    assert (
        model.generate(ids, use_cache=False, **settings)[:, ids.shape[1] :].tolist()
        == theirs
    )
    requests = [Request(tuple(codec.prompt_ids(text)), (0,)) for text in PROMPTS]
    own = sample(
        model, requests, Sampling(0.0, 0, 1.0, 12, 64), codec.end_ids, codec.pad_id
    )
    for answer in own:
        ended = [*answer.ids, *(codec.end_ids if answer.finished else ())]
        assert ended == theirs[answer.request][: len(ended)]
    for row, text in enumerate(PROMPTS):
        alone = model.generate(
            torch.tensor([codec.prompt_ids(text)]),
            **{**settings, "attention_mask": None},
        )
        new = alone[0, len(codec.prompt_ids(text)) :].tolist()
        assert new == theirs[row][: len(new)]
    assert len({tuple(row) for row in theirs}) == len(PROMPTS)


def test_beams_take_their_state_along() -> None:
    model, codec = lively_model(seed=3)
    ids, mask = padded(codec, left=True)
    settings = {
        "attention_mask": mask,
        "max_new_tokens": 8,
        "num_beams": 3,
        "pad_token_id": codec.pad_id,
    }
    assert (
        model.generate(ids, **settings).tolist()
        == model.generate(ids, use_cache=False, **settings).tolist()
    )


def test_samples_do_not_depend_on_their_neighbours() -> None:
    model, codec = lively_model(seed=1)
    requests = [
        Request(tuple(codec.prompt_ids(text)), tuple(range(5))) for text in PROMPTS
    ]
    drawn = [
        {
            (answer.request, answer.index): answer.ids
            for answer in sample(
                model,
                requests,
                Sampling(1.0, 0, 1.0, 12, size),
                codec.end_ids,
                codec.pad_id,
            )
        }
        for size in (64, 4, 1)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({tuple(ids) for ids in drawn[0].values()}) > len(PROMPTS)


def test_the_loss_of_a_row_does_not_depend_on_its_neighbours() -> None:
    model, codec = lively_model()
    rows = [EncodedRow(*codec.row_ids(text, text[::-1])) for text in PROMPTS]
    loss = CompletionLoss(model)
    assert mean_loss(loss, rows, codec.pad_id, len(rows)) == pytest.approx(
        mean_loss(loss, rows, codec.pad_id, 1)
    )


def test_rows_behind_one_another_are_not_isolated_and_the_model_says_so() -> None:
    model, _ = lively_model()
    first, second = [1, 5, 6, 2], [1, 7, 8, 9]
    with torch.inference_mode():
        packed = model(
            torch.tensor([first + second]),
            position_ids=torch.tensor([[0, 1, 2, 3] * 2]),
        ).logits[0, 4:]
        alone = model(torch.tensor([second])).logits[0]
    assert not torch.allclose(packed, alone, atol=1e-3)
    assert not keeps_rows_apart(model)


def test_dropout_is_for_training_alone_and_between_layers_too() -> None:
    model = LstmForCausalLM(
        LstmConfig(vocab_size=16, hidden_size=32, num_hidden_layers=2, dropout=0.5)
    )
    ids = torch.tensor([[1, 5, 6, 7]])
    assert model.model.lstm.dropout == 0.5
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)


@pytest.mark.process
@pytest.mark.parametrize("zero", [1, 3])
def test_the_train_step_lowers_its_loss(zero: int, tmp_path: Path) -> None:
    done = train(tmp_path / "run", steps=40, architecture="lstm", zero=zero)
    assert not done["failure"]
    assert done["final_loss"] < 0.8 * done["first_loss"]
    assert isinstance(load_model(done["folder"]), LstmForCausalLM)
