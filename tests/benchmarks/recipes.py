"""Figures of ready recipes: `python -m tests.benchmarks.recipes [NAME …] [--seed N] [--seeds K]`.
Without names, all of them, half an hour each and seed on two cores. Of several seeds the median is
recorded, and the values of all of them beside it.

`--data` is a folder with train.jsonl and test.jsonl in its folders trec and gsm8k, and input.txt in its
folder shakespeare.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from components.canonical import JsonObject
from components.contracts.artifacts import SAMPLES
from components.contracts.state import RoundRecord
from components.contracts.summaries import SelectSummary
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary
from components.statistics import jensen_shannon
from tests.benchmarks import meta_update, pretrain_finetune, self_augmentation
from tests.benchmarks.campaigns import (
    Finished,
    compare,
    control,
    labelled_rows,
    results,
    run_campaign,
    split_rows,
    test_accuracy,
)
from tests.benchmarks.figures import record

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NUM_CLASSES = 6
WITHOUT_FILES = ("meta-update", "own-prompts", "preference")
"""Recipes whose data are no files: made by a task, or by the model."""
WITHOUT_CLASSES = (*WITHOUT_FILES, "gsm8k", "self-augmentation")
TEACHER = "reflection"
"""Recipe whose release is the teacher of distill."""
Figures = dict[str, tuple[float, str, str]]
"""Name → (value, unit, bound)."""


def main() -> None:
    """Run recipes and record what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, help="this many, from --seed on"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of trec, gsm8k, shakespeare"
    )
    parser.add_argument("--folder", type=Path, help="keep (or continue) the runs here")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - MEASURES.keys())
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    for name in given.names or MEASURES:
        of_seeds: dict[int, Figures] = {}
        for seed in range(given.seed, given.seed + given.seeds):
            root = given.folder or Path(tempfile.mkdtemp(prefix=f"{name}-"))
            of_seeds[seed] = measure(name, seed, given.data, root / f"seed-{seed}")
        record_median(name, of_seeds)


def record_median(name: str, of_seeds: Mapping[int, Figures]) -> None:
    """Record the median over the seeds of each figure that all of them have.

    The note of a figure has the value of each seed, and says which seeds have none.
    """
    first_seed = min(of_seeds)
    command = f"python -m tests.benchmarks.recipes {name} --seed {first_seed}"
    if len(of_seeds) > 1:
        command += f" --seeds {len(of_seeds)}"
    for figure in dict.fromkeys(key for one in of_seeds.values() for key in one):
        having = {seed: one[figure] for seed, one in of_seeds.items() if figure in one}
        values = {seed: value for seed, (value, _, _) in having.items()}
        _, unit, bound = next(iter(having.values()))
        median = statistics.median(values.values())
        note = ""
        if len(of_seeds) > 1:
            each = [
                f"{values[seed]:.4g}" if seed in values else "none" for seed in of_seeds
            ]
            seeds = ", ".join(str(seed) for seed in of_seeds)
            note = f"{', '.join(each)} with seeds {seeds}"
        print(f"recipe.{name}.{figure} = {median:.4g} {unit} (bound {bound}) {note}")
        record(
            f"recipe.{name}.{figure}", median, unit, bound, command, first_seed, note
        )


def measure(name: str, seed: int, data: Path, root: Path) -> Figures:
    """Run one recipe with one seed, in a folder of its name in `root`; return its figures."""
    folder = root / name
    overrides = [f"seed={seed}", *_sources(name, data, folder)]
    if name == "distill":
        # The teacher's store has its release, and its finished campaign where that was measured.
        folder = root / TEACHER
        run_campaign(f"recipes/{TEACHER}.yaml", folder, overrides, rounds=4)
    rounds = self_augmentation.ROUNDS if name == "self-augmentation" else 4
    finished = run_campaign(f"recipes/{name}.yaml", folder, overrides, rounds=rounds)
    if name not in WITHOUT_CLASSES:
        print(rounds_table(finished))
    figures = MEASURES[name](finished)
    if name == "pretrain-finetune":
        figures |= pretrain_finetune.figures(folder, overrides, seed)
    if name == "meta-update":
        figures |= meta_update.figures(finished, folder)
    if name == "self-augmentation":
        figures |= self_augmentation.figures(finished, folder, overrides)
    if name == "distill":
        figures |= beside_teacher(finished, folder, overrides)
    if name == "own-prompts":
        figures |= own_prompts(finished, folder, overrides)
    return figures


