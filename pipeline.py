"""Ratchet as a Kubeflow pipeline: the table of contents of the product.

    prepare ─► evaluate base ─► Round 0 ─► Round 1 ─► … ─► Round N ─► publish    (report, always)
                                  │          └ generate ×S ─► select ─► train ─► evaluate ─► decide
                                  └ train ─► evaluate ─► decide

KFP has no loop, so rounds are a flat chain of guarded sub-pipelines, unrolled at compile time. From
round to round go one bool (go on?) and one string (the URI of the state). Inside a round, artifacts
are pointers to stored receipts. `python pipeline.py --help` is the command line.
"""

try:
    from kfp import dsl
except ModuleNotFoundError as error:
    from components.errors import explain_missing_package

    explain_missing_package(error, run_as_script=__name__ == "__main__")

from components.cli.package.parameters import DESCRIPTION
from components.cli.package.profiles import Profile
from components.cli.package.tasks import JOB_ID, Channel, Component, Outputs, State, Tasks
from components.contracts.recipe import Recipe, parameter_values, pipeline_document
from components.decide.component import decide, first_champion
from components.evaluate.component import evaluate
from components.generate.component import generate
from components.prepare.component import prepare
from components.publish.component import publish
from components.report.component import report
from components.select.component import select
from components.train.component import train


def build(recipe: Recipe, rounds: int = 4, profile: Profile | None = None) -> Component:
    """Return the pipeline with `rounds` improvement rounds and this recipe as its default.

    A profile says on which nodes of a cluster the steps run; without one they run as they are.
    """
    task = Tasks(profile)
    # KFP wants sub-pipelines built outside the function that uses them.
    supervised = round_zero(task)
    later = [improvement_round(n, recipe.generate.shards, task) for n in range(1, rounds + 1)]
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
        # An exit task runs also after a failed step: a failed run has a report too.
        report_task = task(report, "report", store=store, job_id=JOB_ID)
        with dsl.ExitHandler(report_task, name="campaign"):
            start = task.outputs(
                prepare,
                "prepare",
                store=store,
                recipe=recipe,
                resume_from=resume_from,
                job_id=JOB_ID,
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
            )
            state, base = start["state"], start["base"]
            # The base is champion number one. A run that goes on finds it measured, and keeps its
            # champion.
            results = task.outputs(evaluate, "evaluate-base", state=state, candidate=base)[
                "results"
            ]
            begun = task.outputs(first_champion, "first-champion", state=state, results=results)
            given = {"supervised": start["supervised"], "data": start["data"]}
            latest = task.group(supervised, "Round 0", state=begun["state"], **given)
            for number, round_of_samples in enumerate(later, 1):
                latest = task.group(round_of_samples, f"Round {number}", **latest)
            task(publish, "publish", state=latest["state"])

    return ratchet


def round_zero(task: Tasks) -> Component:
    """Return the supervised round, on labelled rows; skipped if there is none, or it is done."""

    @dsl.pipeline(name="round-0")
    def supervised_round(supervised: bool, state: str, data: dsl.Input[dsl.Dataset]) -> State:
        with task.carried_out(supervised, "begin-0"):
            decided = train_evaluate_decide(0, state, data, task)
        return task.or_skip(decided, "r0", state, go=True)

    return supervised_round


def improvement_round(number: int, shards: int, task: Tasks) -> Component:
    """Return one round of sampling, selecting and training, skipped once `decide` said stop."""

    @dsl.pipeline(name=f"round-{number}")
    def round_of_samples(go: bool, state: str) -> State:
        with task.carried_out(go, f"improve-{number}"):
            with dsl.ParallelFor(items=list(range(shards)), name=f"shards-{number}") as shard:
                shard_task = task(generate, f"generate-r{number}", state=state, shard=shard)
            samples = dsl.Collected(shard_task.outputs["samples"])
            selection = task(select, f"select-r{number}", state=state, samples=samples)
            decided = train_evaluate_decide(number, state, selection.outputs["mix"], task)
        return task.or_skip(decided, f"r{number}", state, go=False)

    return round_of_samples


def train_evaluate_decide(number: int, state: str, mix: Channel, task: Tasks) -> Outputs:
    """Add the second half of every round, and return decide's outputs `go` and `state`."""
    candidate = task.outputs(train, f"train-r{number}", state=state, mix=mix)["candidate"]
    measured = task.outputs(evaluate, f"evaluate-r{number}", state=state, candidate=candidate)
    inputs = {"mix": mix, "candidate": candidate, "results": measured["results"]}
    return task.outputs(decide, f"decide-r{number}", state=state, **inputs)


if __name__ == "__main__":
    from components.cli.main import main

    main(build)
