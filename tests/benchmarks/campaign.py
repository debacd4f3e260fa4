"""A campaign of ours against the same loop by hand: `python -m tests.benchmarks.campaign [--seed N]
[--cut]`. At most 25 minutes on two cores; a cut takes two and records nothing.

recipes/smollm2.yaml, smaller, and `campaign_peer.py`: TRL's SFTTrainer, `generate` in batches, the
verifier as a filter, three rounds. Both begin with the same folder of the base model, and have the
same labelled rows, questions in the same order, steps, batches, learning rates, samples and mix; one
runs after the other on all cores. Two clocks run from the start of a process to the end of the first
round whose best model has the accuracy that both reach: the lower of the two best. Accuracy is that
of greedy answers to the same validation prompts by the same verifier, and both measure it within
their clock, after each round.

Pass@k, the perplexity of human text, and the larger test split are left out, since a loop by hand
has none; what remains of ours counts as it is: making the data, the base's evaluation, dev prompts
and dev losses, the gate, all receipts. Only champions count for ours, any model for the loop. The
loop's settings that change speed alone (attention, rows of a forward pass and of a `generate`) are
chosen before, on questions of another seed, and its clock does not count that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.canonical import derived_seed
from components.contracts.artifacts import split_file
from components.contracts.recipe import ModelSection, Recipe
from components.contracts.recipe_file import load_recipe
from components.contracts.rows import Prompt, read_rows, write_rows
from components.runtime.receipts import fetch, read_receipt
from tests.benchmarks.campaign_settings import LoopWork, RoundEnd, write_settings
from tests.benchmarks.campaigns import REPOSITORY, Finished, run_campaign
from tests.benchmarks.figures import record

RECIPE = "recipes/smollm2.yaml"
TUNING_SEED_DISTANCE = 1000
"""Questions for tuning are made by a seed so far from the one that is reported."""
NUM_TUNING_ROWS = 40
"""Rows for tuning, of each task."""


@dataclass(frozen=True)
class Size:
    """The amount of work: rows are of each task."""

    labelled: int
    dev: int
    unlabelled: int
    validation: int
    prompts_per_round: int
    first_steps: int
    first_learning_rate: float
    round_steps: int
    num_rounds: int
    num_choices: int
    """Settings of the loop by hand that are tried."""


FULL = Size(
    labelled=200,
    dev=25,
    unlabelled=300,
    validation=100,
    prompts_per_round=400,
    first_steps=60,
    first_learning_rate=5e-5,
    round_steps=45,
    num_rounds=3,
    num_choices=4,
)
CUT = Size(
    labelled=40,
    dev=5,
    unlabelled=16,
    validation=10,
    prompts_per_round=64,
    first_steps=8,
    # Few steps have to be enough for answers that end, or nothing could be accepted.
    first_learning_rate=3e-4,
    round_steps=2,
    num_rounds=1,
    num_choices=1,
)


def main() -> None:
    """Run both and record how many times as long the loop by hand takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--cut", action="store_true", help="two minutes; nothing is recorded"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-") as place:
        folder = Path(place)
        ours, by_hand = both(folder, CUT if given.cut else FULL, given.seed)
    ratio, note = comparison(ours, by_hand)
    print(f"campaign.vs_trl_loop = {ratio:.4g} ratio (bound ≥ 2) {note}", flush=True)
    if given.cut:
        return
    command = f"python -m tests.benchmarks.campaign --seed {given.seed}"
    record("campaign.vs_trl_loop", ratio, "ratio", "≥ 2", command, given.seed, note)


