"""Low-rank adapters beside a frozen base, of a structure that may grow between rounds (LoRA,
2106.09685).

An adapted linear module computes W·x + s·B·A·x, of which A and B are trained; B begins at zero.
Some modules may be trained in full besides. A grown adapter computes what the smaller one did: new
rows of A meet new columns of B, which are zero, and a module that is trained in full from now on
begins at W + s·B·A. A smaller rank keeps the strongest part of B·A, and changes what is computed by
the rest.

An adapter's folder holds PEFT's files (`adapter_model.safetensors`, with the modules trained in
full, and `adapter_config.json`) and `structure.json`. PEFT cannot read some layers of a stacked
LSTM that are trained in full.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from components.contracts.recipe import LoraStructure
from components.errors import Corrupt, UserError
from components.modeling.blocks import parameters_of_layers

ADAPTER = "default"
"""PEFT's name of the one adapter."""
PREFIX = "base_model.model."
"""Prefix of every tensor's name in a PEFT file."""


class Parts(BaseModel):
    """The modules and parameters of one model that a structure names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    structure: LoraStructure
    adapted: dict[str, bool]
    """Linear module → whether its weight is stored (in, out), as GPT-2's are."""
    unfrozen: tuple[str, ...]
    """Parameters that are trained in full."""


def attach(
    model: PreTrainedModel, structure: LoraStructure, saved: Path | None = None
) -> PreTrainedModel:
    """Freeze a base model in place and put adapters beside it.

    The model still computes what the base did, or the base with the saved adapter. Parameters to
    train have `requires_grad`. New rows of A come from torch's global generator.

    Args:
        model: the base.
        structure: of the adapter.
        saved: folder of an adapter of this base to go on from, which is brought to the structure;
            None: a fresh one.

    Raises:
        UserError: the structure names modules that the model lacks, adapts a tied head, or lacks
            something that the saved adapter has.
    """
    parts = resolve(model, structure)
    saved_parts, tensors = read_adapter(saved) if saved is not None else (None, {})
    if saved_parts is not None:
        _must_cover(parts, saved_parts)
    # Adapters save memory. On a CPU a small model (SmolLM2-135M) trains slower with them than in
    # full.
    model.requires_grad_(False)
    if parts.adapted:
        # PEFT warns of Linear and Conv1D in one model: `fan_in_fan_out` is one setting for both.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            model = inject_adapter_in_model(_peft_config(parts), model, ADAPTER)
    for name in parts.unfrozen:
        model.get_parameter(name).requires_grad_(True)
    if saved_parts is not None:
        _restore(model, parts, saved_parts, tensors)
    # Fresh modules are in training mode, whatever mode the model is in.
    return model.train(model.training)


def resolve(model: PreTrainedModel, structure: LoraStructure) -> Parts:
    """Return the modules of a plain model that a structure names.

    Raises UserError that lists the existing modules.
    """
    unfrozen = _unfrozen(model, structure)
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if structure.targets == "all-linear":
        chosen = _all_linear(model, linear)
    else:
        chosen = _targets(model, linear, structure.targets)
    adapted = {
        name: isinstance(module, Conv1D)
        for name, module in linear.items()
        if name in chosen and f"{name}.weight" not in unfrozen
    }
    return Parts(structure=structure, adapted=adapted, unfrozen=unfrozen)


def _all_linear(model: PreTrainedModel, linear: Mapping[str, nn.Module]) -> set[str]:
    """Return all linear modules but the head, and but those that share weights."""
    shared = _shared(model)
    output = model.get_output_embeddings()
    free: set[str] = set()
    head: set[str] = set()
    for name, module in linear.items():
        if id(module.weight) not in shared:
            free.add(name)
        if module is output:
            head.add(name)
    # An LSTM model has no linear module but its head.
    chosen = free - head or free
    if not chosen:
        raise UserError(
            "train.lora.targets all-linear: none but what is tied to the embedding "
            f"({_kinds(linear)})"
        )
    return chosen


def _targets(
    model: PreTrainedModel, linear: Mapping[str, nn.Module], targets: Iterable[str]
) -> set[str]:
    """Return the linear modules that a recipe names. Raises UserError."""
    chosen: set[str] = set()
    for target in targets:
        names = _named(target, linear)
        if not names:
            raise UserError(
                f"train.lora.targets: the model has no linear module {target!r} ({_kinds(linear)})"
            )
        chosen |= set(names)
    shared = _shared(model)
    tied = [name for name in chosen if id(linear[name].weight) in shared]
    if tied:
        raise UserError(
            f"train.lora.targets: {min(tied)} shares its weights with the embedding, which an "
            "adapter beside it would change in the merged model; leave it out, or name the "
            "embedding in unfrozen_modules"
        )
    return chosen


