"""The wheel holds one package with all that the command `ratchet` needs, and the command works from
any folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ratchet_lm"
BUILD_TOOLS = {"setuptools", "wheel", "ninja"}
"""Pinned for builds; users get what they need of them with torch and deepspeed."""
NO_DATA = """
name: no-data
data: {sources: [{uri: data.jsonl}]}
decide: {goal: {threshold: 0.9}}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built offline by the locked backend."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        *options,
        f"--wheel-dir={folder}",
        str(ROOT),
    ]
    done = subprocess.run(
        build, cwd=folder, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `ratchet`, installed into an environment that sees the dependencies of this one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", environment], check=True
    )
    python = str(environment / "bin" / "python")
    (site_packages,) = environment.glob("lib/python*/site-packages")
    dependencies = site_packages / "dependencies.pth"
    dependencies.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    options = ["--no-deps", "--no-index", "--quiet"]
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *options,
        str(wheel),
    ]
    subprocess.run(install, check=True)
    return environment / "bin" / "ratchet"


@pytest.fixture
def kubeflow_project(tmp_path: Path) -> Path:
    """A user's folder whose own files have the names of our modules."""
    stranger = 'raise ImportError("this file is the user\'s")\n'
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text(stranger, encoding="utf-8")
    (tmp_path / "pipeline.py").write_text(stranger, encoding="utf-8")
    return tmp_path


def call(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing of this test's own surroundings that leads back to
    the checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("RATCHET_")
    }
    # Two short tasks do not repay the time in which a warm Python imports torch.
    environment = {**kept, "RATCHET_WARM": "0", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        words, cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def names_in(wheel: Path) -> set[str]:
    """Paths of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def metadata_of(wheel: Path) -> Message:
    """The wheel's METADATA."""
    (name,) = (name for name in names_in(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(name).decode())


def files_that_travel() -> set[str]:
    """Files of this tree that the command reads or imports, relative to the root."""
    trees = ("components", "recipes", "manifests/profiles")
    found = [
        path for tree in trees for path in (ROOT / tree).rglob("*") if path.is_file()
    ]
    names = {
        path.relative_to(ROOT).as_posix() for path in found if path.suffix != ".pyc"
    }
    return names | {"pipeline.py", "docker/images.toml"}


def test_the_wheel_has_one_top_level_package_with_a_whole_copy_of_the_source(
    wheel: Path,
) -> None:
    names = names_in(wheel)
    top_level = {name.partition("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {PACKAGE}
    inside = {name for name in names if name.startswith(f"{PACKAGE}/")}
    source = {f"{PACKAGE}/source/{name}" for name in files_that_travel()}
    assert inside == source | {f"{PACKAGE}/__init__.py", f"{PACKAGE}/__main__.py"}


def test_the_wheel_says_its_licence_and_which_python_it_needs(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names_in(wheel))
    assert metadata["Requires-Python"] == "<3.14,>=3.11"


def test_users_get_the_libraries_that_are_tested() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    text = (ROOT / "docker" / "requirements" / "dev.in").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    assert set(extras) == {"gym", "metrics", "otel"}
    for wanted in map(
        Requirement, (line for extra in extras.values() for line in extra)
    ):
        [tested] = re.findall(rf"^{wanted.name}==(\S+)$", text, re.MULTILINE)
        assert wanted.specifier.contains(tested)
    declared = [Requirement(text) for text in project["dependencies"]]
    text = (ROOT / "docker" / "requirements" / "base.in").read_text(encoding="utf-8")
    pins = {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    }
    assert {canonicalize_name(one.name) for one in declared} == set(pins) - BUILD_TOOLS
    refused = [
        str(one)
        for one in declared
        if pins[canonicalize_name(one.name)] not in one.specifier
    ]
    assert refused == []


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_users_get_no_untested_minor_version_of_what_is_used_below_its_api(
    library: str,
) -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    [declared] = [
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == library
    ]
    text = (ROOT / "docker" / "requirements" / "base.in").read_text(encoding="utf-8")
    [tested] = re.findall(rf"^{library}==(\S+)$", text, re.MULTILINE)
    version = Version(tested)
    assert version in declared.specifier
    assert f"{version.major}.{version.minor + 1}.0" not in declared.specifier


def test_version_is_that_of_the_wheel(
    command: Path, wheel: Path, tmp_path: Path
) -> None:
    version = metadata_of(wheel)["Version"]
    by_script = call(tmp_path, command, "--version")
    by_module = call(tmp_path, command.with_name("python"), "-m", PACKAGE, "--version")
    assert by_script.stdout == by_module.stdout == f"ratchet {version}\n"


def test_the_installed_command_says_its_own_name(command: Path, tmp_path: Path) -> None:
    assert call(tmp_path, command, "--help").stdout.startswith("Usage: ratchet ")
    wrong = call(tmp_path, command, "fly")
    assert (wrong.returncode, "No such command 'fly'" in wrong.stderr) == (2, True)


def test_the_schema_is_that_of_the_checkout(
    command: Path, kubeflow_project: Path
) -> None:
    installed = call(kubeflow_project, command, "schema")
    checkout = call(kubeflow_project, sys.executable, ROOT / "pipeline.py", "schema")
    assert (installed.returncode, checkout.returncode) == (0, 0)
    assert installed.stdout == checkout.stdout


def test_a_recipe_is_compiled_from_any_folder(
    command: Path, kubeflow_project: Path
) -> None:
    recipe = ROOT / "recipes" / "demo.yaml"
    done = call(
        kubeflow_project,
        command,
        "compile",
        recipe,
        "-o",
        "package.yaml",
        "--rounds",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert "ratchet-demo" in (kubeflow_project / "package.yaml").read_text(
        encoding="utf-8"
    )


def test_a_recipe_of_the_package_is_used_where_the_folder_has_none(
    command: Path, kubeflow_project: Path
) -> None:
    done = call(
        kubeflow_project,
        command,
        "run",
        "recipes/demo.yaml",
        "--set",
        "decide.goal.threshold=3",
    )
    shipped = Path(PACKAGE, "source", "recipes", "demo.yaml")
    assert f"using the one that comes with Ratchet: {command.parents[1]}" in done.stderr
    assert f"{shipped}: decide.goal.threshold" in done.stderr
    assert done.returncode == 2


def test_tasks_of_a_run_import_the_package_and_not_the_users_files(
    command: Path, kubeflow_project: Path
) -> None:
    (kubeflow_project / "recipe.yaml").write_text(NO_DATA, encoding="utf-8")
    # It can be read; only prepare sees that it makes no splits.
    (kubeflow_project / "data.jsonl").write_text(
        '{"prompt": "1+1=", "completion": "2"}\n'
    )
    done = call(
        kubeflow_project, command, "run", "recipe.yaml", "--rounds", "1", "--json"
    )
    assert done.returncode == 2, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["executed"] == ["prepare", "report"]
    assert "data: split" in outcome["error"]