def _sources(name: str, data: Path, folder: Path) -> list[str]:
    """Overrides that name the data files of a recipe."""
    if name in WITHOUT_FILES:
        return []
    if name == "self-augmentation":
        text = self_augmentation.write_text(data / "shakespeare" / "input.txt", folder)
        return [f"data.sources.0.uri={text}", "data.text.stretch=8"]
    rows = data / ("gsm8k" if name == "gsm8k" else "trec")
    files = [rows / "train.jsonl", rows / "test.jsonl"]
    if name == "pretrain-finetune":
        folder.mkdir(parents=True, exist_ok=True)
        files = pretrain_finetune.write_stages(rows, folder)
    return [f"data.sources.{index}.uri={path}" for index, path in enumerate(files)]


def gain_figures(
    finished: Finished, *, start_bound: str = "measured", bag_of_words_bound: str
) -> Figures:
    """Accuracies on test of the supervised start and of the champion, the gain, and the minutes."""
    start, end = finished.evaluation(0), finished.evaluation(finished.champion_round)
    gain, p_value = compare(finished.context, start, end)
    end_accuracy = test_accuracy(end)
    over_bag_of_words = 100 * (end_accuracy - bag_of_words(finished))
    return {
        "start_accuracy": (test_accuracy(start), "share", start_bound),
        "end_accuracy": (end_accuracy, "share", "measured"),
        "gain_points": (gain, "points", "≥ 5"),
        "p_value": (p_value, "", "< 0.01"),
        "over_bag_of_words_points": (over_bag_of_words, "points", bag_of_words_bound),
        "minutes": (finished.view.totals.wall_seconds / 60, "min", "≤ 30"),
    }


def reflection(finished: Finished) -> Figures:
    """Gain on test over the supervised start and the control, and the errors of both."""
    start_classes, end_classes = test_classes(finished, 0), test_classes(finished, None)
    records = finished.state.history
    champion = finished.evaluation(finished.champion_round)
    over_control, p_value = compare(finished.context, control(finished), champion)
    return {
        **gain_figures(finished, start_bound="≤ 0.80", bag_of_words_bound="≥ 0"),
        "start_macro_f1": (start_classes[0], "share", "measured"),
        "end_macro_f1": (end_classes[0], "share", "measured"),
        "start_mse": (start_classes[1] / NUM_CLASSES, "", "measured"),
        "end_mse": (end_classes[1] / NUM_CLASSES, "", "measured"),
        "changes": (num_changes(records), "changes", "measured"),
        "gain_over_control_points": (over_control, "points", "measured"),
        "p_value_over_control": (p_value, "", "measured"),
    }


def self_feedback(finished: Finished) -> Figures:
    """Gain on test over the supervised start and the control, and the distance of what was accepted
    to the labelled answers."""
    end = finished.evaluation(finished.champion_round)
    figures = gain_figures(finished, bag_of_words_bound="shown beside")
    # Without a promoted round the champion is M_0, and the control would be M_0 too.
    if finished.champion_round > 0:
        over_control, _ = compare(finished.context, control(finished), end)
        figures["gain_over_control_points"] = (over_control, "points", "measured")
    if any(record.accepted for record in finished.state.history):
        figures["accepted_precision"] = (
            accepted_precision(finished),
            "share",
            "measured",
        )
    figures["js_distance"] = (js_distance(finished, end), "", "≤ 0.1")
    return figures


def rounds_behind_both_stages(finished: Finished) -> Figures:
    """Gain of the rounds on test over both stages."""
    return gain_figures(finished, bag_of_words_bound="shown beside")


def distill(finished: Finished) -> Figures:
    """Gain of the teacher's answers on test over labelled rows alone."""
    return gain_figures(finished, bag_of_words_bound="shown beside")


def beside_teacher(finished: Finished, folder: Path, overrides: list[str]) -> Figures:
    """What the teacher itself scores, and labelled rows alone with as many steps."""
    teacher = run_campaign(f"recipes/{TEACHER}.yaml", folder, overrides, rounds=4)
    figures: Figures = {
        "teacher_accuracy": (
            test_accuracy(teacher.evaluation(teacher.champion_round)),
            "share",
            "measured",
        )
    }
    if finished.champion_round > 0:
        end = finished.evaluation(finished.champion_round)
        over_control, p_value = compare(finished.context, control(finished), end)
        figures["gain_over_control_points"] = (over_control, "points", "≥ 0")
        figures["p_value_over_control"] = (p_value, "", "measured")
    return figures


