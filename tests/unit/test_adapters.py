"""Adapters on tiny real models: the same function fresh and grown, and folders that peft reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from components.contracts.recipe import LoraSection, LoraStructure
from components.errors import Corrupt, UserError
from components.modeling.lstm import LstmConfig, LstmForCausalLM
from components.train.process.adapter_merge import (
    merged_state,
    plain_state,
    verify_merge,
)
from components.train.process.adapters import (
    adapters_off,
    attach,
    factors,
    lora_layers,
    read_adapter,
    resolve,
    save_adapter,
)
from tests.unit.adapting import CLOSE, SMALL, adapter, logits, made, trained
from tests.unit.tiny import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_adapter_leaves_the_function_as_it_is_and_training_leaves_the_base(
    architecture: str,
) -> None:
    base = made(architecture)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = attach(made(architecture), SMALL)
    assert torch.equal(logits(model), logits(base))
    assert not any(module.training for module in model.modules())
    trained(model)
    assert (logits(model) - logits(base)).abs().max() > 1e-3
    after = model.state_dict()
    frozen = {
        name.replace(".base_layer.", "."): one
        for name, one in after.items()
        if ".lora_" not in name
    }
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)


def test_only_the_adapters_and_what_is_unfrozen_are_trained() -> None:
    model = attach(
        made("llama"),
        LoraStructure(
            rank=2, unfrozen_layers=1, unfrozen_modules=("model.norm", "lm_head")
        ),
    )
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    whole = ("model.layers.1.", "model.norm.", "lm_head.")
    assert {name.split(".lora_")[0] for name in names if ".lora_" in name} == {
        f"model.layers.0.{place}"
        for place in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    }
    plain = {name for name in names if ".lora_" not in name}
    assert plain == {
        name for name in made("llama").state_dict() if name.startswith(whole)
    }


def test_dropout_is_off_until_the_model_is_trained() -> None:
    model = trained(attach(made("llama"), LoraStructure(rank=2, dropout=0.5)))
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


GROWN: list[tuple[str, LoraStructure, bool]] = [
    ("the same", SMALL, True),
    ("rank", SMALL.model_copy(update={"rank": 4}), False),
    ("a rank no multiple of the old one", SMALL.model_copy(update={"rank": 5}), False),
    ("scale", SMALL.model_copy(update={"rank": 4, "scale": 0.7}), False),
    ("a layer in full", SMALL.model_copy(update={"unfrozen_layers": 1}), False),
    (
        "all layers in full",
        SMALL.model_copy(update={"rank": 3, "unfrozen_layers": 9}),
        False,
    ),
    (
        "norms and the head in full",
        SMALL.model_copy(update={"unfrozen_modules": ("norms", "embed_tokens")}),
        True,
    ),
]


@pytest.mark.parametrize("architecture", ["llama", "llama-nope"])
@pytest.mark.parametrize(
    ("structure", "to_the_bit"),
    [case[1:] for case in GROWN],
    ids=[case[0] for case in GROWN],
)
def test_a_grown_adapter_computes_the_old_function(
    tmp_path: Path, architecture: str, structure: LoraStructure, to_the_bit: bool
) -> None:
    saved, before = adapter(tmp_path, architecture)
    grown = attach(made(architecture), structure, saved)
    after = logits(grown)
    torch.testing.assert_close(after, before, **CLOSE)
    assert torch.equal(after, before) or not to_the_bit
    assert (logits(trained(grown)) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    "grow",
    [
        {"rank": 4},
        {"scale": 0.7},
        {"unfrozen_layers": 1},
        {"unfrozen_modules": ("ln_f",)},
    ],
)
def test_gpt2_grows_too_though_its_weights_lie_the_other_way(
    tmp_path: Path, grow: dict[str, Any]
) -> None:
    saved, before = adapter(tmp_path, "gpt2")
    grown = attach(made("gpt2"), SMALL.model_copy(update=grow), saved)
    torch.testing.assert_close(logits(grown), before, **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "lstm"])
def test_with_its_adapters_off_a_model_is_the_base_and_is_trained_as_before_afterwards(
    tmp_path: Path, architecture: str
) -> None:
    saved, before = adapter(tmp_path, architecture)
    model = attach(made(architecture), SMALL, saved)
    trainable = [
        name for name, weight in model.named_parameters() if weight.requires_grad
    ]
    with adapters_off(model):
        assert torch.equal(logits(model), logits(made(architecture)))
    torch.testing.assert_close(logits(model), before, **CLOSE)
    assert trainable == [
        name for name, weight in model.named_parameters() if weight.requires_grad
    ]


def test_an_lstm_grows_into_its_recurrent_layers_last_first(tmp_path: Path) -> None:
    saved, before = adapter(tmp_path, "lstm")
    grown = attach(
        made("lstm"), LoraStructure(rank=8, scale=3.0, unfrozen_layers=1), saved
    )
    torch.testing.assert_close(logits(grown), before, **CLOSE)
    assert {
        name for name, weight in grown.model.named_parameters() if weight.requires_grad
    } == {
        f"lstm.{kind}_l1" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    whole = attach(
        made("lstm"), LoraStructure(rank=8, scale=3.0, unfrozen_layers=2), saved
    )
    assert all(weight.requires_grad for weight in whole.model.lstm.parameters())


def test_new_targets_begin_at_zero(tmp_path: Path) -> None:
    few = LoraStructure(rank=2, targets=("q_proj", "v_proj"))
    saved, before = adapter(tmp_path, "llama", few)
    more = few.model_copy(
        update={"targets": ("q_proj", "v_proj", "mlp.up_proj", "lm_head")}
    )
    grown = attach(made("llama"), more, saved)
    assert torch.equal(logits(grown), before)
    assert not grown.lm_head.lora_B["default"].weight.any()


def test_rows_that_a_grown_rank_adds_can_learn(tmp_path: Path) -> None:
    saved, _ = adapter(tmp_path, "llama")
    grown = attach(made("llama"), SMALL.model_copy(update={"rank": 4}), saved)
    layer = grown.model.layers[0].mlp.up_proj
    assert layer.lora_A["default"].weight[2:].abs().min() > 0
    assert not layer.lora_B["default"].weight[:, 2:].any()
    trained(grown, steps=1)
    assert layer.lora_B["default"].weight[:, 2:].any()


def test_growth_goes_on_from_growth(tmp_path: Path) -> None:
    saved, _ = adapter(tmp_path / "first", "gpt2")
    second = SMALL.model_copy(update={"rank": 4, "unfrozen_layers": 1})
    model = trained(attach(made("gpt2"), second, saved))
    save_adapter(model, second, tmp_path / "second")
    third = second.model_copy(
        update={"rank": 8, "unfrozen_modules": ("norms", "ln_f", "wte")}
    )
    torch.testing.assert_close(
        logits(attach(made("gpt2"), third, tmp_path / "second")), logits(model), **CLOSE
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_smaller_rank_keeps_the_strongest_part_of_the_product(
    tmp_path: Path, architecture: str
) -> None:
    large = SMALL.model_copy(update={"rank": 6})
    saved, before = adapter(tmp_path, architecture, large)
    _, tensors = read_adapter(saved)
    distances = []
    for rank in (1, 3, 5):
        small = SMALL.model_copy(update={"rank": rank, "scale": 3.0})
        model = attach(made(architecture), small, saved)
        for name, layer in lora_layers(model).items():
            assert layer.lora_A["default"].weight.shape[0] == rank
            a, b = factors(tensors, name)
            left, strengths, right = torch.linalg.svd(large.scale * b @ a)
            best = left[:, :rank] * strengths[:rank] @ right[:rank]
            weights = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            torch.testing.assert_close(
                3.0 * weights.double(), best, rtol=1e-4, atol=1e-5
            )
        distances.append(float((logits(model) - before).abs().max()))
        trained(model)
    assert distances[0] > distances[-1] > 0


def test_a_rank_that_was_never_used_is_given_up_without_a_change(
    tmp_path: Path,
) -> None:
    saved, _ = adapter(tmp_path / "small", "llama")
    grown_structure = SMALL.model_copy(update={"rank": 8})
    grown = attach(made("llama"), grown_structure, saved)
    save_adapter(grown, grown_structure, tmp_path / "grown")
    back = attach(made("llama"), SMALL, tmp_path / "grown")
    torch.testing.assert_close(logits(back), logits(grown), **CLOSE)


@pytest.mark.parametrize("change", [{"targets": ("q_proj",)}, {"unfrozen_layers": 0}])
def test_a_structure_that_lacks_what_the_adapter_has_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    large = SMALL.model_copy(update={"unfrozen_layers": 1})
    saved, _ = adapter(tmp_path, "llama", large)
    if (
        "unfrozen_layers" in change
    ):  # its targets would cover the layer's linear modules, but not its norms
        change = {**change, "targets": "all-linear"}
    with pytest.raises(UserError, match="only the rank may get smaller"):
        attach(made("llama"), large.model_copy(update=change), saved)


@pytest.mark.parametrize(
    ("architecture", "structure", "says"),
    [
        (
            "llama",
            LoraStructure(targets=("q_proj", "qkv")),
            r"no linear module 'qkv' \(there are down_proj, .*lm_head",
        ),
        (
            "lstm",
            LoraStructure(targets=("q_proj",)),
            r"no linear module 'q_proj' \(there are lm_head\)",
        ),
        (
            "gpt2",
            LoraStructure(targets=("lm_head",)),
            "lm_head shares its weights with the embedding",
        ),
        (
            "gpt2",
            LoraStructure(unfrozen_modules=("lm_head",)),
            "lm_head shares its weights with the embedding",
        ),
        (
            "llama",
            LoraStructure(unfrozen_modules=("ln_f",)),
            r"no module 'ln_f' \(there are .*input_layernorm",
        ),
    ],
)
def test_a_structure_the_model_cannot_have_says_what_there_is(
    architecture: str, structure: LoraStructure, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        attach(made(architecture), structure)


def test_all_linear_leaves_the_head_unless_there_is_nothing_else() -> None:
    assert "lm_head" not in resolve(made("llama"), SMALL).adapted
    assert resolve(made("lstm"), SMALL).adapted == {"lm_head": False}
    assert resolve(made("gpt2"), SMALL).adapted["transformer.h.0.attn.c_attn"] is True
    with pytest.raises(UserError, match="none but what is tied to the embedding"):
        resolve(
            LstmForCausalLM(
                LstmConfig(vocab_size=21, hidden_size=8, tie_word_embeddings=True)
            ),
            SMALL,
        )


def test_a_tied_embedding_is_trained_and_merged_as_one_if_it_is_named(
    tmp_path: Path,
) -> None:
    structure = LoraStructure(rank=2, unfrozen_modules=("wte",))
    model = trained(attach(made("gpt2"), structure))
    save_adapter(model, structure, tmp_path)
    merged = merged_state(model)
    assert "lm_head.weight" not in merged
    assert not torch.equal(
        merged["transformer.wte.weight"], made("gpt2").transformer.wte.weight
    )
    verify_merge(plain_state(made("gpt2")), tmp_path, merged)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_itself_reads_the_folder(tmp_path: Path, architecture: str) -> None:
    structure = SMALL.model_copy(
        update={"unfrozen_layers": 2 if architecture == "lstm" else 1}
    )
    saved, before = adapter(tmp_path, architecture, structure)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(made(architecture), saved).eval()),
        before,
        **CLOSE,
    )


def test_the_folder_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    structure = SMALL.model_copy(update={"unfrozen_modules": ("norms",)})
    for name in ("one", "two"):
        adapter(tmp_path / name, "llama", structure)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "structure.json",
    ]
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        for name in files
    )
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_folder_whose_files_disagree_is_corrupt(tmp_path: Path) -> None:
    saved, _ = adapter(tmp_path, "llama")
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)
    with pytest.raises(Corrupt, match="one of adapter_model"):
        attach(made("llama"), SMALL, saved)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"version": 2}, "version: Extra inputs are not permitted"),
        ({"adapted": ["q_proj"]}, "adapted: Input should be"),
        ({"unfrozen": None}, "unfrozen: Input should be"),
        ({"structure": {"rank": 0}}, "structure.rank: Input should be greater than"),
        ({"structure": {"alpha": 16}}, "structure.alpha: "),
        ({"structure": "lora"}, "structure: Input should be"),
    ],
)
def test_an_adapter_of_another_version_is_told_in_one_line(
    tmp_path: Path, changes: dict[str, Any], refusal: str
) -> None:
    saved, _ = adapter(tmp_path, "llama")
    path = saved / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    words = rf"adapter: .* another version of Ratchet \({refusal}"
    with pytest.raises(UserError, match=words) as refused:
        attach(made("llama"), SMALL, saved)
    assert "\n" not in str(refused.value)


def test_the_first_structure_lies_within_its_bounds() -> None:
    with pytest.raises(ValueError, match="raise max_rank"):
        LoraSection(rank=128)
    with pytest.raises(ValueError, match="raise max_unfrozen_layers"):
        LoraSection(unfrozen_layers=3)
    assert LoraSection(rank=4, targets=("q_proj",)).structure == LoraStructure(
        rank=4, targets=("q_proj",)
    )
