"""Decoder layers that are inserted as identities or taken out by their influence.

A new order of layers is a list of numbers: new layer i is the old layer `sources[i]`. A number that
repeats the one before it is an inserted copy: its output projections are zero, so that only its
residual connection is left, and the model computes what it did before (LLaMA Pro, 2401.02415). A
number that is missing is a layer that was taken out (ShortGPT, 2403.03853).

A rebuilt model is a stock model of its class: its config names the new depth.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from components.errors import UserError, one_line
from components.modeling.load import quiet
from components.modeling.weights import check_report

OUTPUT_PROJECTIONS = (
    "o_proj",
    "down_proj",
    "c_proj",
    "out_proj",
    "dense",
    "dense_4h_to_h",
    "fc2",
    "fc_out",
)
"""Last part of the names of the linear modules by which a layer adds to the hidden states: those of
Llama and its kin, of GPT-2, OPT, GPT-NeoX, Bloom, Falcon, Phi and GPT-J."""
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")
"""Names of lists in configs that have an entry for each layer."""
CHECKED_TOKENS = 8
"""Tokens on which a model with an inserted layer must compute what it did."""


def identity_sources(num_layers: int, target: int) -> tuple[int, ...]:
    """Return the order of `target` layers in which copies are spread evenly among `num_layers`.

    The layers are divided into as many groups as there are copies, and each group's last layer is
    copied (2401.02415, section 3.2).
    """
    num_copies = target - num_layers
    copied = [(group + 1) * num_layers // num_copies - 1 for group in range(num_copies)]
    # With more copies than layers the first groups are empty: they copy the first layer.
    return tuple(sorted([*range(num_layers), *(max(0, layer) for layer in copied)]))


def least_influential_removed(
    influences: Sequence[float], target: int
) -> tuple[int, ...]:
    """Return the order of the `target` layers with the highest influence."""
    by_influence = sorted(
        range(len(influences)), key=lambda layer: (-influences[layer], layer)
    )
    return tuple(sorted(by_influence[:target]))


@torch.inference_mode()
def block_influences(
    model: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> list[float]:
    """Return the Block Influence of each layer: 1 - the mean cosine of what goes in and comes out.

    The mean is over all tokens of all rows (2403.03853, equation 1).

    Args:
        model: in eval mode.
        rows: token ids of some texts.
    """
    blocks = blocks_of(model)
    totals = torch.zeros(len(blocks), dtype=torch.float64)
    num_tokens = 0
    for ids in rows:
        with _hidden_states_of(blocks) as states:
            # One row at a time: padding has hidden states too.
            model(
                input_ids=torch.tensor([list(ids)], device=model.device),
                use_cache=False,
            )
        for layer, (states_in, states_out) in states.items():
            cosines = F.cosine_similarity(states_in.float(), states_out.float(), dim=-1)
            totals[layer] += float(cosines.double().sum())
        num_tokens += len(ids)
    means = totals / max(1, num_tokens)
    influences: list[float] = (1.0 - means).tolist()
    return influences


@contextmanager
def _hidden_states_of(
    blocks: nn.ModuleList,
) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Yield a dict that a forward pass fills: layer → hidden states before and after it."""
    states: dict[int, tuple[Tensor, Tensor]] = {}
    handles: list[RemovableHandle] = []
    for layer, block in enumerate(blocks):
        hook = partial(_record, states, layer)
        handles.append(block.register_forward_hook(hook, with_kwargs=True))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _record(
    states: dict[int, tuple[Tensor, Tensor]],
    layer: int,
    module: nn.Module,
    positional: tuple[Tensor, ...],
    named: dict[str, Tensor],
    output: Tensor | tuple[Tensor, ...],
) -> None:
    """Keep a layer's hidden states, as a forward hook."""
    states_in = positional[0] if positional else named["hidden_states"]
    states_out = output if isinstance(output, Tensor) else output[0]
    states[layer] = (states_in, states_out)


@torch.no_grad()
def rebuilt(
    model: PreTrainedModel, sources: Sequence[int], inserted: Sequence[int] = ()
) -> PreTrainedModel:
    """Return a model of another order of layers, in eval mode.

    It is made from its config and tensors, as whoever loads it from files makes it. Its config has
    the new depth, lists of layers in the new order, and `inserted_layers`: the inserted layers,
    also those that were inserted earlier.

    Args:
        model: in eval mode; its tensors may be used on.
        sources: the order; see above.
        inserted: layers that were inserted earlier, in the old order.

    Raises:
        UserError: a copy of such a layer cannot be made an identity, or the config has no such
            depth.
    """
    copies = _copies(sources)
    earlier_layers = [
        layer for layer, source in enumerate(sources) if source in inserted
    ]
    config = _config_of(model, sources, sorted({*earlier_layers, *copies}))
    with quiet():
        new_model, report = type(model).from_pretrained(
            None,
            config=config,
            state_dict=_tensors_of(model, sources, copies),
            dtype=model.dtype,
            attn_implementation=model.config._attn_implementation,
            output_loading_info=True,
        )
    check_report(
        report, f"train.layers: {type(model).__name__} with {len(sources)} layers"
    )
    rebuilt_model: PreTrainedModel = new_model.to(model.device).eval()
    if copies:
        # Layers that normalise after their residual connection are no identity, whatever they add,
        # nor are layers that compute by their number.
        is_identity = torch.allclose(
            _logits(rebuilt_model), _logits(model), rtol=0.0, atol=0.0, equal_nan=True
        )
        if not is_identity:
            raise UserError(
                f"train.layers: an inserted layer of {type(model).__name__} is no identity, "
                "whatever its output projections are: unset layers.extra and max_extra"
            )
    return rebuilt_model