def save_adapter(
    model: PreTrainedModel, structure: LoraStructure, folder: Path
) -> None:
    """Write the adapter of a model that `attach` made with this structure.

    The model must hold whole parameters, not ZeRO's partitions.
    """
    adapted = {}
    for name, layer in lora_layers(model).items():
        adapted[name] = bool(layer.fan_in_fan_out)
    unfrozen: list[str] = []
    parameters: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            # PEFT leaves the adapter's name out of its files.
            parameters[name.replace(f".{ADAPTER}.", ".")] = weight
            continue
        parameters[name] = weight
        if weight.requires_grad:
            unfrozen.append(name)
    parts = Parts(structure=structure, adapted=adapted, unfrozen=tuple(unfrozen))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name in _names(parts):
        tensors[PREFIX + name] = parameters[name].detach().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "structure.json").write_text(
        parts.model_dump_json(indent=1), encoding="utf-8"
    )
    config = _peft_config(parts).to_dict()
    unfrozen_modules = {name.rpartition(".")[0] for name in parts.unfrozen}
    config["modules_to_save"] = sorted(unfrozen_modules) or None
    # PEFT's config holds sets, which have no order of their own.
    text = json.dumps(config, indent=1, sort_keys=True, default=sorted)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _unfrozen(model: PreTrainedModel, structure: LoraStructure) -> tuple[str, ...]:
    """Return the parameters that are trained in full, in the model's order."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    }
    shared = _shared(model)
    # By identity: a tied parameter has several names.
    chosen: set[int] = set()
    if structure.unfrozen_layers:
        layers = parameters_of_layers(
            model,
            "train.lora.unfrozen_layers",
            "name modules in unfrozen_modules, and set unfrozen_layers and max_unfrozen_layers to 0",
        )
        for layer in layers[-structure.unfrozen_layers :]:
            chosen |= {id(model.get_parameter(name)) for name in layer}
    for module_name in structure.unfrozen_modules:
        if module_name == "norms":
            names = [name for name, module in modules.items() if _is_norm(module)]
        else:
            names = _named(module_name, modules)
        if not names:
            raise UserError(
                f"train.lora.unfrozen_modules: the model has no module {module_name!r} "
                f"({_kinds(modules)})"
            )
        for name in names:
            module = modules[name]
            if isinstance(module, nn.Linear) and id(module.weight) in shared:
                raise UserError(
                    f"train.lora.unfrozen_modules: {name} shares its weights with the embedding; "
                    "name the embedding instead, and both are trained as one"
                )
            chosen |= {id(weight) for weight in module.parameters()}
    names = [name for name, weight in model.named_parameters() if id(weight) in chosen]
    return tuple(names)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm")


def _named(module_name: str, modules: Iterable[str]) -> list[str]:
    """Return the modules of this name, or whose path ends with it."""
    suffix = f".{module_name}"
    return [name for name in modules if name == module_name or name.endswith(suffix)]


def _kinds(modules: Iterable[str]) -> str:
    """Return the last names of modules, for a message; without the numbers of lists."""
    ends = {name.rpartition(".")[2] for name in modules}
    kinds = sorted(end for end in ends if not end.isdigit())
    return "there are " + (", ".join(kinds) or "none")


def _shared(model: PreTrainedModel) -> set[int]:
    """Return the identities of the parameters that two modules hold."""
    count = Counter[int]()
    for _, weight in model.named_parameters(remove_duplicate=False):
        count[id(weight)] += 1
    return {identity for identity, times in count.items() if times > 1}


def _peft_config(parts: Parts) -> LoraConfig:
    # PEFT computes the scale as alpha / rank.
    alpha = parts.structure.scale * parts.structure.rank
    return LoraConfig(
        r=parts.structure.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=parts.structure.dropout,
        target_modules=sorted(parts.adapted),
        bias="none",
        fan_in_fan_out=any(parts.adapted.values()),
        task_type="CAUSAL_LM",
    )


def lora_layers(model: PreTrainedModel) -> dict[str, LoraLayer]:
    """Return name → module of every adapted module."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layers[name] = module
    return layers


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Have a model compute what its base does, until the end of the block.

    Modules that are trained in full stay as they are.
    """
    layers = lora_layers(model).values()
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def _names(parts: Parts) -> list[str]:
    """Return the names of the tensors in an adapter's file, without PREFIX."""
    factors = [
        f"{module}.lora_{factor}.weight" for module in parts.adapted for factor in "AB"
    ]
    return [*factors, *parts.unfrozen]


