"""Profiles and images as a person writes them: what is wrong, or does not fit a recipe, is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.cli.package.profiles import STEPS, check_fit, load_profile
from components.cli.source_tree import IMAGES_FILE
from components.contracts.recipe_file import load_recipe
from components.errors import UserError
from tests.pipeline.compiling import ROOT, compile_aside, container, recipe_for


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: {trian: {gpus: 1}}", "steps.trian"),
        ("steps: {train: {gpu: 1}}", "gpu"),
        ("steps: {train: {gpus: 1}}", "say which by `gpu"),
        ("default: {memory: lots}", "default.memory"),
        ("colour: red", "colour"),
        ("priority_class: Very High", "priority_class"),
        ("runtime_class: nvidia_", "runtime_class"),
        ("- a", "expected a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_profile_is_named_with_its_key(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_profile(str(tmp_path / "p.yaml"))
    assert "p.yaml" in str(caught.value)


def test_an_unknown_profile_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="cpu, gpu-1, gpu-8, multi-node"):
        load_profile("gpu-9")
    with pytest.raises(UserError, match="there is no such file"):
        load_profile("none-such.yaml")


@pytest.mark.parametrize(
    ("profile", "changes", "said"),
    [
        ("gpu-8", (), "train.num_processes=8"),
        ("cpu", ("train.num_nodes=2",), "--profile multi-node"),
        ("multi-node", ("train.num_processes=8",), "train.num_nodes=2"),
        ("multi-node", ("train.num_nodes=2",), "train.num_processes=8"),
        (
            "gpu-8",
            ("train.num_processes=8", "generate.vllm.tensor_parallel_size=4"),
            "gpu-8 gives generate 1 GPUs",
        ),
        (
            "cpu",
            ("notify.url_env=TEAM_WEBHOOK",),
            r"notify\.url_env needs the variable TEAM_WEBHOOK; profile cpu passes none",
        ),
        (
            "cpu",
            ("generate.engine=openai", "generate.endpoint.model=m"),
            r"secrets: \{ratchet-keys: \[OPENAI_API_KEY\]\}",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_its_profile_says_what_to_set(
    profile: str, changes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_fit(
            load_recipe(ROOT / "recipes" / "demo.yaml", changes), load_profile(profile)
        )


IMAGES = """
[families.cpu]
image = "registry.example/cpu"
tag = "1"
digest = "sha256:{digest}"
[families.model]
image = "registry.example/model"
tag = "1"
digest = ""
[families.model.gpu]
image = "registry.example/model"
tag = "1-gpu"
digest = "sha256:{digest}"
[steps]
prepare = "model"
generate = "model"
select = "cpu"
train = "model"
evaluate = "model"
decide = "cpu"
publish = "cpu"
report = "{report}"
"""


def test_images_are_taken_by_digest_and_for_gpus_where_there_are_such(
    tmp_path: Path,
) -> None:
    file = tmp_path / "images.toml"
    file.write_text(IMAGES.format(digest="a" * 64, report="cpu"))
    assert load_profile("cpu", file).images["train"] == "registry.example/model:1"
    assert (
        load_profile("cpu", file).images["decide"]
        == f"registry.example/cpu@sha256:{'a' * 64}"
    )
    profile = load_profile("gpu-1", file)
    assert profile.images["train"] == f"registry.example/model@sha256:{'a' * 64}"
    made = compile_aside(recipe_for("gpu-1"), 1, profile)
    assert made.unpinned == ()
    assert (
        container(made.package, "pass-through-r1")["image"]
        == f"registry.example/cpu@sha256:{'a' * 64}"
    )


@pytest.mark.parametrize(
    ("digest", "report", "said"),
    [
        ("b" * 63, "cpu", "families.cpu.digest"),
        ("b" * 64, "web", "steps.report is 'web'"),
    ],
)
def test_a_wrong_image_is_named_with_file_and_key(
    tmp_path: Path, digest: str, report: str, said: str
) -> None:
    file = tmp_path / "images.toml"
    file.write_text(IMAGES.format(digest=digest, report=report))
    with pytest.raises(UserError, match=said) as caught:
        load_profile("cpu", file)
    assert "images.toml" in str(caught.value)


def test_the_images_of_the_house_name_one_for_every_step() -> None:
    assert set(load_profile("cpu", IMAGES_FILE).images) == set(STEPS)