def own_prompts(finished: Finished, folder: Path, overrides: list[str]) -> Figures:
    """Gain on test over the base, and the base after as many steps on the few labelled rows."""
    assert finished.state.base_evaluation is not None
    base = read_receipt(finished.context, finished.state.base_evaluation)
    # Without a promoted round nothing is released, and the gain is an honest zero.
    champion = finished.state.champion_round
    end = base if champion is None else finished.evaluation(champion)
    gain, p_value = compare(finished.context, base, end)
    steps = [f"train.first.steps={100 * max(1, champion or 0)}"]
    labelled = run_campaign(
        "recipes/own-prompts.yaml", folder, [*overrides, *steps], rounds=0
    )
    return {
        "start_accuracy": (test_accuracy(base), "share", "measured"),
        "end_accuracy": (test_accuracy(end), "share", "measured"),
        "gain_points": (gain, "points", "≥ 3"),
        "p_value": (p_value, "", "< 0.01"),
        "control_accuracy": (
            test_accuracy(labelled.evaluation(0)),
            "share",
            "shown beside",
        ),
    }


def minutes(finished: Finished) -> Figures:
    """Wall time of a campaign, whose other figures need campaigns beside it."""
    return {"minutes": (finished.view.totals.wall_seconds / 60, "min", "≤ 30")}


def preference(finished: Finished) -> Figures:
    """Gain and cost of rounds on pairs beside rounds on right samples alone, in one store."""
    folder = Path(finished.context.store.root.removeprefix("file://")).parent
    seed = read_receipt(finished.context, finished.state.prepared).seed
    plain = run_campaign(
        "recipes/preference.yaml",
        folder,
        [f"seed={seed}", "train.method=sft"],
        rounds=4,
    )
    pairs_table(finished, plain)
    # In round 1 both train the same champion on the same samples.
    assert samples_of(finished, 1) == samples_of(plain, 1)
    first_gain, first_p = compare(
        finished.context, plain.evaluation(1), finished.evaluation(1)
    )
    end = finished.evaluation(finished.champion_round)
    plain_end = plain.evaluation(plain.champion_round)
    gain, p_value = compare(finished.context, plain_end, end)
    seconds = [train_seconds(one, 1) for one in (finished, plain)]
    wall_seconds = finished.view.totals.wall_seconds + plain.view.totals.wall_seconds
    return {
        "start_accuracy": (test_accuracy(finished.evaluation(0)), "share", "measured"),
        "sft_accuracy": (test_accuracy(plain_end), "share", "measured"),
        "accuracy": (test_accuracy(end), "share", "measured"),
        "same_samples_gain_points": (first_gain, "points", "measured"),
        "same_samples_p_value": (first_p, "", "measured"),
        "gain_points": (gain, "points", "measured"),
        "p_value": (p_value, "", "measured"),
        "cost": (seconds[0] / seconds[1], "× training time", "measured"),
        "minutes": (wall_seconds / 60, "min", "≤ 30"),
    }


def gsm8k(finished: Finished) -> Figures:
    """Gain of the samples over the supervised start, promoted or not, and the ways they show."""
    trained = [one.round for one in finished.state.history if not one.weak]
    start, end = finished.evaluation(0), finished.evaluation(trained[-1])
    gain, p_value = compare(finished.context, start, end)
    taught = accepted_rows(finished)
    asked = {row["prompt"] for row in taught}
    assert finished.state.base_evaluation is not None
    base = read_receipt(finished.context, finished.state.base_evaluation)
    return {
        "base_accuracy": (test_accuracy(base), "share", "measured"),
        "start_accuracy": (test_accuracy(start), "share", "measured"),
        "end_accuracy": (test_accuracy(end), "share", "measured"),
        "gain_points": (gain, "points", "measured"),
        "p_value": (p_value, "", "measured"),
        "accepted": (float(len(taught)), "answers", "measured"),
        "ways_per_question": (len(taught) / max(1, len(asked)), "answers", "measured"),
        **minutes(finished),
    }


