"""The code that a step runs is part of its address: every module behind it, and no other."""

from __future__ import annotations

import ast
import functools
import importlib.util
import shutil
from collections import Counter
from pathlib import Path

import components
from components.runtime import code_digest

COMPONENTS = Path(components.__file__ or "").parent
STEPS = sorted(path.parent.name for path in COMPONENTS.glob("*/step.py"))


def sources_behind(module: Path) -> set[Path]:
    """Our modules that a module imports, at its top or within a function, directly or not."""
    reached, waiting = set[Path](), [module]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting += imported_sources(path)
    return reached


@functools.cache
def imported_sources(path: Path) -> tuple[Path, ...]:
    """Our modules that one module names in an import."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names),
            }
    sources: list[Path] = []
    for name in names:
        package, *inner = name.split(".")
        if package == "components":
            module = COMPONENTS.joinpath(*inner)
            candidates = (module.with_suffix(".py"), module / "__init__.py")
            sources += [candidate for candidate in candidates if candidate.is_file()]
    return tuple(sources)


def folder_of(path: Path) -> str:
    """Return the folder of `components` that a source is in; empty for `components` itself."""
    return next(iter(path.relative_to(COMPONENTS).parent.parts), "")


class CopiedSources:
    """A copy of `components` whose files a test changes."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "components"
        shutil.copytree(
            COMPONENTS, self.tree, ignore=shutil.ignore_patterns("__pycache__")
        )
        self._parsed: dict[tuple[Path, bytes], object] = {}

    def path(self, original: Path) -> Path:
        """Return the copy of a source."""
        return self.tree / original.relative_to(COMPONENTS)

    def digests(self) -> dict[str, str]:
        """Return the digest of each step's code, as a new process computes it."""
        copy = self.path(Path(code_digest.__file__))
        spec = importlib.util.spec_from_file_location("digest_of_a_copy", copy)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parse = module._source.__wrapped__

        # A process parses a source once. Here a change comes dozens of times, and two hundred
        # sources take a second: what did not change is not parsed again.
        def parsed(path: Path) -> object:
            key = (path, path.read_bytes())
            if key not in self._parsed:
                self._parsed[key] = parse(path)
            return self._parsed[key]

        vars(module)["_source"] = functools.cache(parsed)
        return {step: module.code_digest(step) for step in STEPS}


def one_source_of_each_folder(behind: dict[str, set[Path]]) -> set[Path]:
    """Return a few sources, among them one of each folder that is behind a step, for every step."""
    steps_of = Counter(path for sources in behind.values() for path in sources)
    by_use = sorted(steps_of, key=lambda path: (-steps_of[path], path))
    chosen = set[Path]()
    covered = set[tuple[str, str]]()
    for path in by_use:
        folders = {(step, folder_of(path)) for step in STEPS if path in behind[step]}
        if folders - covered:
            covered |= folders
            chosen.add(path)
    return chosen


def test_a_change_of_any_module_that_a_step_runs_changes_its_address(
    tmp_path: Path,
) -> None:
    """And no other change does: work that is found done was done by this very code."""
    copies = CopiedSources(tmp_path)
    unchanged = copies.digests()
    assert copies.digests() == unchanged
    behind = {step: sources_behind(COMPONENTS / step / "step.py") for step in STEPS}
    for path in sorted(one_source_of_each_folder(behind)):
        copy = copies.path(path)
        source = copy.read_text(encoding="utf-8")
        copy.write_text(source + "CHANGED = 1\n", encoding="utf-8")
        digests = copies.digests()
        changed_steps = {step for step in STEPS if digests[step] != unchanged[step]}
        assert changed_steps == {step for step in STEPS if path in behind[step]}, path
        copy.write_text(f"# A comment.\n{source}\n\n# Another.\n", encoding="utf-8")
        assert copies.digests() == unchanged, path
        copy.write_text(source.replace('"""', '"""Reworded: ', 1), encoding="utf-8")
        assert copies.digests() == unchanged, path
        copy.write_text(source, encoding="utf-8")


def test_a_filter_of_select_is_no_part_of_a_training() -> None:
    assert code_digest.code_digest("train") != code_digest.code_digest("select")
    behind = sources_behind(COMPONENTS / "train" / "step.py")
    assert not any("select" in path.parts for path in behind)


def test_what_a_step_starts_as_a_process_is_part_of_its_code(tmp_path: Path) -> None:
    copies = CopiedSources(tmp_path)
    unchanged = copies.digests()
    with copies.path(COMPONENTS / "train" / "process" / "worker.py").open("a") as file:
        file.write("CHANGED = 1\n")
    with_worker = copies.digests()
    assert with_worker["train"] != unchanged["train"]
    # Another package may have a module of the same name.
    step = copies.path(COMPONENTS / "train" / "step.py")
    step.write_text(step.read_text("utf-8") + "import other.select.step\n", "utf-8")
    with_import = copies.digests()["train"]
    with copies.path(COMPONENTS / "select" / "step.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert copies.digests()["train"] == with_import
