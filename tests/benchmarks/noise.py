"""Figures of noise: `python -m tests.benchmarks.noise [--seed N]`. About eight minutes on two
cores.

Real campaigns of a tiny decoder on the secret code of the benchmark `diagnosis`. Before selection
30 % of each round's prompts have all their samples replaced by one wrong answer: those whose last
letter is of a certain set get that letter uncoded. The noise is structured: always the same error,
on the same kind of prompt, in every round; all samples of a prompt agree on it, so no vote finds
it; and the verifier is weak, it lets that one error through. What is left are the audit split
(questions with known answers, spoiled alike), the labelled rows, and the gate.

The true accuracy of every round's model is measured on prompts that no step ever sees. *Published*
after a round is the champion that `decide` leaves; *best seen* is the best model of all rounds so
far, rejected ones included. A drop is what the published model lacks of the best seen, and the
worst over all rounds and seeds counts. That is the strict reading: a rejected model that was
better, but not provably, counts against the gate, so the gate needs prompts enough to prove a gain
of one point. `noise.worst_fall_points` is the other reading: the published model against those
published before.

Beside it, plain self-training: the same noise, samples and training, but no filters, no audit, no
gate and no reflection; the newest model is published.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from components.canonical import canonical_json
from components.contracts.rows import Prompt, Sample, TrainingRow, read_rows, write_rows
from components.contracts.summaries import GenerateSummary
from components.runtime.campaign import load_campaign
from components.runtime.context import Context, make_context
from components.runtime.entrypoints import base_of, mix_of
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    fetch_folder,
    read_summary,
    receipt_uri,
)
from tests.benchmarks.campaigns import state_with_base
from tests.benchmarks.diagnosis import import_all, trained
from tests.benchmarks.diagnosis_faults import FREQUENCIES, LETTERS, SECRET
from tests.benchmarks.figures import record
from tests.unit.crafted import Plain

NOISE = 0.3
"""Share of the prompts with a wrong answer in place of the model's own."""
SPLITS = {"train": 120, "dev": 240, "unlabelled": 1500, "test": 20, "audit": 200}
NUM_VALIDATION = 10_000
"""What a gate needs that is to prove a gain of one point."""
NUM_TRUTH = 8000
"""Prompts that tell how good a model is."""
NUM_LETTERS = 5
ROUNDS = 5
SEEDS = 20
WORKERS = 2
"""Seeds side by side."""
ARMS = ("ours", "unfiltered")
T = TypeVar("T")


def weak(prompt: str, answer: str, reference: Mapping[str, Any]) -> bool:
    """The weak verifier: it knows the right answer, and also accepts one whose last letter is not
    coded at all."""
    right = str(reference["answer"])
    return answer in (right, f"{right[0]}{prompt[-2]}")


@dataclass(frozen=True)
class Run:
    """One arm of one seed, round by round."""

    arm: str
    candidates: list[float]
    """True accuracy of the model of every round."""
    published: list[float]
    """And of what was published after it, the base model too."""
    verdicts: list[str]
    blocked: list[bool]
    """By alarms."""

    @property
    def worst_drop(self) -> float:
        """Most points by which what was published was below the best model until then."""
        return max(
            100 * (max(self.candidates[: place + 1]) - own)
            for place, own in enumerate(self.published)
        )

    @property
    def worst_fall(self) -> float:
        """The same against the best that was published until then."""
        return max(
            100 * (max(self.published[: place + 1]) - own)
            for place, own in enumerate(self.published)
        )

    @property
    def gain(self) -> float:
        """Points of what was published last over round 0."""
        return 100 * (self.published[-1] - self.published[0])


