"""KFP shell of the prepare step."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Model, Output


# The image has KFP's executor; installing it in each pod would need a package index.
@dsl.component(base_image="ratchet/train:dev", install_kfp_package=False)
def prepare(
    store: str,
    recipe: dict,
    resume_from: str,
    job_id: str,
    seed: int,
    threshold: float,
    max_rounds: int,
    patience: int,
    prompts_per_round: int,
    samples_per_prompt: int,
    temperature: float,
    learning_rate: float,
    labelled_share: float,
    defaults: dict,
    data: Output[Dataset],
    base: Output[Model],
) -> NamedTuple("Start", [("supervised", bool), ("state", str)]):
    """Resolve the recipe and make base checkpoint, data splits and the first state."""
    from components.prepare.step import PrepareInputs, is_supervised, run
    from components.runtime.entrypoints import base_of, mix_of, run_step, write_pointer

    parameters = {
        "seed": seed,
        "decide.goal.threshold": threshold,
        "decide.max_rounds": max_rounds,
        "decide.patience": patience,
        "generate.prompts_per_round": prompts_per_round,
        "generate.samples_per_prompt": samples_per_prompt,
        "generate.temperature": temperature,
        "train.rounds.learning_rate": learning_rate,
        "select.labelled_share": labelled_share,
    }
    inputs = PrepareInputs(recipe, parameters, resume_from, job_id, defaults)

    def step(context):
        start = run(inputs, context)
        write_pointer(context, base_of(context, start), base)
        return start

    uri, start = run_step(store, step, data, mix_of)
    return (is_supervised(start), uri)
