"""KFP shell of the publish step."""

from kfp import dsl
from kfp.dsl import Markdown, Model, Output


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def publish(state: str, model: Output[Model], card: Output[Markdown]):
    """Publish the best model as an immutable prefix with its model card."""
    from components.publish.step import PublishInputs, run
    from components.runtime.entrypoints import run_step, save_text

    def step(context):
        receipt = run(PublishInputs(state), context)
        save_text(context, receipt, "README.md", card.path)
        return receipt

    run_step(state, step, model)