def read_adapter(folder: Path) -> tuple[Parts, dict[str, Tensor]]:
    """Return the parts of a saved adapter, and its tensors under PEFT's names.

    Raises:
        UserError: Another version of Ratchet wrote the parts, in a form that this one refuses.
        Corrupt: The two disagree.
    """
    try:
        parts = Parts.model_validate_json((folder / "structure.json").read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        # Its bytes are those that its receipt names, so only the form differs.
        raise UserError(
            "adapter: its structure.json was written by another version of Ratchet "
            f"({field}: {problem['msg']}); use that version, or begin a new run without "
            "resume_from"
        ) from None
    tensors = load_file(folder / "adapter_model.safetensors")
    differing = tensors.keys() ^ {PREFIX + name for name in _names(parts)}
    if differing:
        raise Corrupt(
            f"adapter: {min(differing)} is in one of adapter_model.safetensors and structure.json "
            "only"
        )
    return parts, tensors


def factors(tensors: Mapping[str, Tensor], module: str) -> tuple[Tensor, Tensor]:
    """Return (A, B) of an adapted module, in float64."""
    a = tensors[f"{PREFIX}{module}.lora_A.weight"]
    b = tensors[f"{PREFIX}{module}.lora_B.weight"]
    return a.double(), b.double()


def of_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors of at most `rank`, whose product B·A is the nearest to the given one.

    By the singular values of the product, which is never made whole (Eckart and Young, 1936).
    """
    if len(a) <= rank:
        return a, b
    b_directions, b_rest = torch.linalg.qr(b)
    a_directions, a_rest = torch.linalg.qr(a.T)
    left, strengths, right = torch.linalg.svd(b_rest @ a_rest.T)
    # Half of each strength to either factor: AdamW takes steps of one size in both.
    roots = strengths[:rank].sqrt()
    new_b = b_directions @ left[:, :rank] * roots
    new_a = roots[:, None] * right[:rank] @ a_directions.T
    return new_a, new_b


def oriented(weight: Tensor, transposed: bool) -> Tensor:
    """Return an (out, in) weight as its module stores it."""
    return weight.T if transposed else weight


def _must_cover(parts: Parts, saved_parts: Parts) -> None:
    """Raise UserError if a structure lacks something that the saved adapter has."""
    lacking = [
        name
        for name in saved_parts.adapted
        if name not in parts.adapted and f"{name}.weight" not in parts.unfrozen
    ]
    lacking += [name for name in saved_parts.unfrozen if name not in parts.unfrozen]
    if lacking:
        raise UserError(
            f"train.lora: the champion's adapter has {lacking[0]} ({len(lacking)} in all) beyond "
            f"the planned structure ({parts.structure}): only the rank may get smaller; restore "
            "the recipe's, or start a new campaign"
        )


@torch.no_grad()
def _restore(
    model: PreTrainedModel,
    parts: Parts,
    saved_parts: Parts,
    tensors: Mapping[str, Tensor],
) -> None:
    """Load a saved adapter into a model whose structure may be larger, or of a smaller rank."""
    scale = saved_parts.structure.scale
    for module, transposed in saved_parts.adapted.items():
        a, b = factors(tensors, module)
        if module in parts.adapted:
            a, b = of_rank(a, b, parts.structure.rank)
            rank = len(a)
            layer = model.get_submodule(module)
            layer.lora_A[ADAPTER].weight[:rank].copy_(a)
            # The new columns of B stay zero, so the grown adapter computes what the saved one did.
            rescaled = b * (scale / parts.structure.scale)
            layer.lora_B[ADAPTER].weight[:, :rank].copy_(rescaled)
        else:
            # Trained in full from now on: it begins at the merged weight.
            weight = model.get_parameter(f"{module}.weight")
            product = oriented(b @ a, transposed).to(weight.device)
            weight.copy_(weight.double() + scale * product)
    for name in saved_parts.unfrozen:
        model.get_parameter(name).copy_(tensors[PREFIX + name])
