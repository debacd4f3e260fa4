"""KFP shell of the publish step."""

from kfp import dsl
from kfp.dsl import Markdown, Model, Output


@dsl.component(base_image="ratchet/generate:dev", install_kfp_package=False)
def publish(state: str, model: Output[Model], card: Output[Markdown]):
    """Publish the best model as an immutable prefix with its model card."""
    from components.publish.step import PublishInputs, outcome_of, run
    from components.runtime.entrypoints import run_step, save_text

    outcome = {}

    def step(context):
        receipt = run(PublishInputs(state), context)
        save_text(context, receipt, "README.md", card.path)
        outcome.update(outcome_of(context, receipt))
        return receipt

    run_step(state, step, model)
    # Of a model that waits for approval the receipt says what it will be.
    model.metadata.update(outcome)
