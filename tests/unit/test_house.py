"""Rules of the house that import-linter cannot see: what modules import as they are loaded, and
what the locks pin."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ROOT / "components"
HEAVY = {"torch", "transformers", "deepspeed", "vllm", "scipy", "gguf"}
STEPS = sorted(path.parent for path in COMPONENTS.glob("*/step.py"))
SHARED = [
    COMPONENTS / name
    for name in ("contracts", "storage", "runtime", "verifiers", "chat_api")
]
LOCKS = ROOT / "docker" / "requirements"
LONGEST_SHELL = 25
SURROUNDINGS = ("cli", "runtime", "retry.py")
"""Parts of `components` that make a context, and hand on its clock."""
AMBIENT = re.compile(
    r"time\.(?:time|monotonic|perf_counter)\b"
    r"|os\.(?:environ|getenv|cpu_count|sched_getaffinity)\b"
    r"|[\"']/proc"
)
OWN_ENVIRONMENT = {
    "bounded_process.py",
    "generate/engines/vllm.py",
    "modeling/load.py",
    "train/process/deepspeed_engine.py",
    "train/process/training_log.py",
    "train/process/worker.py",
}
"""Files that begin a process, or set variables for a library that reads the process's own."""
TRIES_ITS_CONFINEMENT = "sandbox/confine.py"
"""The file that asks for another process's environment, to be refused it."""


def imported(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def loaded_by(path: Path) -> set[str]:
    """Modules that a file imports as it is loaded."""
    return set(imported(ast.parse(path.read_text(encoding="utf-8")).body))


def test_the_pipeline_is_made_of_components_alone() -> None:
    allowed = re.compile(
        r"kfp(\..+)?|components\.\w+\.component|components\.contracts\.recipe(\.parameters)?"
        r"|components\.cli\.package\.(parameters|profiles|tasks)|components\.errors|typing"
    )
    assert [
        name for name in loaded_by(ROOT / "pipeline.py") if not allowed.fullmatch(name)
    ] == []
    assert len((ROOT / "pipeline.py").read_text().splitlines()) <= 150


@pytest.mark.parametrize("folder", STEPS, ids=lambda folder: folder.name)
def test_a_component_is_a_thin_shell_of_its_own_step(folder: Path) -> None:
    tree = ast.parse((folder / "component.py").read_text(encoding="utf-8"))
    assert set(imported(tree.body)) <= {"kfp", "kfp.dsl", "typing"}
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        assert (function.end_lineno or 0) - function.body[0].lineno < LONGEST_SHELL
        ours = [
            name for name in imported(function.body) if name.startswith("components.")
        ]
        # A folder's second step has the name of its shell.
        steps = {f"components.{folder.name}.{name}" for name in ("step", function.name)}
        assert set(ours) <= {"components.runtime.entrypoints", *steps}


@pytest.mark.parametrize("folder", [*SHARED, *STEPS], ids=lambda folder: folder.name)
def test_heavy_libraries_are_loaded_only_where_work_is_done_with_them(
    folder: Path,
) -> None:
    for path in sorted(folder.rglob("*.py")):
        if path.parent == COMPONENTS / "train" / "process" and path.name != "job.py":
            continue  # loaded once a training process begins
        names = loaded_by(path)
        assert not {name.split(".")[0] for name in names} & HEAVY, path
        assert not any(name.startswith("components.modeling") for name in names), path


def test_nothing_below_a_step_reads_clock_environment_cores_or_proc_by_itself() -> None:
    for path in sorted(COMPONENTS.rglob("*.py")):
        name = path.relative_to(COMPONENTS).as_posix()
        if name.split("/")[0] in SURROUNDINGS:
            continue
        ambient = set(AMBIENT.findall(path.read_text(encoding="utf-8")))
        if name in OWN_ENVIRONMENT:
            ambient -= {"os.environ"}
        if name == TRIES_ITS_CONFINEMENT:
            ambient -= {'"/proc'}
        assert ambient == set(), name


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted(COMPONENTS.rglob("*.py"))
    }
    known = {
        name: imported_anywhere(path) & (files.keys() - {name})
        for name, path in files.items()
    }
    graphlib.TopologicalSorter(known).prepare()  # names a circle


def imported_anywhere(path: Path) -> set[str]:
    """Modules that a file imports, those inside functions too, and all that may be modules."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {
                str(node.module)
            }
    return found


def pins(path: Path) -> dict[str, str]:
    """Name → version of every pinned line."""
    found = re.findall(
        r"^([A-Za-z0-9._-]+)={2,3}([^\s\\]+)",
        path.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_every_requirement_is_pinned_and_locked_with_a_hash() -> None:
    for name, lock in (
        ("base.in", "dev.lock"),
        ("dev.in", "dev.lock"),
        ("bootstrap.in", "bootstrap.lock"),
        ("nvidia.in", "nvidia.lock"),
    ):
        wanted, locked = pins(LOCKS / name), pins(LOCKS / lock)
        lines = [
            line
            for line in (LOCKS / name).read_text().splitlines()
            if line and line[0] not in "#-"
        ]
        assert len(lines) == len(wanted), (
            f"{name}: every requirement needs an exact version"
        )
        stale = {
            one: version
            for one, version in wanted.items()
            if locked.get(one, "").split("+")[0] != version
        }
        assert not stale, f"{lock} is stale: `make lock`"
    for path in LOCKS.glob("*.lock"):
        text = path.read_text()
        assert len(
            re.findall(
                r"^\S+={2,3}\S+( ; .*)? \\\n    --hash=sha256:[0-9a-f]{64}",
                text,
                re.MULTILINE,
            )
        ) == len(pins(path))
        assert "://" not in text


def test_what_is_installed_first_is_what_the_rest_expects() -> None:
    first, rest = pins(LOCKS / "bootstrap.lock"), pins(LOCKS / "dev.lock")
    assert {name: rest.get(name) for name in first} == first
    assert first.keys().isdisjoint(pins(LOCKS / "nvidia.lock")), (
        "where torch asks for them alone"
    )
