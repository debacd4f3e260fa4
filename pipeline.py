"""Ratchet as a Kubeflow pipeline: the table of contents of the product.

    prepare ─► Round 0 ─► Round 1 ─► … ─► Round N ─► publish        (report, whatever happened)
                 │          └ generate ×S ─► select ─► train ─► evaluate ─► decide
                 └ train ─► evaluate ─► decide

KFP has no loop, so rounds are a flat chain of guarded sub-pipelines, unrolled at compile time. From
round to round go one bool (go on?) and one string (the URI of the state). Inside a round, artifacts
are pointers to stored receipts. `python pipeline.py --help` is the command line.
"""

from typing import Any, NamedTuple

try:
    from kfp import dsl
    from kfp.dsl.base_component import BaseComponent
except ModuleNotFoundError as missing:
    from components.errors import explain_missing_package

    explain_missing_package(missing, run_as_script=__name__ == "__main__")

from components.cli.package.parameters import DESCRIPTION
from components.cli.package.profiles import Profile
from components.cli.package.tasks import Tasks
from components.contracts.recipe import Recipe
from components.decide.component import decide, pass_through
from components.evaluate.component import evaluate
from components.generate.component import generate
from components.prepare.component import prepare
from components.publish.component import publish
from components.report.component import report
from components.select.component import select
from components.train.component import train


class State(NamedTuple):
    """What one round hands to the next."""

    go: bool
    state: str


def build(recipe: Recipe, rounds: int = 4, profile: Profile | None = None) -> BaseComponent:
    """Return the pipeline with `rounds` improvement rounds and this recipe as its default.

    A profile says on which nodes of a cluster the steps run; without one they run as they are.
    """
    task, shards = Tasks(profile), recipe.generate.shards
    first_round = round_zero(task)
    later_rounds = [improvement_round(number, shards, task) for number in range(1, rounds + 1)]
    document = recipe.model_dump(mode="json", exclude_none=True)  # a KFP parameter holds no None

    @dsl.pipeline(name=f"ratchet-{recipe.name}", description=DESCRIPTION)
    def ratchet(  # the fields that a person sees in the Kubeflow UI; DESCRIPTION explains them
        store: str,
        recipe: dict = document,  # type: ignore[type-arg]
        resume_from: str = "",
        seed: int = recipe.seed,
        threshold: float = recipe.decide.goal.threshold,
        max_rounds: int = recipe.decide.max_rounds,
        patience: int = recipe.decide.patience,
        prompts_per_round: int = recipe.generate.prompts_per_round,
        samples_per_prompt: int = recipe.generate.samples_per_prompt,
        temperature: float = recipe.generate.temperature,
        learning_rate: float = recipe.train.rounds.learning_rate,
        labelled_share: float = recipe.select.labelled_share,
    ) -> None:
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        final = task(report, "report", store=store, job_id=run_id)
        with dsl.ExitHandler(final, name="campaign"):
            start = task(
                prepare,
                "prepare",
                store=store,
                recipe=recipe,
                resume_from=resume_from,
                job_id=run_id,
                seed=seed,
                threshold=threshold,
                max_rounds=max_rounds,
                patience=patience,
                prompts_per_round=prompts_per_round,
                samples_per_prompt=samples_per_prompt,
                temperature=temperature,
                learning_rate=learning_rate,
                labelled_share=labelled_share,
            ).outputs
            begun = first_round(fresh=start["fresh"], state=start["state"], data=start["data"])
            state = begun.set_display_name("Round 0").set_caching_options(False).outputs
            for number, improve in enumerate(later_rounds, 1):
                improved = improve(go=state["go"], state=state["state"])
                improved.set_display_name(f"Round {number}")
                state = improved.set_caching_options(False).outputs
            task(publish, "publish", state=state["state"])

    return ratchet


def round_zero(task: Tasks) -> BaseComponent:
    """Return the supervised round, on labelled rows; a run that resumes later skips it."""

    @dsl.pipeline(name="round-0")
    def first(fresh: bool, state: str, data: dsl.Input[dsl.Dataset]) -> State:
        with dsl.If(fresh == True, name="begin-0"):  # noqa: E712 — KFP overloads ==
            done = train_evaluate_decide(0, state, data, task)
        with dsl.Else(name="skip-0"):
            skipped = task(pass_through, "pass-through-r0", state=state, go=True).outputs
        return either(done, skipped)

    return first


def improvement_round(number: int, shards: int, task: Tasks) -> BaseComponent:
    """Return one round of sampling, selecting and training, skipped once `decide` said stop."""

    @dsl.pipeline(name=f"round-{number}")
    def improve(go: bool, state: str) -> State:
        with dsl.If(go == True, name=f"improve-{number}"):  # noqa: E712
            with dsl.ParallelFor(items=list(range(shards)), name=f"shards-{number}") as shard:
                shard_task = task(generate, f"generate-r{number}", state=state, shard=shard)
            samples = dsl.Collected(shard_task.outputs["samples"])
            selection = task(select, f"select-r{number}", state=state, samples=samples)
            done = train_evaluate_decide(number, state, selection.outputs["mix"], task)
        with dsl.Else(name=f"skip-{number}"):
            skipped = task(pass_through, f"pass-through-r{number}", state=state, go=False).outputs
        return either(done, skipped)

    return improve


def train_evaluate_decide(number: int, state: Any, mix: Any, task: Tasks) -> Any:
    """Add the second half of every round, and return decide's outputs `go` and `state`."""
    candidate = task(train, f"train-r{number}", state=state, mix=mix).outputs["candidate"]
    measured = task(evaluate, f"evaluate-r{number}", state=state, candidate=candidate)
    inputs = {"mix": mix, "candidate": candidate, "results": measured.outputs["results"]}
    return task(decide, f"decide-r{number}", state=state, **inputs).outputs


def either(done: Any, skipped: Any) -> State:
    """Return the outputs of whichever branch was carried out."""
    outputs = {name: dsl.OneOf(done[name], skipped[name]) for name in State._fields}
    return State(**outputs)


if __name__ == "__main__":
    from components.cli.main import main

    main(build)
