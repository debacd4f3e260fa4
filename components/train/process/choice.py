"""Choice of a training's objective, and of the model that it compares answers with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from components.modeling.load import load_model
from components.train.process.job import Job
from components.train.process.micro_batches import Kind
from components.train.process.objective import ClippedObjective, Objective
from components.train.process.row_objectives import KtoObjective, PreferenceObjective


def objective_of(job: Job, model: PreTrainedModel, kind: Kind) -> Objective:
    """Return the objective of a model, for batches of a kind."""
    section = job.section
    preference = section.preference
    match kind:
        case "sampled":
            return ClippedObjective(
                model, clip=section.clip, neftune_alpha=section.neftune_alpha
            )
        case "unpaired":
            return KtoObjective(
                model,
                beta=preference.beta,
                wrong_weight=preference.wrong_weight,
                neftune_alpha=section.neftune_alpha,
            )
        case "pairs":
            return PreferenceObjective(
                model,
                beta=preference.beta,
                nll_weight=preference.nll_weight if section.method == "rpo" else 0.0,
                neftune_alpha=section.neftune_alpha,
            )
        case "rows" | "packed":
            reference = None
            if section.kl_beta:
                assert job.base is not None, (
                    "the step gives the base where it is needed"
                )
                reference = load_model(job.base).to(model.device)
            return Objective(
                model,
                neftune_alpha=section.neftune_alpha,
                kl_beta=section.kl_beta,
                reference=reference,
            )


@contextmanager
def reference_of(
    job: Job, objective: Objective, module: nn.Module, kind: Kind
) -> Iterator[nn.Module]:
    """Yield the objective of the model that answers are compared with.

    Args:
        job: says which model it is.
        objective: of the trained model, before its first step.
        module: the same, as the engine holds it.
        kind: of the batches.
    """
    lora = job.lora
    if job.reference is None:
        # The trained model itself.
        yield module
    elif lora is not None and not lora.unfrozen and job.reference == job.init:
        from components.train.process.adapters import adapters_off

        # The base, without a second copy in memory.
        with adapters_off(objective.model):
            yield module
    else:
        weight = next(module.parameters())
        model = load_model(job.reference).to(weight.device, weight.dtype)
        yield objective_of(job, model, kind)
