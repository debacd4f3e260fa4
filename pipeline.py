"""Ratchet as a Kubeflow pipeline: the table of contents of the product.

    prepare ─► evaluate base ─► Round 0 ─► Round 1 ─► … ─► Round N ─► publish    (report, always)
                                  │          └ generate ×S ─► select ─► train ─► evaluate ─► decide
                                  └ train ─► evaluate ─► decide

KFP has no loop, so rounds are a flat chain of guarded groups, unrolled at compile time. From round
to round go one bool (go on?) and one string (the URI of the state). Inside a round, artifacts are
pointers to stored receipts. `python pipeline.py --help` is the command line.
"""

if __name__ == "__main__":
    # A verb that needs the pipeline imports this file as a module. The others need not wait for kfp.
    from components.cli.start import run_command_line

    run_command_line("pipeline")

from kfp import dsl

from components.cli.package.parameters import DESCRIPTION
from components.cli.package.profiles import Profile
from components.cli.package.tasks import JOB_ID, Channel, Component, Outputs, Tasks
from components.contracts.recipe import Recipe, parameter_values, pipeline_document
from components.decide.component import decide, first_champion
from components.evaluate.component import evaluate
from components.generate.component import generate
from components.prepare.component import prepare
from components.publish.component import publish
from components.report.component import report
from components.select.component import select, select_unsharded
from components.train.component import train


def build(recipe: Recipe, rounds: int = 4, profile: Profile | None = None) -> Component:
    """Return the pipeline with `rounds` improvement rounds and this recipe as its default.

    A profile says on which nodes of a cluster the steps run; without one they run as they are.
    """
    task = Tasks(profile)
    shards = recipe.generate.shards
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
            results = task.outputs(
                evaluate, "evaluate-base", state=state, candidate=base
            )["results"]
            begun = task.outputs(
                first_champion, "first-champion", state=state, results=results
            )
            latest = {"go": start["supervised"], "state": begun["state"]}
            with task.carried_out(latest):
                decided = train_evaluate_decide(0, latest["state"], start["data"], task)
            latest = task.or_skip(decided, 0, latest, go=True)
            for number in range(1, rounds + 1):
                with task.carried_out(latest):
                    mix = generate_select(number, latest["state"], shards, task)
                    decided = train_evaluate_decide(number, latest["state"], mix, task)
                latest = task.or_skip(decided, number, latest, go=latest["go"])
            task(publish, "publish", state=latest["state"])

    return ratchet


def generate_select(number: int, state: Channel, shards: int, task: Tasks) -> Channel:
    """Add the first half of a round that learns from samples, and return the mix to train on."""
    name = f"generate-r{number}"
    if shards == 1:
        # A loop of one costs two more pods and half a minute on a cluster.
        sampled = task.outputs(generate, name, state=state, shard=0)
        samples = sampled["samples"]
        step = select_unsharded
    else:
        with dsl.ParallelFor(
            items=list(range(shards)), name=f"shards-{number}"
        ) as shard:
            sampled = task.outputs(generate, name, state=state, shard=shard)
        samples = dsl.Collected(sampled["samples"])
        step = select
    selected = task.outputs(step, f"select-r{number}", state=state, samples=samples)
    return selected["mix"]


def train_evaluate_decide(
    number: int, state: Channel, mix: Channel, task: Tasks
) -> Outputs:
    """Add the second half of every round, and return decide's outputs `go` and `state`."""
    trained = task.outputs(train, f"train-r{number}", state=state, mix=mix)
    candidate = trained["candidate"]
    measured = task.outputs(
        evaluate, f"evaluate-r{number}", state=state, candidate=candidate
    )
    inputs = {"mix": mix, "candidate": candidate, "results": measured["results"]}
    return task.outputs(decide, f"decide-r{number}", state=state, **inputs)
