"""KFP shell of the train step."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="ratchet/train:dev", install_kfp_package=False)
def train(state: str, mix: Input[Dataset], candidate: Output[Model]):
    """Fine-tune a candidate on this round's mix with DeepSpeed."""
    from components.runtime.entrypoints import read_pointer, run_step
    from components.train.step import TrainInputs, run

    run_step(
        state,
        lambda context: run(
            TrainInputs(state, read_pointer(context, mix.path)), context
        ),
        candidate,
    )
