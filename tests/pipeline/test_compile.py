"""The compiled pipeline keeps within what Kubeflow carries, and the code keeps to the rules of its
house."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from components.cli.package.parameters import PARAMETERS
from components.cli.package.profiles import STEPS, load_profile
from components.cli.package.workflow_size import MAX_NODES_TO_RETRY, workflow_size
from components.contracts.recipe_file import load_recipe
from pipeline import build
from tests.pipeline.compiling import compile_aside

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pipeline-tasks.txt"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
COMPONENTS = sorted((ROOT / "components").rglob("*.py"))
SHARED = (
    "contracts",
    "storage",
    "runtime",
    "verifiers",
    "modeling",
    "chat_api",
    "sandbox",
)
MAX_BYTES = 400_000
MAX_BODY_LINES = 25
HEAVY = {"kfp", "torch", "transformers", "deepspeed"}


@functools.cache
def compiled(
    rounds: int, recipe: Path = ROOT / "recipes" / "demo.yaml"
) -> tuple[dict[str, Any], int]:
    """The pipeline of a recipe as Kubeflow gets it, and its size in bytes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(build(load_recipe(recipe), rounds), str(path))
        text = path.read_text()
    return next(
        yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    ), len(text.encode())


def tasks(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """All tasks of all levels with their keys."""
    pipeline, _ = compiled(rounds)
    for level in (pipeline["root"], *pipeline["components"].values()):
        yield from level.get("dag", {}).get("tasks", {}).items()


def container_tasks(rounds: int) -> list[str]:
    """Names of the tasks that run a container."""
    components = compiled(rounds)[0]["components"]
    return [
        name
        for name, task in tasks(rounds)
        if "executorLabel" in components[task["componentRef"]["name"]]
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_house_compiles(recipe: Path) -> None:
    pipeline, size = compiled(4, recipe)
    assert pipeline["pipelineInfo"]["name"] == f"ratchet-{load_recipe(recipe).name}"
    assert size < MAX_BYTES


def test_every_field_that_a_person_fills_in_is_explained_where_the_ui_shows_it() -> (
    None
):
    """KFP 2.17's form shows no description of a field, and shows that of the pipeline."""
    pipeline = compiled(1)[0]
    fields = pipeline["root"]["inputDefinitions"]["parameters"]
    assert sorted(PARAMETERS) == sorted(fields)
    for name, meaning in PARAMETERS.items():
        assert 10 < len(meaning) <= 100, name
        assert f"{name} = {meaning}" in pipeline["pipelineInfo"]["description"]


@pytest.mark.parametrize("rounds", [1, 4, 5])
def test_every_count_of_rounds_compiles_small_and_with_names_of_its_own(
    rounds: int,
) -> None:
    _, size = compiled(rounds)
    assert size < MAX_BYTES
    names = container_tasks(rounds)
    assert len(names) == len(set(names)) == 9 + 6 * rounds
    assert f"generate-r{rounds}" in names
    assert f"generate-r{rounds + 1}" not in names


@pytest.mark.parametrize(
    ("rounds", "shards", "nodes", "pods"), [(4, 1, 235, 73), (1, 2, 135, 39)]
)
def test_a_run_has_so_many_nodes_and_pods_on_a_cluster(
    rounds: int, shards: int, nodes: int, pods: int
) -> None:
    """By the rules that counted 288 nodes and 81 pods where a real cluster had as many."""
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", (f"generate.shards={shards}",))
    profile = load_profile("cpu", ROOT / "tests" / "pipeline" / "images.toml")
    size = workflow_size(compile_aside(recipe, rounds, profile).package)
    assert (size.nodes, size.pods) == (nodes, pods)
    assert size.nodes <= MAX_NODES_TO_RETRY


@pytest.mark.parametrize("rounds", [1, 4, 5])
def test_no_task_uses_the_cache_of_kubeflow(rounds: int) -> None:
    assert [
        name
        for name, task in tasks(rounds)
        if task.get("cachingOptions", {}).get("enableCache")
    ] == []


def test_both_branches_of_every_round_end_in_a_container_that_hands_on_the_state() -> (
    None
):
    """The backend takes a round's outputs from whichever branch was carried out; a branch without a
    container task of its own leaves the round running for ever."""
    pipeline, _ = compiled(4)
    for number in range(5):
        merged = [
            component["dag"]["outputs"]["parameters"]
            for name, component in pipeline["components"].items()
            if name.startswith("comp-condition-branches")
            and f"pass-through-r{number}" in producers(name)
        ]
        assert len(merged) == 1
        for output in merged[0].values():
            assert len(output["valueFromOneof"]["parameterSelectors"]) == 2
        # Whether to go on is of no use to anybody after the last round.
        assert len(merged[0]) == (1 if number == 4 else 2)


def producers(name: str) -> set[str]:
    """Names of the container tasks anywhere below a component."""
    components = compiled(4)[0]["components"]
    found: set[str] = set()
    for task, content in components[name].get("dag", {}).get("tasks", {}).items():
        below = content["componentRef"]["name"]
        found |= {task} if "executorLabel" in components[below] else producers(below)
    return found


def test_a_retried_task_asks_for_the_same_work() -> None:
    """A retry keeps the run's id and starts tasks anew, so no argument may hold a time or a name
    made at random."""
    shifting = (
        "create_time",
        "schedule_time",
        "resource_name",
        "task_uuid",
        "task_name",
    )
    for name, task in tasks(4):
        arguments = str(task.get("inputs", {}).get("parameters", {}))
        assert [
            word for word in shifting if word in arguments and "{{$" in arguments
        ] == [], name
    text = str(compiled(4)[0]["root"]["dag"]["tasks"]) + str(
        compiled(4)[0]["components"]
    )
    assert "{{$.pipeline_job_uuid}}" in text


def test_the_names_of_components_and_tasks_are_as_agreed() -> None:
    text = "".join(
        f"{name:22} {task['componentRef']['name']}\n"
        for name, task in sorted(tasks(2), key=str)
    )
    if os.environ.get("RATCHET_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "if that is meant: `make golden`"


def tree(path: Path) -> ast.Module:
    """The syntax of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(node: ast.AST) -> set[str]:
    """Dotted names of all modules that are imported anywhere below a node."""
    found = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Import):
            found |= {alias.name for alias in one.names}
        elif isinstance(one, ast.ImportFrom):
            assert one.level == 0, "imports are absolute"
            found.add(one.module or "")
            if one.module == "components":
                found |= {f"components.{alias.name}" for alias in one.names}
    return found


def imports_at_start(module: ast.Module) -> set[str]:
    """What importing the module imports: everything outside functions and `if TYPE_CHECKING`."""
    found: set[str] = set()
    todo: list[ast.AST] = list(module.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imports(node)
        todo += ast.iter_child_nodes(node)
    return found


def packages(names: set[str]) -> set[str]:
    """The top-level packages of dotted names."""
    return {name.split(".")[0] for name in names}


def named(path: Path) -> str:
    """A source file as it is spoken of."""
    return path.relative_to(ROOT).as_posix()


def shared_files() -> list[Path]:
    """Files of what all steps load, whatever they do."""
    folder = ROOT / "components"
    inside = (
        path
        for name in ("contracts", "storage", "runtime", "verifiers")
        for path in folder.joinpath(name).rglob("*.py")
    )
    return sorted([*folder.glob("*.py"), *inside])


def test_shared_code_starts_without_heavy_packages() -> None:
    for path in shared_files():
        at_start = packages(imports_at_start(tree(path)))
        assert not at_start & {*HEAVY, "boto3", "botocore"}, named(path)


def test_only_the_store_speaks_to_s3() -> None:
    found = ((named(path), name) for path in COMPONENTS for name in imports(tree(path)))
    users = {
        (path, name) for path, name in found if packages({name}) & {"boto3", "botocore"}
    }
    allowed = {
        "components/storage/s3.py": ("boto3",),
        "components/storage/s3_client.py": ("botocore",),
        "components/storage/s3_errors.py": ("botocore",),
    }
    assert users
    for path, name in users:
        assert name.split(".")[0] in allowed.get(path, ()), f"{path} imports {name}"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_itself_and_what_is_shared_alone(step: str) -> None:
    allowed = {
        step,
        *SHARED,
        *(path.stem for path in (ROOT / "components").glob("*.py")),
    }
    for path in sorted((ROOT / "components" / step).rglob("*.py")):
        if path.name == "component.py":
            continue
        own = {name for name in imports(tree(path)) if name.startswith("components")}
        assert {name for name in own if name.split(".")[1] not in allowed} == set(), (
            named(path)
        )
    module = tree(ROOT / "components" / step / "step.py")
    at_start = imports_at_start(module)
    assert not packages(at_start) & HEAVY
    assert {
        name for name in at_start if name.startswith("components.modeling")
    } == set()


def test_only_shells_pipeline_and_command_line_know_kubeflow() -> None:
    users = {
        named(path) for path in COMPONENTS if "kfp" in packages(imports(tree(path)))
    }
    shells = {f"components/{step}/component.py" for step in STEPS}
    assert shells <= users
    assert {
        path for path in users - shells if not path.startswith("components/cli/")
    } == set()


def test_shells_hold_no_logic() -> None:
    for step in STEPS:
        for node in tree(ROOT / "components" / step / "component.py").body:
            if isinstance(node, ast.FunctionDef):
                first, last = node.body[0], node.body[-1]
                assert isinstance(first, ast.Expr), (
                    f"{step}: the shell's docstring is the component's description"
                )
                lines = (last.end_lineno or 0) - first.lineno + 1
                assert lines <= MAX_BODY_LINES, f"{step}: {lines} lines"


CONFINED_WORKERS = ("answer_worker", "tests_worker", "checker_worker")
"""Modules that run code of others: each gives up its rights first, and reports what is raised."""
BOUNDED = "components/bounded_process.py"
"""Answers, within bounds of time and memory, with what templates of others raise."""


def test_code_of_others_is_run_only_behind_a_confinement() -> None:
    for name in CONFINED_WORKERS:
        source = (ROOT / "components" / "sandbox" / f"{name}.py").read_text(
            encoding="utf-8"
        )
        assert "confine" in source, name
    source = (ROOT / BOUNDED).read_text(encoding="utf-8")
    assert 'json.dumps({"error": ' in source


def test_nothing_runs_code_that_came_with_data_and_nothing_is_swallowed() -> None:
    for path, node in itertools.chain.from_iterable(
        ((path, node) for node in ast.walk(tree(path)))
        for path in (ROOT / "pipeline.py", *COMPONENTS)
    ):
        where = f"{named(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            forbidden = {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "joblib",
                "marshal",
                "shelve",
            }
            assert not packages(imports(node)) & forbidden, where
        if isinstance(node, ast.keyword):
            truth = isinstance(node.value, ast.Constant) and node.value.value is False
            assert node.arg != "trust_remote_code" or truth, where
            assert node.arg != "weights_only" or not truth, where
        if path.parent.name == "sandbox" and path.stem in CONFINED_WORKERS:
            continue
        if path.as_posix().endswith(BOUNDED):
            continue
        if isinstance(node, ast.ExceptHandler):
            kinds = ast.walk(node.type) if node.type else (ast.Name("BaseException"),)
            caught = {one.id for one in kinds if isinstance(one, ast.Name)}
            # Raised again, here or in the thread that waits for the result.
            last = node.body[-1]
            is_raised = isinstance(last, ast.Raise) or ".set_exception(" in ast.unparse(
                last
            )
            assert not {"Exception", "BaseException"} & caught or is_raised, where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), where


def test_the_same_recipe_compiles_to_the_same_bytes_in_every_process(
    tmp_path: Path,
) -> None:
    """Protobuf's maps and Python's sets have another order in each process."""
    packages = set()
    for seed in ("0", "1", "2"):
        output = tmp_path / f"{seed}.yaml"
        subprocess.run(
            [
                *(sys.executable, "pipeline.py", "compile", "recipes/demo.yaml"),
                *("-o", str(output), "--profile", "cpu", "--rounds", "2"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        packages.add(output.read_bytes())
    assert len(packages) == 1
