"""The code that a figure measures, and whether it is still that code.

`record` writes a digest of every path of `MEASURED` beside a figure. Where one differs from that of
today, the figure is stale: the page marks it, and `python -m tests.benchmarks.stale` says which code
changed. Comments and docstrings do not count. No history is needed, so a shallow clone knows it too.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from components.runtime.code_digest import source_digest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "absent"

_GATE = (
    "components/bounded_mean.py",
    "components/decide/alpha_account.py",
    "components/decide/gate.py",
    "components/statistics.py",
)
_GATE_BENCHMARK = (
    "components/decide/reflection/plan.py",
    "tests/benchmarks/gate_adaptive.py",
    "tests/benchmarks/gate_families.py",
    "tests/benchmarks/gate_rounds.py",
)
_ROUND = (
    "components/contamination.py",
    "components/decide",
    "components/evaluate",
    "components/generate",
    "components/modeling",
    "components/prepare",
    "components/select",
    "components/statistics.py",
    "components/train",
    "components/verifiers",
)
_CAMPAIGN = (*_ROUND, "components/publish", "components/report")
_TRAINING = ("components/modeling", "components/train")
_SAMPLING = (
    "components/generate/batches.py",
    "components/generate/engines",
    "components/modeling",
)

# Not the whole of what a benchmark imports: that is nearly the whole product, so every figure would
# always be stale. Contracts, errors and the step's surroundings are left out, but for figures of them.
MEASURED: dict[str, tuple[str, ...]] = {
    "audit": (
        "components/select/filter_audit.py",
        "components/select/scored_samples.py",
        "components/statistics.py",
    ),
    "budget": (
        "components/cli/estimate",
        "components/report/costs.py",
        "recipes/demo.yaml",
        "recipes/preference.yaml",
        *_ROUND,
    ),
    "campaign": (
        "recipes/smollm2.yaml",
        "tests/benchmarks/campaign_peer.py",
        "tests/benchmarks/campaign_settings.py",
        *_CAMPAIGN,
    ),
    "cases": ("components/chat_api", *_CAMPAIGN),
    "cluster": (
        "manifests",
        "tests/cluster",
        "components/cli/cluster",
        "components/cli/package",
    ),
    "collapse": (
        *_TRAINING,
        "components/evaluate/diversity.py",
        "components/select/mix.py",
    ),
    "compile": ("pipeline.py", "components/cli/builder.py", "components/cli/package"),
    "containers": ("docker", *_CAMPAIGN),
    "contamination": (
        "components/contamination.py",
        "components/select/filter_settings.py",
        "components/select/filters/contamination.py",
        "components/select/scored_samples.py",
        "components/text_similarity.py",
        "components/text_tokens.py",
    ),
    "demo": ("recipes/demo.yaml", *_CAMPAIGN),
    "diagnosis": (
        "tests/benchmarks/diagnosis_faults.py",
        "tests/benchmarks/diagnosis_unseen.py",
        *_ROUND,
    ),
    "first_error": ("components/cli", "components/contracts", "components/prepare"),
    "from_nothing": ("Makefile", "docker/requirements"),
    "garbage": (
        "components/cli/collect",
        "components/storage/objects.py",
        "components/storage/store.py",
    ),
    "gate": (*_GATE, *_GATE_BENCHMARK),
    "gate_macro_f1": (
        "components/bounded_mean.py",
        "components/macro_f1.py",
        "components/statistics.py",
    ),
    "generation": _SAMPLING,
    "generation_vllm": _SAMPLING,
    "gpu": _TRAINING,
    "hints": _ROUND,
    "house": (
        "README.md",
        "components",
        "docker",
        "package",
        "pipeline.py",
        "tests/style_meter.py",
    ),
    "influence": ("components/modeling", "components/select/filters"),
    "kubeflow": ("pipeline.py", "components/cli/package"),
    "labelfree": ("recipes/labelfree.yaml", *_CAMPAIGN),
    "manifests": ("manifests", "tests/manifests"),
    "mutants": ("tests/benchmarks/mutants.toml", *_GATE, "components/select"),
    "noise": _ROUND,
    "promises": ("components/runtime", "components/storage", "tests/promises"),
    "recipes": _CAMPAIGN,
    "release": (*_GATE, "components/publish"),
    "report": ("components/report", "tests/unit/handmade.py"),
    "resume": (
        "components/cli/local",
        "components/runtime",
        "components/storage",
        "components/train",
    ),
    "sandbox": ("components/sandbox", "tests/security", "components/verifiers"),
    "selection": ("components/select", "components/contamination.py"),
    "smollm2": ("recipes/smollm2.yaml", *_CAMPAIGN),
    "store": ("components/runtime", "components/storage"),
    "training": _TRAINING,
    "tutorial": ("docs/tutorial.md", "tests/tutorial_page.py", *_CAMPAIGN),
    "votes": ("recipes/labelfree.yaml", *_ROUND),
}
"""Benchmark → files and folders that its figures measure, relative to the root."""
PARTS = {
    ("containers", "--sizes"): ("docker",),
    ("recipes", "distill"): (
        "recipes/distill.yaml",
        "recipes/reflection.yaml",
        *_CAMPAIGN,
    ),
    ("recipes", "gsm8k"): ("recipes/gsm8k.yaml", *_CAMPAIGN),
    ("recipes", "meta-update"): (
        "recipes/meta-update.yaml",
        "tests/benchmarks/meta_update.py",
        *_CAMPAIGN,
    ),
    ("recipes", "own-prompts"): ("recipes/own-prompts.yaml", *_CAMPAIGN),
    ("recipes", "preference"): ("recipes/preference.yaml", *_CAMPAIGN),
    ("recipes", "pretrain-finetune"): (
        "recipes/pretrain-finetune.yaml",
        "tests/benchmarks/pretrain_finetune.py",
        *_CAMPAIGN,
    ),
    ("recipes", "reflection"): ("recipes/reflection.yaml", *_CAMPAIGN),
    ("recipes", "self-augmentation"): (
        "recipes/self-augmentation.yaml",
        "tests/benchmarks/self_augmentation.py",
        *_CAMPAIGN,
    ),
    ("recipes", "self-feedback"): ("recipes/self-feedback.yaml", *_CAMPAIGN),
}
"""(benchmark, word of its command) → the same, for a part of a benchmark that measures less."""


def benchmark_of(command: str) -> str | None:
    """Return the name of the benchmark that a figure's command runs; None if it runs none."""
    match = re.search(r"-m tests\.benchmarks\.(\w+)", command)
    return match[1] if match else None


