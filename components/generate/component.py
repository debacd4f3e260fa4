"""KFP shell of the generate step."""

from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def generate(state: str, shard: int, samples: Output[Dataset]):
    """Sample answers from the champion for one shard of this round's prompts."""
    from components.generate.step import GenerateInputs, run
    from components.runtime.entrypoints import run_step

    run_step(
        state,
        lambda context: run(GenerateInputs(state=state, shard=int(shard)), context),
        samples,
    )
