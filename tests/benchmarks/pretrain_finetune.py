"""The recipe pretrain-finetune beside its second stage alone: figures `recipe.pretrain-finetune.*` of
`tests.benchmarks.recipes`."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from pathlib import Path

from components.canonical import JsonObject
from tests.benchmarks.campaigns import labelled_rows, run_campaign, test_accuracy

RECIPE = "recipes/pretrain-finetune.yaml"
NUM_TEXTS = 3000
"""Questions whose label is taken away."""
NUM_DRAWS = 5
"""Of the labelled rows, whose mean accuracy says what the first stage of two saves."""
Figures = dict[str, tuple[float, str, str]]


def write_stages(data: Path, folder: Path, num_texts: int = NUM_TEXTS) -> list[Path]:
    """Write labelled rows, test rows and raw text of `pretrain-finetune`, as its page does."""
    rows = [
        json.loads(line)
        for line in (data / "train.jsonl").read_text("utf-8").splitlines()
    ]
    test_rows = [
        json.loads(line)
        for line in (data / "test.jsonl").read_text("utf-8").splitlines()
    ]
    random.Random(0).shuffle(rows)
    contents = {
        "labelled.jsonl": _asked(rows[num_texts:]),
        "labelled-test.jsonl": _asked(test_rows),
        "text.jsonl": [{"text": row["text"]} for row in rows[:num_texts]],
    }
    for name, content in contents.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in content]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return [folder / name for name in contents]


def _asked(rows: list[JsonObject]) -> list[JsonObject]:
    return [{"text": f"{row['text']} Class :", "label": row["label"]} for row in rows]


def figures(folder: Path, overrides: list[str], seed: int) -> Figures:
    """How many times as many labelled rows the second stage needs alone for the same accuracy.

    All without rounds, on the test split, as means over NUM_DRAWS draws of the labelled rows: with
    the first stage at the recipe's labels, without it (and without the raw text) at half of them up
    to four times as many. Single trainings on so few labels differ by ten points and more.
    """
    sources = [{"uri": str(folder / "labelled.jsonl")}]
    sources.append({"uri": str(folder / "labelled-test.jsonl"), "split": "test"})
    kept = [word for word in overrides if not word.startswith("seed=")]
    without = [
        *(word for word in kept if not word.startswith("data.sources")),
        f"data.sources={json.dumps(sources)}",
        "train.pretrain=null",
    ]

    def mean_of_draws(name: str, changes: list[str]) -> tuple[float, float]:
        """Mean number of labelled rows, and mean accuracy."""
        runs = [
            run_campaign(
                RECIPE, folder / f"{name}-{draw}", [f"seed={draw}", *changes], rounds=0
            )
            for draw in range(NUM_DRAWS * seed, NUM_DRAWS * (seed + 1))
        ]
        accuracies = [test_accuracy(run.evaluation(0)) for run in runs]
        labels = statistics.mean(len(labelled_rows(run)) for run in runs)
        said = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        print(f"{name}: {labels:.0f} labels, accuracy {said}")
        return labels, statistics.mean(accuracies)

    labels, reached = mean_of_draws("both", kept)
    alone: list[tuple[float, float]] = []
    for share in (0.05, 0.1, 0.2, 0.4):
        fractions = {
            "train": share,
            "unlabelled": 0.55 - share,
            "dev": 0.1,
            "validation": 0.35,
        }
        changes = [f"data.fractions={json.dumps({**fractions, 'test': 0.0})}"]
        alone.append(mean_of_draws(f"alone-{share}", [*without, *changes]))
    return {
        "two_stage_accuracy": (reached, "share", "measured"),
        "one_stage_accuracy": (alone[1][1], "share", "measured"),
        "label_saving": (labels_needed(alone, reached) / labels, "x", "≥ 2"),
    }


def labels_needed(curve: list[tuple[float, float]], accuracy: float) -> float:
    """Return the number of labels at which a curve of (labels, accuracy) reaches an accuracy.

    Linear in the logarithm of the labels between its points; at its ends the number of the end.
    """
    if accuracy <= curve[0][1]:
        return curve[0][0]
    for (few, low), (many, high) in itertools.pairwise(curve):
        if low < accuracy <= high:
            return float(few * (many / few) ** ((accuracy - low) / (high - low)))
    return curve[-1][0]