def accepted_rows(finished: Finished) -> list[JsonObject]:
    """Accepted samples of all rounds."""
    rows: list[JsonObject] = []
    for one in finished.state.history[1:]:
        receipt = read_receipt(finished.context, one.receipts["select"])
        path = fetch(finished.context, receipt, "accepted.jsonl")
        rows += [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
    return rows


def pairs_table(finished: Finished, plain: Finished) -> None:
    """Print the table of the recipe's page: each round of both campaigns on test, as Markdown."""
    print(
        "| train.method | round | verdict | accuracy | accepted | pairs | training, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for method, one in (("rpo", finished), ("sft", plain)):
        for past in one.state.history:
            selection = read_receipt(one.context, past.receipts["select"])
            num_pairs = read_summary(selection, SelectSummary).pairs or 0
            accuracy = one.scores(past.round).test_accuracy
            print(
                f"| {method} | {past.round} | {past.verdict} | {accuracy:.3f} | "
                f"{past.accepted} of {past.generated} | {num_pairs} | "
                f"{train_seconds(one, past.round):.0f} |"
            )


def samples_of(finished: Finished, number: int) -> list[str]:
    """SHA-256 of the samples that a round was trained on."""
    past = next(past for past in finished.state.history if past.round == number)
    selection = read_receipt(finished.context, past.receipts["select"])
    shards = read_summary(selection, SelectSummary).shards
    return [
        read_receipt(finished.context, shard).objects[SAMPLES].sha256
        for shard in shards
    ]


def train_seconds(finished: Finished, number: int) -> float:
    """Seconds of the training of a round, from its first step to its last."""
    (task,) = [
        task for task in finished.view.tasks if task.last.task == f"train-r{number}"
    ]
    return task.worked.costs["compute_seconds"]


MEASURES: dict[str, Callable[[Finished], Figures]] = {
    "gsm8k": gsm8k,
    "preference": preference,
    "reflection": reflection,
    "self-feedback": self_feedback,
    "pretrain-finetune": rounds_behind_both_stages,
    "distill": distill,
    "meta-update": minutes,
    "own-prompts": minutes,
    "self-augmentation": minutes,
}


def test_classes(finished: Finished, number: int | None) -> tuple[float, float]:
    """(macro-F1, Brier score) on the test split, of a round or, for None, of the champion."""
    scores = finished.scores(finished.champion_round if number is None else number)
    classes = scores.classification["test"]
    assert classes.brier is not None
    return classes.macro_f1, classes.brier


def num_changes(records: tuple[RoundRecord, ...]) -> int:
    """Rounds that were trained by another plan than the round before."""
    return sum(
        before.plan != after.plan for before, after in itertools.pairwise(records)
    )


def bag_of_words(finished: Finished) -> float:
    """Test accuracy of logistic regression over word counts, from the same labelled rows."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = {"train": labelled_rows(finished), "test": split_rows(finished, "test")}
    texts = {
        "train": [row["prompt"] for row in rows["train"]],
        "test": [row["text"] for row in rows["test"]],
    }
    vectorizer = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=1000, C=10.0)
    model.fit(
        vectorizer.fit_transform(texts["train"]),
        [row["completion"] for row in rows["train"]],
    )
    said = model.predict(vectorizer.transform(texts["test"]))
    right = [row["reference"]["answer"] for row in rows["test"]]
    num_right = sum(bool(one == label) for one, label in zip(said, right, strict=True))
    return num_right / len(right)


def js_distance(finished: Finished, evaluation: Receipt) -> float:
    """Jensen–Shannon distance of the champion's answers on test to the right ones."""
    rows = results(finished.context, evaluation, "test").values()
    return jensen_shannon(
        Counter(row.text for row in rows), Counter(row.label for row in rows)
    )


def accepted_precision(finished: Finished) -> float:
    """Share of the accepted samples, over all rounds, that are right: the labels are known here."""
    prepared = split_rows(finished, "unlabelled")
    answers = {row["text"]: row["reference"]["answer"] for row in prepared}
    rights: list[bool] = []
    for row in accepted_rows(finished):
        rights.append(row["completion"].strip() == answers[row["prompt"]])
    return sum(rights) / len(rights)


def rounds_table(finished: Finished) -> str:
    """The table of the recipe's page: every round on the test split, as Markdown."""
    lines = [
        "| round | verdict | accuracy | macro-F1 | MSE | accepted | JS distance | changes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in finished.state.history:
        changes = ", ".join(cause.change for cause in one.causes if cause.change)
        accepted = f"{one.accepted} of {one.generated}"
        if one.weak:
            # Nothing was trained, so there is nothing to score.
            lines.append(f"| {one.round} | weak | | | | {accepted} | | {changes} |")
            continue
        scores = finished.scores(one.round)
        classes = scores.classification["test"]
        assert classes.brier is not None
        distance = js_distance(finished, finished.evaluation(one.round))
        lines.append(
            f"| {one.round} | {one.verdict} | {scores.test_accuracy:.3f} | {classes.macro_f1:.3f} | "
            f"{classes.brier / NUM_CLASSES:.4f} | {accepted} | "
            f"{distance:.3f} | {changes} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