def measured_code(command: str, root: Path = ROOT) -> dict[str, str]:
    """Return path → digest (8 hexadecimal digits) of what a command's figures measure.

    The benchmark itself is part of it: another question is another figure. Empty if the command runs
    no benchmark.
    """
    benchmark = benchmark_of(command)
    if benchmark is None:
        return {}
    measured = MEASURED[benchmark]
    for (name, option), part in PARTS.items():
        if name == benchmark and option in command.split():
            measured = part
    paths = (f"tests/benchmarks/{benchmark}.py", *measured)
    return {path: _digest(root, path) for path in paths}


def changed_code(today: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """Return the paths of today's `measured_code` that are not as they were recorded; all that have
    no record."""
    return [path for path, digest in today.items() if recorded.get(path) != digest]


def _digest(root: Path, path: str) -> str:
    files = list(_files_of(root, path))
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(root).as_posix()
        digest.update(
            f"{name}\0{_file_digest(file, file.stat().st_mtime_ns)}\0".encode()
        )
    return digest.hexdigest()[:8] if files else ABSENT


@functools.cache
def _file_digest(file: Path, modified: int) -> str:
    """Return a digest of what a file says; `modified` is there for the cache alone."""
    if file.suffix == ".py":
        return source_digest(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _files_of(root: Path, path: str) -> Iterator[Path]:
    """Yield the file of this path, or those of a folder, in a fixed order."""
    if (root / path).is_file():
        yield root / path
    for file in sorted((root / path).rglob("*")):
        # A folder's README comes from docstrings; caches, and the wheels of a set-up, are nobody's
        # code: a fresh clone has none.
        names = file.relative_to(root).parts
        is_ignored = any(
            name.startswith((".", "__pycache__", "wheels")) for name in names
        )
        if file.is_file() and file.suffix != ".md" and not is_ignored:
            yield file