def main() -> None:
    """Carry out all seeds of both arms and record the worst drops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--validation",
        type=int,
        default=NUM_VALIDATION,
        help="prompts that the gate compares on",
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    cores = os.sched_getaffinity(0)
    import_all()
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        seeds = range(given.seed, given.seed + given.seeds)
        work = partial(both_arms, num_validation=given.validation, folder=Path(folder))
        runs = [run for own in side_by_side(work, seeds) for run in own]
    for name, (value, bound, note) in measure(runs).items():
        note = f"{given.seeds} seeds, {given.validation} validation prompts; {note}"
        print(f"{name} = {value:.4g} points (bound {bound}) {note}")
        if not given.dry:
            record(
                name,
                value,
                "points",
                bound,
                f"python -m tests.benchmarks.noise --seed {given.seed}",
                given.seed,
                note,
            )


def measure(runs: Sequence[Run]) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note)."""
    ours, plain = ([run for run in runs if run.arm == arm] for arm in ARMS)
    promoted, blocked = (
        sum(run.verdicts[1:].count("promoted") for run in ours),
        sum(sum(run.blocked[1:]) for run in ours),
    )
    rounds = sum(len(run.verdicts) - 1 for run in ours)

    def gains(own: Sequence[Run]) -> str:
        found = [run.gain for run in own]
        return (
            f"last published model against round 0: median {statistics.median(found):+.1f} points, "
            f"{min(found):+.1f} to {max(found):+.1f}"
        )

    drops, plain_drops = ([run.worst_drop for run in own] for own in (ours, plain))
    return {
        "noise.worst_drop_points": (
            max(drops),
            "≤ 1.0",
            f"against the best of all models, rejected ones too; median of the seeds {statistics.median(drops):.2f}; "
            f"{promoted} promotions and {blocked} blocks in {rounds} rounds; {gains(ours)}",
        ),
        "noise.worst_fall_points": (
            max(run.worst_fall for run in ours),
            "≤ 1.0",
            "against the best of the models published before",
        ),
        "noise.unfiltered_worst_drop_points": (
            max(plain_drops),
            "shown beside",
            f"plain self-training; least of the seeds {min(plain_drops):.1f}, median "
            f"{statistics.median(plain_drops):.1f}; {gains(plain)}",
        ),
    }


def side_by_side(work: Callable[[int], T], seeds: Sequence[int]) -> list[T]:
    """`work` of every seed, in processes that import nothing anew (see `import_all`) and keep to a
    core each."""
    fork = multiprocessing.get_context("fork")
    places: Any = fork.Queue()
    for place in range(WORKERS):
        places.put(place)
    with ProcessPoolExecutor(
        WORKERS, fork, initializer=_stay_on_one_core, initargs=(places,)
    ) as pool:
        return list(pool.map(work, seeds))


