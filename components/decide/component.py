"""KFP shells of the decide step, of the first champion and of a skipped round."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="ratchet/cpu:dev", install_kfp_package=False)
def decide(
    state: str,
    mix: Input[Dataset],
    candidate: Input[Model],
    results: Input[Metrics],
    scores: Output[Metrics],
    card: Output[Markdown],
) -> NamedTuple("State", [("go", bool), ("state", str)]):
    """Promote the candidate only if it is proved better; diagnose, plan the next round, or stop."""
    from components.decide.step import DecideInputs, goes_on, run
    from components.runtime.entrypoints import read_pointer, run_step, save_text

    def step(context):
        receipts = [
            read_pointer(context, artifact.path)
            for artifact in (mix, candidate, results)
        ]
        receipt = run(DecideInputs(state, *receipts), context)
        save_text(context, receipt, "card.md", card.path)
        return receipt

    uri, receipt = run_step(state, step, scores)
    return (goes_on(receipt), uri)


@dsl.component(base_image="ratchet/cpu:dev", install_kfp_package=False)
def first_champion(
    state: str, results: Input[Metrics], scores: Output[Metrics]
) -> NamedTuple("Begun", [("state", str)]):
    """Make the measured base model the first champion, which every candidate has to beat."""
    from components.decide.first_champion import FirstChampionInputs, run
    from components.runtime.entrypoints import read_pointer, run_step

    uri, _ = run_step(
        state,
        lambda context: run(
            FirstChampionInputs(state, read_pointer(context, results.path)), context
        ),
        scores,
    )
    return (uri,)


@dsl.component(base_image="ratchet/cpu:dev", install_kfp_package=False)
def pass_through(state: str, go: bool) -> NamedTuple(
    "State", [("go", bool), ("state", str)]
):
    """Hand the state on from a round that is not carried out."""
    return (go, state)
