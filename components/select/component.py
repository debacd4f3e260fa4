"""KFP shell of the select step."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def select(state: str, samples: Input[list[Dataset]], mix: Output[Dataset]):
    """Score and filter the samples of all shards and mix what is kept with the labelled data."""
    from components.runtime.entrypoints import read_pointer, run_step
    from components.select.step import SelectInputs, run

    paths = [shard.path for shard in samples]
    run_step(
        state,
        lambda context: run(
            SelectInputs(state, tuple(read_pointer(context, path) for path in paths)),
            context,
        ),
        mix,
    )


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def select_unsharded(state: str, samples: Input[Dataset], mix: Output[Dataset]):
    """Score and filter the samples of a round that has one shard, as `select` does."""
    from components.runtime.entrypoints import read_pointer, run_step
    from components.select.step import SelectInputs, run

    run_step(
        state,
        lambda context: run(
            SelectInputs(state, (read_pointer(context, samples.path),)), context
        ),
        mix,
    )
