"""Figures of hints: `python -m tests.benchmarks.hints [--seed N]`. About two minutes on a core.

A tiny decoder answers `abcd=` by way of a letter: `P(d)####Q(P(d))`, P and Q being secret codes;
the verifier looks at what follows the ####. No labelled row answers a prompt that ends in one of
five letters, so these are too hard: a guess is right once in twenty. Half of the labelled rows
explain a given answer (`abc?=(z)`), as large models have learned to. The same campaign of three
rounds is carried out with hints and without, by the project's own steps: with the answer as a hint
the model can find the way to it, and is trained on that without the hint (STaR, 2203.14465).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from components.contracts.rows import Prompt, Result, read_rows
from components.contracts.state import State
from components.prepare.step import PrepareInputs
from components.prepare.step import run as prepare
from components.runtime.context import make_context
from components.runtime.receipts import fetch, read_receipt, receipt_uri, ref_of_uri
from tests.benchmarks.campaigns import state_with_base
from tests.benchmarks.diagnosis import import_all, one_round
from tests.benchmarks.diagnosis_faults import Fault
from tests.benchmarks.figures import record

SEEDS = range(6)
ROUNDS = 3
LETTERS = "abcdefghijklmnopqrst"
UNKNOWN = "pqrst"
"""Letters that no labelled row ends in."""
FIRST = dict(zip(LETTERS, random.Random(1).sample(LETTERS, len(LETTERS)), strict=True))
SECOND = dict(zip(LETTERS, random.Random(2).sample(LETTERS, len(LETTERS)), strict=True))
SPLITS = {"train": 600, "dev": 300, "unlabelled": 400, "validation": 300, "test": 20}
TEMPLATE = "{prompt}({answer})"


def _row(word: str) -> dict[str, str]:
    between = FIRST[word[-1]]
    return {"prompt": f"{word}=", "completion": f"{between}####{SECOND[between]}"}


def _explained(word: str) -> dict[str, str]:
    """The way to an answer that is given: the letter that decides is hidden."""
    between = FIRST[word[-1]]
    prompt = TEMPLATE.format(prompt=f"{word[:-1]}?=", answer=SECOND[between])
    return {"prompt": prompt, "completion": f"{between}####{SECOND[between]}"}


def write_data(folder: Path, seed: int) -> None:
    """One JSON Lines file per split; half of the labelled rows explain an answer."""
    dice, seen = random.Random(seed), set[str]()
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in SPLITS.items():
        rows: list[dict[str, str]] = []
        labelled = split in ("train", "dev")
        while len(rows) < count:
            word = "".join(dice.choices(LETTERS, k=4))
            explain = labelled and len(rows) % 2 == 1
            if word in seen or (labelled and not explain and word[-1] in UNKNOWN):
                continue
            seen.add(word)
            rows.append(_explained(word) if explain else _row(word))
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def recipe_of(folder: Path, seed: int, hints: bool) -> dict[str, Any]:
    """The campaign, with hints or without."""
    return {
        "name": "hints",
        "seed": seed,
        "model": {
            "scratch": {
                "architecture": "llama",
                "hidden_size": 48,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 96,
                "max_length": 32,
                "alphabet": f"{LETTERS}?=()#",
            }
        },
        "data": {
            "sources": [
                {
                    "uri": (folder / f"{split}.jsonl").as_uri(),
                    "split": split,
                    "verifier": "choice",
                }
                for split in SPLITS
            ]
        },
        "generate": {
            "prompts_per_round": 400,
            "samples_per_prompt": 2,
            "temperature": 0.7,
            "max_new_tokens": 8,
            "batch_size": 1024,
            "shards": 1,
            "hints": {"template": TEMPLATE} if hints else None,
        },
        "select": {
            "minhash_threshold": 1.0,
            "min_accepted": 1,
            "max_per_prompt": 1,
            "labelled_share": 0.4,
        },
        "train": {
            "first": {"steps": 300, "learning_rate": 0.005},
            "rounds": {"steps": 100, "learning_rate": 0.003},
            "batch_size": 32,
            "micro_batch_size": 32,
            "max_length": 32,
            "zero": 0,
            "evaluate_every": 50,
            "precision": "fp32",
            "group_by_length": False,
        },
        "decide": {
            "goal": {"threshold": 1.0},
            "max_rounds": ROUNDS,
            "patience": ROUNDS,
            "max_perplexity_ratio": 100.0,
            "retention_margin": None,
        },
    }


def campaign(seed: int, hints: bool, folder: Path) -> dict[str, float]:
    """Validation accuracy of the champion at the end, on hard prompts and on the others."""
    data = folder / f"data-{seed}"
    write_data(data, seed)
    context = make_context(
        f"file://{folder}/store-{seed}",
        {**os.environ, "RATCHET_CACHE": f"{folder}/cache-{seed}"},
    )
    start = prepare(PrepareInputs(recipe_of(data, seed, hints), {}, "", ""), context)
    state = state_with_base(context, start)
    for number in range(ROUNDS + 1):
        state = receipt_uri(
            context, one_round(context, start, state, Fault(cause=""), number)
        )
    decided = read_receipt(context, ref_of_uri(context, state))
    after = State.model_validate_json(
        fetch(context, decided, "state.json").read_bytes()
    )
    prompts = read_rows(
        fetch(
            context, read_receipt(context, after.prepared), "splits/validation.jsonl"
        ),
        Prompt,
    )
    hard = {prompt.id for prompt in prompts if prompt.text[-2] in UNKNOWN}
    assert after.champion_evaluation is not None
    evaluation = read_receipt(context, after.champion_evaluation)
    rows = [
        row
        for row in read_rows(fetch(context, evaluation, "results.jsonl"), Result)
        if row.split == "validation"
    ]
    told = [
        (
            one.round,
            one.verdict,
            round(one.overall, 3),
            one.measures.get("hinted_accepted"),
            one.measures.get("too_hard"),
            [cause.name for cause in one.causes],
        )
        for one in after.history
    ]
    print(f"seed {seed}, hints {hints}: {told}", flush=True)
    return {
        "hard": fmean(row.correct for row in rows if row.prompt_id in hard),
        "others": fmean(row.correct for row in rows if row.prompt_id not in hard),
    }


def main() -> None:
    """Both arms of every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, action="append", help="these seeds; all six by default"
    )
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    seeds, begun = given.seed or list(SEEDS), time.monotonic()
    import_all()
    arms: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for hints, results in arms.items():
                results.append(campaign(seed, hints, Path(folder)))
            print(
                f"seed {seed}: with hints {arms[True][-1]}, without {arms[False][-1]}",
                flush=True,
            )
    helped, alone = ([one["hard"] for one in arms[hints]] for hints in (True, False))
    others = [fmean(one["others"] for one in arms[hints]) for hints in (True, False)]
    note = (
        f"share of the validation prompts of a kind the base never answers that the champion after {ROUNDS} rounds "
        f"does, mean of {len(seeds)} campaigns ({min(helped):.2f} to {max(helped):.2f}); without hints "
        f"{fmean(alone):.2f} ({min(alone):.2f} to {max(alone):.2f}); the other prompts {others[0]:.2f} with, "
        f"{others[1]:.2f} without"
    )
    print(
        f"hints.hard_answered = {fmean(helped):.3f}: {note}; {time.monotonic() - begun:.0f} s"
    )
    if not given.dry:
        record(
            "hints.hard_answered",
            fmean(helped),
            "share",
            "≥ 0.80",
            "python -m tests.benchmarks.hints",
            0,
            note,
        )


if __name__ == "__main__":
    main()