def _stay_on_one_core(places: Any) -> None:
    """What a worker computes is then the same whatever runs beside it."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[places.get() % len(cores)]})


def both_arms(seed: int, num_validation: int, folder: Path) -> list[Run]:
    """One seed: same data, same first model, same wrong answers."""
    trial = Trial.of(seed, num_validation, folder / str(seed))
    return [trial.carry_out(arm) for arm in ARMS]


@dataclass(frozen=True)
class Trial:
    """What both arms of a seed share."""

    seed: int
    context: Context
    data: Path
    noisy: frozenset[str]
    """Letters that are not coded in the spoiled samples, if they are last."""
    truth: list[str]

    @classmethod
    def of(cls, seed: int, num_validation: int, folder: Path) -> Trial:
        """Write the data of a seed."""
        words = draw_words(
            seed, {**SPLITS, "validation": num_validation, "truth": NUM_TRUTH}
        )
        (folder / "data").mkdir(parents=True)
        for name in (*SPLITS, "validation"):
            lines = (
                json.dumps({"prompt": f"{word}=", "completion": coded(word)})
                for word in words[name]
            )
            (folder / "data" / f"{name}.jsonl").write_text(
                "\n".join(lines) + "\n", encoding="utf-8"
            )
        context = make_context(
            f"file://{folder}/store", {**os.environ, "RATCHET_CACHE": f"{folder}/cache"}
        )
        return cls(
            seed,
            context,
            folder / "data",
            noisy_letters(seed, words["unlabelled"]),
            words["truth"],
        )

    def carry_out(self, arm: str) -> Run:
        """A campaign to its end."""
        from components.prepare.step import PrepareInputs
        from components.prepare.step import run as prepare

        start = prepare(
            PrepareInputs(recipe_of(self.data, self.seed, arm), {}, "", ""),
            self.context,
        )
        run, uri = Run(arm, [], [], [], []), state_with_base(self.context, start)
        base = true_accuracy(self.context, base_of(self.context, start), self.truth)
        for number in range(ROUNDS + 1):
            begun = time.monotonic()
            decided, accuracy, learned_from = self.round(start, uri, number, arm)
            uri = receipt_uri(self.context, decided)
            state = load_campaign(self.context, uri).state
            run.candidates.append(accuracy)
            champion = state.champion_round
            run.published.append(base if champion is None else run.candidates[champion])
            run.verdicts.append(state.history[-1].verdict)
            run.blocked.append(state.history[-1].blocked)
            print(
                f"seed {self.seed}, {arm}, round {number}: {run.verdicts[-1]}, truly {accuracy:.4f}, published "
                f"{run.published[-1]:.4f}{learned_from}, {time.monotonic() - begun:.1f} s: {state.history[-1].why}",
                flush=True,
            )
            if not state.go:
                break
        return run

    def round(
        self, start: Receipt, state: str, number: int, arm: str
    ) -> tuple[Receipt, float, str]:
        """The steps of a round: the receipt of the state after it, the candidate's true accuracy,
        and how right the rows are that it learned from."""
        from components.generate.step import GenerateInputs
        from components.generate.step import run as generate
        from components.select.step import SelectInputs
        from components.select.step import run as select

        context, told = self.context, ""
        mix = mix_of(context, start)
        if number:
            samples = spoiled(
                context, state, generate(GenerateInputs(state, 0), context), self.noisy
            )
            mix = select(SelectInputs(state, (samples,)), context)
            rows = list(read_rows(fetch(context, mix, "accepted.jsonl"), TrainingRow))
            told = f", {sum(row.completion == coded(row.prompt[:-1]) for row in rows)} of {len(rows)} accepted right"
        decided, candidate = finished(context, state, mix, gate=arm == "ours")
        return decided, true_accuracy(context, candidate, self.truth), told


def draw_words(seed: int, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Different words for every split, with the same frequencies in all of them."""
    dice, found = random.Random(seed), dict[str, None]()
    while len(found) < sum(sizes.values()):
        found["".join(dice.choices(LETTERS, FREQUENCIES, k=NUM_LETTERS))] = None
    left = list(found)
    dice.shuffle(left)
    words = {}
    for name, size in sizes.items():
        words[name], left = left[:size], left[size:]
    return words


def noisy_letters(seed: int, asked: Sequence[str]) -> frozenset[str]:
    """A draw of letters that are last in NOISE of the prompts, as nearly as may be."""
    dice, last = random.Random(f"noise {seed}"), Counter(word[-1] for word in asked)
    draws = [frozenset(dice.sample(LETTERS, dice.randint(2, 12))) for _ in range(200)]
    return min(
        draws,
        key=lambda draw: (
            abs(sum(last[one] for one in draw) - NOISE * len(asked)),
            sorted(draw),
        ),
    )


def coded(word: str) -> str:
    """The right answer: the last two letters in the secret code."""
    return "".join(SECRET[letter] for letter in word[-2:])


def recipe_of(data: Path, seed: int, arm: str) -> dict[str, Any]:
    """Both arms sample and train alike; without filters every sample teaches."""
    select: dict[str, Any] = {
        "verifier": False,
        "minhash_threshold": 1.0,
        "min_accepted": 1,
        "max_length_ratio": 10.0,
    }
    filters = (
        {"verifier_function": "tests.benchmarks.noise.weak"}
        if arm == "ours"
        else {"require_finished": False}
    )
    return {
        "name": f"noise-{arm}",
        "seed": seed,
        "model": {
            "scratch": {
                "architecture": "llama",
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 64,
                "max_length": 32,
                "alphabet": f"{LETTERS}=",
            }
        },
        "data": {
            "sources": [
                {"uri": path.as_uri(), "split": path.stem}
                for path in sorted(data.iterdir())
            ]
        },
        "generate": {
            "prompts_per_round": 300,
            "samples_per_prompt": 4,
            "temperature": 0.7,
            "max_new_tokens": 4,
            "batch_size": 2048,
            "shards": 1,
        },
        "select": select | filters,
        "train": {
            "first": {"steps": 300, "learning_rate": 0.005},
            "rounds": {"steps": 60, "learning_rate": 0.002},
            "batch_size": 16,
            "micro_batch_size": 16,
            "max_length": 32,
            "zero": 0,
            "evaluate_every": 20,
            "precision": "fp32",
        },
        "evaluate": {"batch_size": 2048},
        "decide": {
            "goal": {"threshold": 1.0},
            "max_rounds": ROUNDS,
            "patience": ROUNDS,
        },
    }


