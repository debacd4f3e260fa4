"""Ratchet as a Kubeflow pipeline: the table of contents of the product. `python pipeline.py --help`
is its CLI.

    prepare ─► Round 0 ─► Round 1 ─► … ─► Round N ─► publish        (report, whatever happened)
                 │          └ generate ×S ─► select ─► train ─► evaluate ─► decide
                 └ train ─► evaluate ─► decide

KFP has no loop, so rounds are a flat chain of guarded sub-pipelines, unrolled at compile time. From
round to round go one bool (go on?) and one string (the URI of the state). Inside a round, artifacts
are pointers to stored receipts.
"""

import copy
from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl import base_component

from components.cli.package.profiles import Profile, placed
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


def build(
    recipe: Recipe, rounds: int = 4, profile: Profile | None = None
) -> base_component.BaseComponent:
    """The pipeline with `rounds` unrolled improvement rounds and this recipe as its default. A
    profile says on which nodes of a cluster the steps run; without one they run as they are."""
    shards = recipe.generate.shards
    first_round = round_zero(profile)
    improvement_rounds = [
        improvement_round(number, shards, profile) for number in range(1, rounds + 1)
    ]
    document = recipe.model_dump(mode="json", exclude_none=True)  # a KFP parameter holds no None

    @dsl.pipeline(
        name=f"ratchet-{recipe.name}",
        description="Makes a language model better, in rounds proved better.",
    )
    def ratchet(  # these are the fields a person sees in the Kubeflow UI
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
        """Beside each field the UI shows its line from here.

        Args:
            store: Where all results go, s3://bucket/prefix; work that is already there is not done again.
            recipe: The whole recipe; what the other fields say always stands in place of what it says.
            resume_from: URI of a state to go on from, s3://… of any round; empty begins with the base model.
            seed: Of data, training and sampling; the same seed on the same nodes gives the same results.
            threshold: Accuracy on the validation prompts, 0 to 1, at which the campaign ends: decide.goal.threshold.
            max_rounds: Rounds at most, of those this pipeline was compiled with: decide.max_rounds.
            patience: Rounds in a row without a proved gain after which the campaign ends: decide.patience.
            prompts_per_round: Prompts the champion answers each round: generate.prompts_per_round.
            samples_per_prompt: Answers to each prompt: generate.samples_per_prompt.
            temperature: Of sampling, 0 to take the likeliest token: generate.temperature.
            learning_rate: Of the trainings of rounds 1 and later: train.rounds.learning_rate.
            labelled_share: Share of labelled rows in what training draws, 0 to 1: select.labelled_share.
        """
        with dsl.ExitHandler(
            task(profile, report, "report", store=store, job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER),
            name="campaign",
        ):
            start = task(
                profile,
                prepare,
                "prepare",
                store=store,
                recipe=recipe,
                resume_from=resume_from,
                job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
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
            state = (
                first_round(fresh=start["fresh"], state=start["state"], data=start["data"])
                .set_display_name("Round 0")
                .set_caching_options(False)
                .outputs
            )
            for number, next_round in enumerate(improvement_rounds, 1):
                round_task = next_round(go=state["go"], state=state["state"]).set_display_name(
                    f"Round {number}"
                )
                state = round_task.set_caching_options(False).outputs
            task(profile, publish, "publish", state=state["state"])

    return ratchet


def round_zero(profile: Profile | None) -> base_component.BaseComponent:
    """The supervised stage on labelled data; skipped when a run resumes from a later state."""

    @dsl.pipeline(name="round-0")
    def first(fresh: bool, state: str, data: dsl.Input[dsl.Dataset]) -> State:
        with dsl.If(fresh == True, name="begin-0"):  # noqa: E712 — KFP overloads ==
            done = train_evaluate_decide(0, state, data, profile)
        with dsl.Else(name="skip-0"):
            passed = task(profile, pass_through, "pass-through-r0", state=state, go=True).outputs
        return State(
            go=dsl.OneOf(done["go"], passed["go"]), state=dsl.OneOf(done["state"], passed["state"])
        )

    return first


def improvement_round(
    number: int, shards: int, profile: Profile | None
) -> base_component.BaseComponent:
    """One round, skipped once `decide` said stop. Task names hold the round: the UI looks
    artifacts up by name."""

    @dsl.pipeline(name=f"round-{number}")
    def improve(go: bool, state: str) -> State:
        with dsl.If(go == True, name=f"improve-{number}"):  # noqa: E712
            with dsl.ParallelFor(items=list(range(shards)), name=f"shards-{number}") as shard:
                samples = task(
                    profile, generate, f"generate-r{number}", state=state, shard=shard
                ).outputs["samples"]
            samples = dsl.Collected(samples)
            mix = task(profile, select, f"select-r{number}", state=state, samples=samples).outputs[
                "mix"
            ]
            done = train_evaluate_decide(number, state, mix, profile)
        with dsl.Else(name=f"skip-{number}"):
            passed = task(
                profile, pass_through, f"pass-through-r{number}", state=state, go=False
            ).outputs
        return State(
            go=dsl.OneOf(done["go"], passed["go"]), state=dsl.OneOf(done["state"], passed["state"])
        )

    return improve


def train_evaluate_decide(number: int, state: Any, mix: Any, profile: Profile | None) -> Any:
    """The second half of every round; returns decide's outputs `go` and `state`."""
    candidate = task(profile, train, f"train-r{number}", state=state, mix=mix).outputs["candidate"]
    results = task(
        profile, evaluate, f"evaluate-r{number}", state=state, candidate=candidate
    ).outputs["results"]
    return task(
        profile,
        decide,
        f"decide-r{number}",
        state=state,
        mix=mix,
        candidate=candidate,
        results=results,
    ).outputs


def task(
    profile: Profile | None, component: base_component.BaseComponent, name: str, **arguments: Any
) -> Any:
    """A task with a name of its own, as a user who is not root, with what the profile gives its
    step. KFP's cache is off (it checks no stored bytes): our step keys do the re-use."""
    step = component.component_spec.name
    component = copy.deepcopy(component)
    component.component_spec.name = name
    made = component(**arguments).set_caching_options(False)
    kubernetes.set_security_context(made, run_as_user=10001, run_as_non_root=True)
    return placed(made, "decide" if step == "pass-through" else step, profile) if profile else made


if __name__ == "__main__":
    from components.cli.main import main

    main(build)
