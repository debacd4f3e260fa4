"""A wrong parameter or input is refused before anything is sent."""

from __future__ import annotations

import pytest

from components.cli.cluster.run_parameters import checked_parameters
from components.cli.package.package_file import Package
from components.errors import UserError
from tests.unit.submissions import STORE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("store=s3://bucket/p", "sed=3"), "did you mean 'seed'"),
        (("store=s3://bucket/p", "seed"), "write name=value"),
        (("store=s3://bucket/p", "seed=three"), "a whole number is wanted"),
        (("store=s3://bucket/p", "seed=1.5"), "a whole number is wanted"),
        (("store=s3://bucket/p", "seed=true"), "a whole number is wanted"),
        (("store=s3://bucket/p", "threshold=high"), "a number is wanted"),
        (("store=s3://bucket/p", "recipe=[1]"), "a mapping is wanted"),
        (("seed=3",), "parameter store has no value"),
        (("store=file:///tmp/x",), "pods share no disk"),
        (("store=/tmp/x",), "pods share no disk"),
        (("store=s3://x",), "no bucket name"),
        (
            ("store=s3://bucket/p", "resume_from=hf_abcdefghijklmnopqrstuvwxyz"),
            "resume_from looks like a secret",
        ),
        (("store=s3://key:secret@bucket/p",), "store looks like a secret"),
        (
            ("store=s3://bucket/p", "recipe={hf_token: abc}"),
            "recipe looks like a secret",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_sent(
    package: Package, given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        checked_parameters(package, given, "")
    assert not any(
        value in str(caught.value) for value in ("hf_abc", "key:secret", "abc")
    )


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            "{data: {sources: [{uri: s3://b/k}, {uri: file:///data/qa.jsonl}]}}",
            "data.sources.1.uri: file:///data/qa.jsonl: this machine has it.*--set data.sources.1",
        ),
        (
            "{data: {sources: [{uri: data/qa.jsonl}]}}",
            "data.sources.0.uri: data/qa.jsonl",
        ),
        ("{data: {sources: [{uri: ~/qa.jsonl}]}}", "data.sources.0.uri: ~/qa.jsonl"),
        ("{model: {source: ./checkpoint}}", "model.source: ./checkpoint"),
        ("{model: {source: file:///m%20x}}", "model.source: file:///m%20x"),
        ("{select: {reward: {source: /reward}}}", "select.reward.source: /reward"),
        ("{evaluate: {harness: {folder: tasks}}}", "evaluate.harness.folder: tasks"),
        ("{model: {source: 's3:/b/k'}}", "use a path, file://path"),
    ],
)
def test_inputs_on_this_machine_are_refused_by_name(
    package: Package, recipe: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        checked_parameters(package, (f"recipe={recipe}",), STORE)


@pytest.mark.parametrize(
    "recipe",
    [
        "{model: {source: scratch}}",
        "{model: {source: hf://org/name@main}, data: {sources: [{uri: s3://bucket/key}]}}",
        "{model: {source: package://module/model.gguf}}",
        # What is no recipe at all is a matter of `prepare`.
        "{data: [1], model: 3}",
    ],
)
def test_inputs_that_pods_reach_are_let_through(package: Package, recipe: str) -> None:
    assert checked_parameters(package, (f"recipe={recipe}",), STORE)["store"] == STORE


def test_parameters_get_the_types_of_the_pipeline(package: Package) -> None:
    given = (
        "seed=3",
        "threshold=0.5",
        "temperature=1",
        "resume_from=007",
        "recipe={name: a}",
    )
    assert checked_parameters(package, given, STORE) == {
        "seed": 3,
        "threshold": 0.5,
        "temperature": 1,
        "resume_from": "007",
        "recipe": {"name": "a"},
        "store": STORE,
    }
