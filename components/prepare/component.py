"""KFP shell of the prepare step."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Output


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
) -> NamedTuple("Start", [("fresh", bool), ("state", str)]):
    """Resolve the recipe and make base checkpoint, data splits and the first state."""
    from components.prepare.step import PrepareInputs, is_fresh, run
    from components.runtime.entrypoints import mix_of, run_step

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
    inputs = PrepareInputs(
        recipe=recipe,
        overrides=parameters,
        defaults=defaults,
        resume_from=resume_from,
        job_id=job_id,
    )
    uri, start = run_step(store, lambda context: run(inputs, context), data, mix_of)
    return (is_fresh(start), uri)
