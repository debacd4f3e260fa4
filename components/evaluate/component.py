"""KFP shell of the evaluate step."""

from kfp import dsl
from kfp.dsl import Input, Metrics, Model, Output


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def evaluate(state: str, candidate: Input[Model], results: Output[Metrics]):
    """Measure the candidate on held-out data."""
    from components.evaluate.step import EvaluateInputs, run
    from components.runtime.entrypoints import read_pointer, run_step

    run_step(
        state,
        lambda context: run(
            EvaluateInputs(state, read_pointer(context, candidate.path)), context
        ),
        results,
    )
