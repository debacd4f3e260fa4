"""Ratchet as a Kubeflow pipeline: the table of contents of the product.

    prepare ─► Round 0 ─► Round 1 ─► … ─► Round N ─► publish        (report, whatever happened)
                 │          └ generate ×S ─► select ─► train ─► evaluate ─► decide
                 └ train ─► evaluate ─► decide

KFP has no loop, so rounds are a flat chain of guarded sub-pipelines, unrolled at compile time. From
round to round go one bool (go on?) and one string (the URI of the state). Inside a round, artifacts
are pointers to stored receipts. `python pipeline.py --help` is the command line.
"""

try:
    from kfp import dsl
    from kfp.dsl.base_component import BaseComponent
    from kfp.dsl.pipeline_channel import PipelineChannel
except ModuleNotFoundError as error:
    from components.errors import explain_missing_package

    explain_missing_package(error, run_as_script=__name__ == "__main__")

from components.cli.package.parameters import DESCRIPTION
from components.cli.package.profiles import Profile
from components.cli.package.tasks import Outputs, State, Tasks, merge_branches
from components.contracts.recipe import Recipe, parameter_values, pipeline_document
from components.decide.component import decide, pass_through
from components.evaluate.component import evaluate
from components.generate.component import generate
from components.prepare.component import prepare
from components.publish.component import publish
from components.report.component import report
from components.select.component import select
from components.train.component import train


def build(recipe: Recipe, rounds: int = 4, profile: Profile | None = None) -> BaseComponent:
    """Return the pipeline with `rounds` improvement rounds and this recipe as its default.

    A profile says on which nodes of a cluster the steps run; without one they run as they are.
    """
    task = Tasks(profile)
    # KFP wants sub-pipelines built outside the function that uses them.
    first_round = round_zero(task)
    later_rounds = [
        improvement_round(number, recipe.generate.shards, task) for number in range(1, rounds + 1)
    ]
    document = pipeline_document(recipe)
    # The form sends every field: `prepare` tells by these which ones a person changed.
    defaults = parameter_values(recipe)

    # The parameters are the fields that a person sees in Kubeflow's UI; DESCRIPTION explains them.
    @dsl.pipeline(name=f"ratchet-{recipe.name}", description=DESCRIPTION)
    def ratchet(
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
        job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        # An exit task runs also after a failed step: a failed run has a report too.
        report_task = task(report, "report", store=store, job_id=job_id)
        with dsl.ExitHandler(report_task, name="campaign"):
            start = task(
                prepare,
                "prepare",
                store=store,
                recipe=recipe,
                resume_from=resume_from,
                job_id=job_id,
                seed=seed,
                threshold=threshold,
                max_rounds=max_rounds,
                patience=patience,
                prompts_per_round=prompts_per_round,
                samples_per_prompt=samples_per_prompt,
                temperature=temperature,
                learning_rate=learning_rate,
                labelled_share=labelled_share,
                defaults=defaults,
            ).outputs
            round_task = first_round(fresh=start["fresh"], state=start["state"], data=start["data"])
            round_task.set_display_name("Round 0").set_caching_options(False)
            for number, later_round in enumerate(later_rounds, 1):
                earlier = round_task.outputs
                round_task = later_round(go=earlier["go"], state=earlier["state"])
                round_task.set_display_name(f"Round {number}").set_caching_options(False)
            task(publish, "publish", state=round_task.outputs["state"])

    return ratchet


def round_zero(task: Tasks) -> BaseComponent:
    """Return the supervised round, on labelled rows; a run that resumes later skips it."""

    @dsl.pipeline(name="round-0")
    def supervised_round(fresh: bool, state: str, data: dsl.Input[dsl.Dataset]) -> State:
        with dsl.If(fresh == True, name="begin-0"):  # noqa: E712 — KFP overloads ==
            decided = train_evaluate_decide(0, state, data, task)
        # A lone If that is false would stay "running" in the UI for ever.
        with dsl.Else(name="skip-0"):
            skipped = task(pass_through, "pass-through-r0", state=state, go=True).outputs
        return merge_branches(decided, skipped)

    return supervised_round


def improvement_round(number: int, shards: int, task: Tasks) -> BaseComponent:
    """Return one round of sampling, selecting and training, skipped once `decide` said stop."""

    # The guard is an input of the sub-pipeline: kfp.local takes an If on another task's named
    # output for false, and the run still succeeds.
    @dsl.pipeline(name=f"round-{number}")
    def round_of_samples(go: bool, state: str) -> State:
        with dsl.If(go == True, name=f"improve-{number}"):  # noqa: E712
            with dsl.ParallelFor(items=list(range(shards)), name=f"shards-{number}") as shard:
                shard_task = task(generate, f"generate-r{number}", state=state, shard=shard)
            samples = dsl.Collected(shard_task.outputs["samples"])
            selection = task(select, f"select-r{number}", state=state, samples=samples)
            decided = train_evaluate_decide(number, state, selection.outputs["mix"], task)
        with dsl.Else(name=f"skip-{number}"):
            skipped = task(pass_through, f"pass-through-r{number}", state=state, go=False).outputs
        return merge_branches(decided, skipped)

    return round_of_samples


def train_evaluate_decide(number: int, state: str, mix: PipelineChannel, task: Tasks) -> Outputs:
    """Add the second half of every round, and return decide's outputs `go` and `state`."""
    candidate = task(train, f"train-r{number}", state=state, mix=mix).outputs["candidate"]
    evaluation = task(evaluate, f"evaluate-r{number}", state=state, candidate=candidate)
    inputs = {"mix": mix, "candidate": candidate, "results": evaluation.outputs["results"]}
    outputs: Outputs = task(decide, f"decide-r{number}", state=state, **inputs).outputs
    return outputs


if __name__ == "__main__":
    from components.cli.main import main

    main(build)
