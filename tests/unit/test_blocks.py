"""Decoder layers on tiny real models: inserted without a change of the function, and taken out by
their influence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from components.errors import UserError
from components.modeling.blocks import (
    block_influences,
    blocks_of,
    check_depth,
    depth_of,
    identity_sources,
    inserted_layers,
    least_influential_removed,
    rebuilt,
)
from tests.unit.kinds_of_models import KINDS, random_model
from tests.unit.tiny import tiny_model

IDS = torch.tensor([[3, 9, 4, 11, 5, 7, 1, 2], [8, 2, 6, 6, 1, 10, 3, 3]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model(input_ids=IDS).logits
    return scores


def answer(model: Any, **settings: Any) -> list[list[int]]:
    """A greedy answer, longer than a sliding window."""
    tokens: list[list[int]] = model.generate(
        IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    ).tolist()
    return tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_inserted_layers_computes_what_it_did_after_saving_too(
    kind: str, tmp_path: Path
) -> None:
    model = random_model(kind)
    before = logits(model)
    answer_before = answer(model)
    num_parameters = model.num_parameters()
    model = rebuilt(model, identity_sources(4, 6))
    assert len(blocks_of(model)) == model.config.num_hidden_layers == 6
    assert inserted_layers(model.config) == (2, 5)
    assert model.num_parameters() > num_parameters
    assert torch.equal(logits(model), before)
    # As any user of transformers loads it.
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    assert depth_of(tmp_path / "config.json") == len(blocks_of(loaded)) == 6
    assert torch.equal(logits(loaded), before)
    # Keys and values of a layer are cached under its number.
    assert answer(loaded) == answer_before
    assert answer(loaded, use_cache=False) == answer_before


def test_an_inserted_layer_learns() -> None:
    model = random_model("llama")
    model = rebuilt(model, identity_sources(4, 5))
    model(input_ids=IDS, labels=IDS).loss.backward()
    inserted = blocks_of(model)[4]
    assert inserted.self_attn.o_proj.weight.grad.abs().max() > 0
    assert inserted.mlp.down_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("num_layers", "target", "sources"),
    [
        (4, 5, (0, 1, 2, 3, 3)),
        (4, 6, (0, 1, 1, 2, 3, 3)),
        (4, 8, (0, 0, 1, 1, 2, 2, 3, 3)),
        (30, 33, (*range(10), 9, *range(10, 20), 19, *range(20, 30), 29)),
        (1, 3, (0, 0, 0)),
        (2, 5, (0, 0, 0, 1, 1)),
    ],
)
def test_copies_are_spread_evenly(
    num_layers: int, target: int, sources: tuple[int, ...]
) -> None:
    assert identity_sources(num_layers, target) == sources


@pytest.mark.parametrize(("num_layers", "target"), [(1, 3), (2, 5), (3, 4)])
def test_several_copies_of_one_layer_are_identities_too(
    num_layers: int, target: int
) -> None:
    model = random_model("gpt2", num_hidden_layers=num_layers)
    before = logits(model)
    model = rebuilt(model, identity_sources(num_layers, target))
    assert torch.equal(logits(model), before)
    assert len(inserted_layers(model.config)) == target - num_layers


def test_layers_inserted_earlier_stay_known_by_their_new_numbers() -> None:
    model = random_model("llama", num_hidden_layers=2)
    model = rebuilt(model, identity_sources(2, 3))
    assert inserted_layers(model.config) == (2,)
    model = rebuilt(model, identity_sources(3, 5), inserted_layers(model.config))
    # 0, 0' and 1, then the earlier copy of 1 and its own copy.
    assert inserted_layers(model.config) == (1, 3, 4)
    model = rebuilt(model, (0, 2, 3), inserted_layers(model.config))
    assert inserted_layers(model.config) == (2,)


def test_influence_is_one_minus_the_mean_cosine_over_all_tokens() -> None:
    model = random_model("llama")
    rows = [[3, 9, 4], [8, 2, 6, 6, 1]]
    sums = torch.zeros(3)
    for row in rows:
        states = model(
            input_ids=torch.tensor([row]), output_hidden_states=True
        ).hidden_states
        # The last one has been normalised.
        for layer in range(3):
            cosines = nn.functional.cosine_similarity(
                states[layer], states[layer + 1], dim=-1
            )
            sums[layer] += cosines.sum().detach()
    influences = block_influences(model, rows)
    assert len(influences) == 4
    assert influences[:3] == pytest.approx((1 - sums / 8).tolist(), abs=1e-5)
    assert min(influences) > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2", "opt"])
def test_an_identity_has_no_influence_and_is_the_first_to_go(kind: str) -> None:
    model = random_model(kind)
    before = logits(model)
    model = rebuilt(model, identity_sources(4, 6))
    influences = block_influences(model, IDS.tolist())
    assert [abs(influences[layer]) < 1e-6 for layer in range(6)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    model = rebuilt(
        model, least_influential_removed(influences, 4), inserted_layers(model.config)
    )
    assert inserted_layers(model.config) == ()
    assert torch.equal(logits(model), before)


def test_layers_of_the_least_influence_go_and_the_others_keep_their_order() -> None:
    assert least_influential_removed([0.5, 0.1, 0.4, 0.1, 0.9], 4) == (0, 1, 2, 4)
    assert least_influential_removed([0.5, 0.1, 0.4, 0.1, 0.9], 2) == (0, 4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "smollm3", "qwen2"])
def test_a_smaller_model_is_saved_as_it_is(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    before = logits(model)
    model = rebuilt(model, (0, 1, 3))
    smaller = logits(model)
    assert not torch.allclose(smaller, before)
    answer_before = answer(model, use_cache=False)
    assert answer(model) == answer_before
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    assert torch.equal(logits(loaded), smaller)
    assert answer(loaded) == answer_before


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("opt", {"do_layer_norm_before": False}, "OPTForCausalLM is no identity"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "GPT2LMHeadModel is no identity",
        ),
        ("mixtral", {"num_local_experts": 2}, "MixtralForCausalLM"),
        (
            "gpt_neo",
            {"attention_types": [[["global", "local"], 2]]},
            "GPTNeoForCausalLM",
        ),
        ("rwkv", {}, "RwkvForCausalLM"),
    ],
)
def test_a_layer_that_is_no_identity_is_refused_by_name(
    kind: str, settings: dict[str, Any], says: str
) -> None:
    model = random_model(kind, **settings)
    with pytest.raises(UserError, match=f"train.layers: .*{says}"):
        rebuilt(model, identity_sources(4, 6))


def test_an_lstm_has_no_layers_to_insert_or_to_take_out() -> None:
    model, _ = tiny_model("lstm")
    for change in (1, -1):
        with pytest.raises(
            UserError, match="LstmForCausalLM has no list of decoder layers"
        ):
            check_depth(model.config, min(0, change), max(0, change))


def test_a_depth_is_refused_before_any_weight_is_read() -> None:
    config = tiny_model("llama")[0].config
    check_depth(config, -1, 4)
    with pytest.raises(
        UserError, match=r"has 2 decoder layers, and one has to stay: .* -1 or"
    ):
        check_depth(config, -2, 0)
