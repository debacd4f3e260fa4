"""The READMEs of the steps say what the docstrings say; what the README shows exists and works."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import yaml

from components.cli import readmes, recipe_reference
from components.cli.package.profiles import STEPS
from components.contracts.recipe_file import parse_recipe

README = Path(__file__).resolve().parents[2] / "README.md"
FOLDERS = readmes.folders()
# All sources of a folder are parsed for it.
readme = functools.cache(readmes.readme)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_of_every_folder_is_fresh(folder: Path) -> None:
    assert (folder / "README.md").read_text(encoding="utf-8") == readme(folder), (
        "docstrings changed: `make golden`"
    )


def test_the_page_of_keys_is_fresh_and_has_every_key() -> None:
    text = recipe_reference.PAGE.read_text(encoding="utf-8")
    assert text == recipe_reference.page(), "docstrings changed: `make golden`"
    # By the recipe's own fields, and not by the schema that the page is made from.
    for section, name in (
        ("decide", "max_rounds"),
        ("train.lora", "rank"),
        ("data.sources[]", "uri"),
    ):
        table = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        assert f"\n| `{name}` | " in table, f"{section}.{name}"


def test_every_step_says_what_goes_in_what_comes_out_and_how_it_fails() -> None:
    steps = [folder for folder in FOLDERS if (folder / "step.py").exists()]
    assert {folder.name for folder in steps} == set(STEPS)
    for folder in steps:
        text = readme(folder)
        for title in ("Inputs", "Outputs", "Failure modes", "By hand", "Files"):
            before, _, after = text.partition(f"\n## {title}\n\n")
            assert before, f"{folder.name}: {title}"
            assert after[:1] not in ("", "\n", "#"), f"{folder.name}: {title}"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_recipe_of_the_readme_is_a_recipe() -> None:
    found = re.search(
        r"```yaml\n(.+?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found
    assert parse_recipe(yaml.safe_load(found[1])).decide.goal.threshold == 0.8