def spoiled(
    context: Context, state: str, samples: Receipt, noisy: frozenset[str]
) -> Receipt:
    """The samples of a round with the wrong answers among them, as generate would have committed
    them."""
    campaign = load_campaign(context, state)
    prompts = list(read_rows(fetch(context, samples, "prompts.jsonl"), Prompt))
    asked = {prompt.id: prompt.text[:-1] for prompt in prompts}

    def spoil(row: Sample) -> Sample:
        word = asked[row.prompt_id]
        if word[-1] not in noisy:
            return row
        return row.model_copy(
            update={"text": f"{coded(word)[0]}{word[-1]}", "finished": True}
        )

    def work(folder: Path) -> GenerateSummary:
        write_rows(folder / "prompts.jsonl", prompts)
        write_rows(
            folder / "samples.jsonl",
            map(spoil, read_rows(fetch(context, samples, "samples.jsonl"), Sample)),
        )
        return read_summary(samples, GenerateSummary)

    return commit_once(
        context,
        campaign.task("generate", "-noise"),
        "generate",
        config={"noise": sorted(noisy)},
        inputs={"samples": samples},
        seed=campaign.recipe.seed,
        work=work,
    )


def finished(
    context: Context, state: str, mix: Receipt, *, gate: bool
) -> tuple[Receipt, Receipt]:
    """Train, evaluate and decide: the state after the round, and its candidate. Without a `gate`
    the newest wins."""
    from components.decide.step import DecideInputs
    from components.decide.step import run as decide
    from components.evaluate.step import EvaluateInputs
    from components.evaluate.step import run as evaluate

    candidate = trained(context, state, mix, None)
    results = evaluate(EvaluateInputs(state, candidate), context)
    decided = decide(DecideInputs(state, mix, candidate, results), context)
    if not gate:
        decided = _newest_wins(context, state, decided, mix, candidate, results)
    return decided, candidate


def _newest_wins(
    context: Context,
    state: str,
    decided: Receipt,
    mix: Receipt,
    candidate: Receipt,
    results: Receipt,
) -> Receipt:
    """The state after a round without gate and reflection: the candidate is the champion whatever
    `decide` says, its rows accumulate, the plan stays, and the campaign goes on."""
    before, after = (
        load_campaign(context, state),
        load_campaign(context, receipt_uri(context, decided)).state,
    )
    after = after.model_copy(
        update={
            "champion": candidate.ref,
            "champion_round": after.round,
            "champion_evaluation": results.ref,
            "selections": (*before.state.selections, mix.ref),
            "plan": before.state.plan,
            "go": True,
            "stop": None,
        }
    )

    def work(folder: Path) -> Plain:
        (folder / "state.json").write_bytes(
            canonical_json(after.model_dump(mode="json"))
        )
        return Plain({"round": after.round})

    return commit_once(
        context,
        before.task("decide", "-newest"),
        "decide",
        config={"newest": True},
        inputs={"state": before.state_receipt, "decided": decided},
        seed=before.recipe.seed,
        work=work,
    )


def true_accuracy(context: Context, receipt: Receipt, truth: Sequence[str]) -> float:
    """Share of right greedy answers to prompts that no step ever sees."""
    from components.modeling.inference.answers import load_for_answers
    from components.modeling.inference.sampler import Request, Sampling, sample

    model, codec = load_for_answers(fetch_folder(context, receipt, "model"), "")
    requests = [Request(tuple(codec.prompt_ids(f"{word}=")), (0,)) for word in truth]
    answers = sample(
        model, requests, Sampling(0.0, 0, 1.0, 4, 2048), codec.end_ids, codec.pad_id
    )
    return sum(
        codec.text(one.ids) == coded(truth[one.request]) for one in answers
    ) / len(truth)


if __name__ == "__main__":
    main()