def both(folder: Path, size: Size, seed: int) -> tuple[list[RoundEnd], list[RoundEnd]]:
    """Return the rounds of our campaign and of the loop by hand, which run in this order."""
    # Torch is loaded by the import: after the arguments are known to be right.
    from components.modeling.base import materialise_base

    source = load_recipe(REPOSITORY / RECIPE).model.source
    materialise_base(ModelSection(source=source), 0, folder / "base", {}, folder)
    overrides = overrides_of(size, seed, folder / "base")
    recipe = load_recipe(REPOSITORY / RECIPE, tuple(overrides))
    begun = time.time()
    finished = run_campaign(RECIPE, folder, overrides, rounds=size.num_rounds)
    ours = our_rounds(finished, begun)
    write_inputs(folder, finished, recipe)
    run_peer(folder, "tune", f"--choices={size.num_choices}")
    begun = time.time()
    run_peer(folder, "loop")
    return ours, peer_rounds(folder, begun)


def overrides_of(size: Size, seed: int, base: Path) -> list[str]:
    """Return the changes of the recipe: a smaller one, without what a loop by hand does not do."""
    settings = {
        "seed": seed,
        "model.source": str(base),
        "data.sources": [],
        "generate.prompts_per_round": size.prompts_per_round,
        "select.min_accepted": 1,
        "train.first.steps": size.first_steps,
        "train.first.learning_rate": size.first_learning_rate,
        "train.rounds.steps": size.round_steps,
        "evaluate.pass_k": 0,
        "decide.goal.threshold": 1.0,
        "decide.max_rounds": size.num_rounds,
        # All rounds, whatever they bring.
        "decide.patience": size.num_rounds + 1,
        # Without human text it is the perplexity of dev rows, which the loop does not look at.
        "decide.max_perplexity_ratio": 100.0,
    }
    num_tasks = len(load_recipe(REPOSITORY / RECIPE).data.tasks)
    for index in range(num_tasks):
        settings |= {
            f"data.tasks.{index}.labelled": size.labelled,
            f"data.tasks.{index}.dev": size.dev,
            f"data.tasks.{index}.unlabelled": size.unlabelled,
            f"data.tasks.{index}.validation": size.validation,
            f"data.tasks.{index}.test": 1,
        }
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def our_rounds(finished: Finished, begun: float) -> list[RoundEnd]:
    """Return the end of each round, with the accuracy of its champion.

    Args:
        finished: The campaign.
        begun: When its process was started, in seconds since the epoch.
    """
    rounds: list[RoundEnd] = []
    base = finished.state.base
    assert base is not None, "the base was measured"
    accuracy = base.overall
    for past in finished.state.history:
        if past.verdict == "promoted":
            accuracy = past.overall
        (task,) = [
            one for one in finished.view.tasks if one.name == f"decide-r{past.round}"
        ]
        seconds = task.worked.started + task.worked.seconds - begun
        rounds.append(RoundEnd(past.round, seconds, accuracy))
    return rounds


def write_inputs(folder: Path, finished: Finished, recipe: Recipe) -> None:
    """Write what the loop by hand reads: the same rows, its work, and other rows for tuning."""
    prepared = read_receipt(finished.context, finished.state.prepared)
    for split in ("train", "validation"):
        path = fetch(finished.context, prepared, split_file(split))
        shutil.copy(path, folder / f"{split}.jsonl")
    pool = list(
        read_rows(fetch(finished.context, prepared, split_file("unlabelled")), Prompt)
    )
    # In this order our rounds walk through the pool.
    pool.sort(key=lambda prompt: derived_seed(recipe.seed, "pool", prompt.id))
    write_rows(folder / "unlabelled.jsonl", pool)
    write_settings(folder / "work.json", work_of(recipe))
    lines = [json.dumps(row) + "\n" for row in tuning_rows(recipe)]
    (folder / "tuning.jsonl").write_text("".join(lines), encoding="utf-8")


def work_of(recipe: Recipe) -> LoopWork:
    """Return the numbers of the recipe that the loop by hand has too."""
    assert recipe.select.labelled_share is not None, "the recipe mixes by shares"
    return LoopWork(
        seed=recipe.seed,
        system_prompt=recipe.model.system_prompt,
        num_rounds=recipe.decide.max_rounds,
        prompts_per_round=recipe.generate.prompts_per_round,
        samples_per_prompt=recipe.generate.samples_per_prompt,
        temperature=recipe.generate.temperature,
        top_k=recipe.generate.top_k,
        max_new_tokens=recipe.generate.max_new_tokens,
        first_steps=recipe.train.first.steps,
        first_learning_rate=recipe.train.first.learning_rate,
        round_steps=recipe.train.rounds.steps,
        round_learning_rate=recipe.train.rounds.learning_rate,
        batch_size=recipe.train.batch_size,
        max_length=recipe.train.max_length,
        warmup_share=recipe.train.warmup_share,
        min_learning_rate_ratio=recipe.train.min_learning_rate_ratio,
        weight_decay=recipe.train.weight_decay,
        beta2=recipe.train.beta2,
        max_gradient_norm=recipe.train.max_gradient_norm,
        labelled_share=recipe.select.labelled_share,
        newest_share=recipe.select.newest_share,
    )


def tuning_rows(recipe: Recipe) -> list[dict[str, str]]:
    """Return questions and answers of the same tasks, by another seed."""
    import reasoning_gym

    seed = recipe.seed + TUNING_SEED_DISTANCE
    rows: list[dict[str, str]] = []
    for task in recipe.data.tasks:
        name = task.task.removeprefix("reasoning_gym/")
        entries = reasoning_gym.create_dataset(
            name, size=NUM_TUNING_ROWS, seed=seed, **task.config
        )
        for entry in entries:
            rows.append({"prompt": entry["question"], "completion": entry["answer"]})
    return rows


def run_peer(folder: Path, *words: str) -> None:
    """Run `campaign_peer` in a process of its own, on all cores, with threads as `run` has them."""
    threads = {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        # Threads that spin while they wait are a little faster alone, and ten times slower as soon
        # as anything else runs.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    mode, *options = words
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.campaign_peer",
        mode,
        str(folder),
        *options,
    ]
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)


def peer_rounds(folder: Path, begun: float) -> list[RoundEnd]:
    """Return the end of each round of the loop by hand, with the best accuracy until then.

    Args:
        folder: Where it wrote `rounds.jsonl`.
        begun: When its process was started, in seconds since the epoch.
    """
    rounds: list[RoundEnd] = []
    best = 0.0
    for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines():
        ended = json.loads(line)
        best = max(best, ended["accuracy"])
        rounds.append(RoundEnd(ended["round_number"], ended["ended"] - begun, best))
    return rounds


def comparison(
    ours: Sequence[RoundEnd], by_hand: Sequence[RoundEnd]
) -> tuple[float, str]:
    """Return (time of the loop by hand to the accuracy that both reach over ours, a note)."""
    target = min(ours[-1].accuracy, by_hand[-1].accuracy)
    our_end = reached(ours, target)
    peer_end = reached(by_hand, target)
    note = (
        f"to {target:.3f} on validation: ours {our_end.seconds:.0f} s, round "
        f"{our_end.round_number}, by hand {peer_end.seconds:.0f} s, round {peer_end.round_number}; "
        f"best so far after each round: ours {in_words(ours)}; by hand {in_words(by_hand)}"
    )
    for loser, winner, best in (
        ("ours", "the loop", by_hand),
        ("the loop", "ours", ours),
    ):
        if best[-1].accuracy > target:
            note += f"; {loser} does not reach the {best[-1].accuracy:.3f} of {winner}"
    return peer_end.seconds / our_end.seconds, note


def reached(rounds: Sequence[RoundEnd], accuracy: float) -> RoundEnd:
    """Return the first round at whose end the best model has at least this accuracy."""
    return next(one for one in rounds if one.accuracy >= accuracy)


def in_words(rounds: Sequence[RoundEnd]) -> str:
    """Return accuracies and times."""
    return ", ".join(f"{one.accuracy:.3f} at {one.seconds:.0f} s" for one in rounds)


if __name__ == "__main__":
    main()