def _copies(sources: Sequence[int]) -> list[int]:
    """Return the places in an order of layers that hold an inserted copy."""
    return [
        layer
        for layer in range(1, len(sources))
        if sources[layer] == sources[layer - 1]
    ]


def _tensors_of(
    model: PreTrainedModel, sources: Sequence[int], copies: Sequence[int]
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of the model in another order of layers."""
    blocks = blocks_of(model)
    prefix = (
        next(name for name, module in model.named_modules() if module is blocks) + "."
    )
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(prefix):
            tensors[name] = tensor
    for layer, source in enumerate(sources):
        block = blocks[source]
        silent = _output_projections(model, block) if layer in copies else ()
        for name, tensor in block.state_dict().items():
            is_silent = name.rpartition(".")[0] in silent
            # Every layer has tensors of its own.
            of_layer = torch.zeros_like(tensor) if is_silent else tensor.clone()
            tensors[f"{prefix}{layer}.{name}"] = of_layer
    return tensors


def check_depth(config: PreTrainedConfig, least_extra: int, most_extra: int) -> None:
    """Raise UserError if models of a config cannot have so many layers more (or, below 0, fewer).

    No weight is made. Whether an inserted layer is an identity is known when there is one.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    blocks = blocks_of(model)
    if len(blocks) + least_extra < 1:
        raise UserError(
            f"train.layers: the base has {len(blocks)} decoder layers, and one has to stay: raise "
            f"layers.extra or min_extra to {1 - len(blocks)} or more"
        )
    if most_extra > 0:
        for block in blocks:
            _output_projections(model, block)


def depth_of(config_file: Path) -> int | None:
    """Return the decoder layers that a checkpoint's config.json names; None if it names none."""
    depth = getattr(read_config(config_file), "num_hidden_layers", None)
    return None if depth is None else int(depth)


def read_config(config_file: Path) -> PreTrainedConfig:
    """Return the config of a checkpoint, from its config.json alone."""
    document = json.loads(config_file.read_text(encoding="utf-8"))
    config: PreTrainedConfig = AutoConfig.for_model(**document)
    return config


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder layers: the first list of as many modules as the config has layers.

    Raises UserError if there is none.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(
        f"train.layers: {type(model).__name__} has no list of decoder layers, so none can be "
        "inserted or taken out: unset layers.extra, min_extra and max_extra"
    )


def parameters_of_layers(
    model: PreTrainedModel, key: str, remedy: str
) -> list[list[str]]:
    """Return the parameter names of each layer, first to last.

    The layers are the first list of as many modules as the config has layers, or the first
    recurrent stack of that depth.

    Args:
        model: the model.
        key: of the recipe, which asks for layers.
        remedy: what to do where there are none.

    Raises:
        UserError: there is neither.
    """
    length = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return [
                [f"{name}.{index}.{leaf}" for leaf, _ in layer.named_parameters()]
                for index, layer in enumerate(module)
            ]
        if isinstance(module, nn.RNNBase) and module.num_layers == length:
            # torch names the parameters of layer 2 weight_ih_l2, bias_hh_l2_reverse, …
            leaves = [leaf for leaf, _ in module.named_parameters()]
            return [
                [
                    f"{name}.{leaf}"
                    for leaf in leaves
                    if re.search(rf"_l{index}(_|$)", leaf)
                ]
                for index in range(length)
            ]
    raise UserError(f"{key}: the layers of this model are in no list; {remedy}")


def inserted_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the layers that `rebuild` says it inserted."""
    return tuple(getattr(config, "inserted_layers", None) or ())


def _output_projections(model: PreTrainedModel, block: nn.Module) -> set[str]:
    """Return the names of the modules by which a layer adds to the hidden states.

    Raises UserError if none has a known name.
    """
    projections = set()
    for name, module in block.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D)
        if is_linear and name.rpartition(".")[2] in OUTPUT_PROJECTIONS:
            projections.add(name)
    if not projections:
        raise UserError(
            f"train.layers: a layer of {type(model).__name__} ({type(block).__name__}) has no "
            f"output projection of a known name ({', '.join(OUTPUT_PROJECTIONS)}), so none can be "
            "inserted: unset layers.extra and max_extra"
        )
    return projections


def _config_of(
    model: PreTrainedModel, sources: Sequence[int], inserted: Sequence[int]
) -> PreTrainedConfig:
    """Return a model's config for another order of layers. Raises UserError."""
    config = copy.deepcopy(model.config)
    for name in PER_LAYER:
        entries = getattr(config, name, None)
        if isinstance(entries, list) and len(entries) == config.num_hidden_layers:
            setattr(config, name, [entries[source] for source in sources])
    config.num_hidden_layers = len(sources)
    config.inserted_layers = list(inserted)
    try:
        # As it is read from its file.
        new_config: PreTrainedConfig = AutoConfig.for_model(**config.to_dict())
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UserError(
            f"train.layers: the config of {type(model).__name__} does not take another number of "
            f"layers ({one_line(error)}): unset layers.extra, min_extra and max_extra"
        ) from None
    return new_config


def _logits(model: PreTrainedModel) -> Tensor:
    """Return the logits of a few tokens."""
    ids = (
        torch.arange(1, 1 + CHECKED_TOKENS, device=model.device)
        % model.config.vocab_size
    )
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits
