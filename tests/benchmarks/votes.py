"""Figures of learning without labels: `python -m tests.benchmarks.votes [--seed N] [--part
labels|alarm]`. About ten minutes on two cores; the whole ladder is the benchmark `labelfree`.

*labels*: three independently seeded models of recipes/labelfree.yaml learn to reverse numbers of up to eight digits,
too briefly to be sure of the next difficulty. They answer numbers of nine digits greedily, and the
recipe's filters choose: only what all three say and what has the usual length. Label accuracy is
the share of right answers among the chosen ones, yield the share of prompts that got a label; the
right answers are looked up here alone.

*alarm*: the loop is forced into collapse. One model, good at up to five digits, learns from nothing but its own greedy
answers to eight digits, which are all wrong: unfiltered, each round in place of all rows before
(`unsafe_replace`), and the newest model always wins. Rounds are short, so that the collapse takes
several. An alarm is a sentence of `decide` against a candidate; the fall is the first round whose
accuracy on the test prompts is five points below the best so far. The figure is by how many rounds
the first alarm is ahead of the fall, in the worst seed. An audit split would raise an alarm in
round 1 (an unfiltered round teaches errors), so there is none: what counts is what evaluate
measures of collapse. Beside it the same loop on answers to six digits, most of which are right:
there it should be silent.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from components.contracts.rows import Prompt, Sample, TrainingRow, read_rows
from components.contracts.summaries import SelectSummary
from components.runtime.campaign import load_campaign
from components.runtime.context import Context, make_context
from components.runtime.entrypoints import mix_of
from components.runtime.receipts import Receipt, fetch, read_summary, receipt_uri
from tests.benchmarks.campaigns import REPOSITORY, state_with_base
from tests.benchmarks.diagnosis import import_all
from tests.benchmarks.figures import record
from tests.benchmarks.labelfree import RECIPE
from tests.benchmarks.noise import finished, side_by_side

SEEDS, SEEDS_FORCED = 3, 5
FIRST_STEPS, FIRST_STEPS_FORCED = 500, 300
ROUNDS = 8
FALL = 0.05
LONGEST, LONGEST_FORCED = 8, 5
"""Labelled digits in either part."""
TOO_LONG, NEXT = 8, 6
"""Digits that the forced loop learns from, and those of the loop beside it."""
Found = dict[str, tuple[float, str, str, str]]


def main() -> None:
    """Carry out the parts asked for and record what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--part", choices=("labels", "alarm"), help="one part alone")
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    cores = os.sched_getaffinity(0)
    import_all()
    os.sched_setaffinity(0, cores)
    figures: Found = {}
    with tempfile.TemporaryDirectory(prefix="votes-") as folder:
        if given.part != "alarm":
            figures |= labels(
                side_by_side(
                    partial(chosen, folder=Path(folder)),
                    range(given.seed, given.seed + SEEDS),
                )
            )
        if given.part != "labels":
            seeds = range(given.seed, given.seed + SEEDS_FORCED)
            figures |= alarm(
                *(
                    side_by_side(
                        partial(forced, length=length, folder=Path(folder)), seeds
                    )
                    for length in (TOO_LONG, NEXT)
                )
            )
    for name, (value, unit, bound, note) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound}) {note}")
        if not given.dry:
            record(
                name,
                value,
                unit,
                bound,
                f"python -m tests.benchmarks.votes --seed {given.seed}",
                given.seed,
                note,
            )


def document(seed: int, longest: int, length: int, first_steps: int) -> dict[str, Any]:
    """The recipe of the ladder with one rung of this length, and few rows to measure on."""
    whole: dict[str, Any] = yaml.safe_load(
        (REPOSITORY / RECIPE).read_text(encoding="utf-8")
    )
    whole["seed"] = seed
    ladder = {"labelled": [1, longest], "climb": [length, length]}
    whole["data"]["tasks"][0] |= {
        "unlabelled": 3000,
        "validation": 450,
        "test": 900,
        "ladder": ladder,
    }
    whole["train"]["first"]["steps"] = first_steps
    whole["select"]["min_accepted"] = 1
    whole["decide"]["goal"] = {"threshold": 1.0}
    return whole


def labels(runs: Sequence[dict[str, float]]) -> Found:
    """Medians over the seeds."""
    found = {name: [run[name] for run in runs] for name in runs[0]}
    middle = {name: statistics.median(values) for name, values in found.items()}

    def spread(name: str) -> str:
        return (
            f"{min(found[name]):.3f} to {max(found[name]):.3f} over {len(runs)} seeds"
        )

    about = f"{middle['before']:.3f} of the models' answers are right before ({spread('before')})"
    return {
        "labelfree.label_accuracy": (
            middle["after"],
            "share",
            "≥ 0.93",
            f"{spread('after')}; {about}",
        ),
        "labelfree.label_lift_points": (
            100 * (middle["after"] - middle["before"]),
            "points",
            "≥ 40 where 0.93 is not reached",
            about,
        ),
        "labelfree.yield": (
            middle["yield"],
            "share",
            "≥ 0.2",
            f"prompts that got a label; {spread('yield')}",
        ),
    }


def chosen(seed: int, folder: Path) -> dict[str, float]:
    """Share of right labels before and after the filters, and yield."""
    from components.generate.step import GenerateInputs
    from components.generate.step import run as generate
    from components.select.step import SelectInputs
    from components.select.step import run as select

    context, start = begun(
        document(seed, LONGEST, LONGEST + 1, FIRST_STEPS), folder / f"labels-{seed}"
    )
    state = receipt_uri(
        context,
        finished(
            context, state_with_base(context, start), mix_of(context, start), gate=False
        )[0],
    )
    shards = [generate(GenerateInputs(state, shard), context) for shard in range(2)]
    answers = [
        (asked[row.prompt_id], row.text)
        for shard in shards
        for asked in (
            {
                one.id: one.text
                for one in read_rows(fetch(context, shard, "prompts.jsonl"), Prompt)
            },
        )
        for row in read_rows(fetch(context, shard, "samples.jsonl"), Sample)
    ]
    selection = select(SelectInputs(state, tuple(shards)), context)
    rows = [
        (row.prompt, row.completion)
        for row in read_rows(fetch(context, selection, "accepted.jsonl"), TrainingRow)
    ]
    found = {
        "before": statistics.fmean(is_right(*one) for one in answers),
        "after": statistics.fmean(is_right(*one) for one in rows),
        "yield": len(rows) / len({prompt for prompt, _ in answers}),
    }
    print(
        f"seed {seed}: {found}, {read_summary(selection, SelectSummary).dropped}",
        flush=True,
    )
    return found


@dataclass(frozen=True)
class Course:
    """What became of a loop without a gate: test accuracies and alarms, round by round."""

    accuracies: list[float]
    alarms: list[tuple[str, ...]]

    @property
    def fall(self) -> int:
        """The first round well below the best before it; one beyond the last if there is none."""
        below = (
            place
            for place, own in enumerate(self.accuracies)
            if own < max(self.accuracies[: place + 1]) - FALL
        )
        return next(below, len(self.accuracies))

    @property
    def first_alarm(self) -> int:
        """Likewise."""
        return next(
            (place for place, own in enumerate(self.alarms) if own), len(self.alarms)
        )


def alarm(forced: Sequence[Course], sound: Sequence[Course]) -> Found:
    """How many rounds the alarm is ahead, at least, and how often there is one where nothing falls."""
    told = "; ".join(
        f"alarm in round {one.first_alarm}, fall in round {one.fall}" for one in forced
    )
    quiet = [alarms for one in sound for alarms in one.alarms[1:]]
    gains = ", ".join(
        f"{100 * (one.accuracies[-1] - one.accuracies[0]):+.1f}" for one in sound
    )
    return {
        "labelfree.alarm_rounds_ahead": (
            float(min(one.fall - one.first_alarm for one in forced)),
            "rounds",
            "≥ 1",
            f"{len(forced)} seeds: {told}",
        ),
        "labelfree.false_alarms": (
            statistics.fmean(bool(alarms) for alarms in quiet),
            "share",
            "rounds with an alarm in a loop that gets better",
            f"{len(quiet)} rounds; test accuracy {gains} points",
        ),
    }


def forced(seed: int, length: int, folder: Path) -> Course:
    """The loop that learns from its own answers alone, until it has fallen."""
    recipe = document(seed, LONGEST_FORCED, length, FIRST_STEPS_FORCED)
    recipe["generate"] |= {
        "samples_per_prompt": 1,
        "prompts_per_round": 600,
        "shards": 1,
    }
    recipe["select"] = {
        "verifier": False,
        "unsafe_replace": True,
        "require_finished": False,
        "min_accepted": 1,
        "minhash_threshold": 1.0,
        "max_length_ratio": 100.0,
    }
    recipe["train"] |= {
        "num_peers": 1,
        "rounds": {"steps": 20, "learning_rate": 0.0003},
        "early_stopping_patience": 99,
    }
    recipe["evaluate"]["pass_k"] = 8
    recipe["decide"] |= {"max_rounds": 2 * ROUNDS}
    context, start = begun(recipe, folder / f"alarm-{seed}-{length}")
    state, course = state_with_base(context, start), Course([], [])
    for number in range(ROUNDS + 1):
        state = receipt_uri(context, round_without_gate(context, state, start, number))
        last = load_campaign(context, state).state.history[-1]
        course.accuracies.append(last.test_score)
        course.alarms.append(last.alarms)
        print(
            f"seed {seed}, {length} digits, round {number}: {last.test_score:.4f}; {'; '.join(last.alarms)}",
            flush=True,
        )
        if course.fall <= number:
            break
    return course


def begun(recipe: dict[str, Any], folder: Path) -> tuple[Context, Receipt]:
    """A campaign with a store of its own, and its start receipt."""
    from components.prepare.step import PrepareInputs
    from components.prepare.step import run as prepare

    context = make_context(
        f"file://{folder}/store", {**os.environ, "RATCHET_CACHE": f"{folder}/cache"}
    )
    return context, prepare(PrepareInputs(recipe, {}, "", ""), context)


def round_without_gate(
    context: Context, state: str, start: Receipt, number: int
) -> Receipt:
    """A round whose candidate is the next champion, whatever `decide` says."""
    from components.generate.step import GenerateInputs
    from components.generate.step import run as generate
    from components.select.step import SelectInputs
    from components.select.step import run as select

    if not number:
        return finished(context, state, mix_of(context, start), gate=False)[0]
    mix = select(
        SelectInputs(state, (generate(GenerateInputs(state, 0), context),)), context
    )
    return finished(context, state, mix, gate=False)[0]


def is_right(prompt: str, answer: str) -> bool:
    """Whether a number is reversed."""
    return answer.strip() == prompt.removesuffix("=")[::-1]


if __name__ == "__main__":
    main()
