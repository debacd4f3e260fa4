"""Figures of collapse: `python -m tests.benchmarks.collapse [--seed N] [--text FILE]`. About four
minutes on one core.

First the theory that can be calculated (2404.01413): linear regression on its own predictions. Its
error grows without bound if each generation replaces the data and stays bounded if it adds to them.
Then a small language model on human text, trained for ten generations on its own samples: replacing
human text (what the papers do), and as Ratchet mixes (labelled floor, accumulated samples, a
dev split of human text).
"""

from __future__ import annotations

import argparse
import importlib.resources
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from components.canonical import derived_seed
from components.contracts.recipe import Scratch
from components.contracts.rows import TrainingRow
from components.evaluate.diversity import distinct_share, ngrams
from components.modeling.inference.answers import load_for_answers
from components.modeling.inference.sampler import Request, Sampling, sample
from components.modeling.likelihood import EncodedRow
from components.modeling.load import save_checkpoint
from components.modeling.scoring import score_rows
from components.modeling.scratch import make_scratch
from components.select.mix import weigh
from components.train.process.job import Stage
from tests.benchmarks.figures import record
from tests.unit.trainings import carry_out, make_job

ROWS, DIMENSIONS, NOISE = 200, 20, 1.0
"""T, d and s² of the published setting."""
REGRESSIONS = 2000
PIECE = 120
"""Characters of one text at most."""
MAX_CHARACTERS = 200_000
FIRST_STEPS, STEPS, LEARNING_RATE = 300, 40, 2e-3
GENERATIONS = 10


def main() -> None:
    """Run both parts and record what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--text",
        type=Path,
        help="a file of human text; else one that reasoning-gym brings",
    )
    parser.add_argument("--generations", type=int, default=GENERATIONS)
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    figures = {
        "collapse.theory_error": (theory_error(given.seed), "share", "≤ 0.05", "")
    }
    figures |= language_model(given.seed, read_text(given.text), given.generations)
    for name, (value, unit, bound, note) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound}) {note}")
        if not given.dry:
            record(
                name,
                value,
                unit,
                bound,
                f"python -m tests.benchmarks.collapse --seed {given.seed}",
                given.seed,
                note,
            )


def theory_error(seed: int, generations: int = GENERATIONS) -> float:
    """Largest relative distance of the simulated errors from s²·d/(T-d-1)·n (replace) and
    s²·d/(T-d-1)·Σ 1/i² (accumulate; at most π²/6 of the factor), over all generations.

    As in the papers one design matrix serves every generation of a run; labels are the last model's
    with fresh noise.
    """
    draw = np.random.default_rng(seed)
    design = draw.standard_normal((REGRESSIONS, ROWS, DIMENSIONS))
    solve = np.linalg.pinv(design)
    truth = np.ones(DIMENSIONS)
    unit = NOISE * DIMENSIONS / (ROWS - DIMENSIONS - 1)
    worst = 0.0
    for accumulate in (False, True):
        fitted = np.broadcast_to(truth, (REGRESSIONS, DIMENSIONS))
        labels: npt.NDArray[np.float64] = np.zeros((REGRESSIONS, ROWS))
        for number in range(1, generations + 1):
            noise = math.sqrt(NOISE) * draw.standard_normal((REGRESSIONS, ROWS))
            fresh = np.einsum("rtd,rd->rt", design, fitted) + noise
            # Least squares over equal design matrices is that over the mean of their labels.
            labels = labels + (fresh - labels) / number if accumulate else fresh
            fitted = np.einsum("rdt,rt->rd", solve, labels)
            error = float(np.mean(np.sum((fitted - truth) ** 2, axis=1)))
            factor = (
                sum(1 / place**2 for place in range(1, number + 1))
                if accumulate
                else number
            )
            worst = max(worst, abs(error / (unit * factor) - 1))
        print(
            f"theory: {'accumulate' if accumulate else 'replace'}: error {error:.4f} after {generations} generations"
        )
    return worst


def read_text(path: Path | None) -> str:
    """Human text, from a file or from an installed package."""
    if path is not None:
        return path.read_text(encoding="utf-8")[:MAX_CHARACTERS]
    found = importlib.resources.files("reasoning_gym").joinpath(
        "data/in_the_year_2889.txt"
    )
    return found.read_text(encoding="utf-8")[:MAX_CHARACTERS]


@dataclass(frozen=True)
class Texts:
    """Human text in pieces."""

    train: list[TrainingRow]
    dev: list[TrainingRow]
    test: list[TrainingRow]

    @classmethod
    def of(cls, text: str, seed: int) -> Texts:
        """Four fifths to train on, a tenth each to stop by and to measure on."""
        words, pieces = text.split(), [""]
        for word in words:
            longer = f"{pieces[-1]} {word}".strip()
            pieces[-1:] = [longer] if len(longer) <= PIECE else [pieces[-1], word]
        order = np.random.default_rng(seed).permutation(len(pieces))
        rows = [row_of(pieces[place], place, "labelled", 0) for place in order]
        cut = len(rows) // 10
        return cls(rows[2 * cut :], rows[:cut], rows[cut : 2 * cut])


def row_of(text: str, number: int, source: str, generation: int) -> TrainingRow:
    """Raw text as a training row."""
    return TrainingRow.model_validate(
        {
            "id": f"{generation}-{number}",
            "prompt": "",
            "completion": text,
            "source": source,
            "round": generation,
        }
    )


def language_model(
    seed: int, text: str, generations: int
) -> dict[str, tuple[float, str, str, str]]:
    """Perplexity on human text after so many generations over that of the first model, and
    distinct-2 of samples."""
    texts = Texts.of(text, seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = folder / "start"
        settings = {
            "tokenizer": "character",
            "alphabet": "".join(sorted(set(text))),
            "architecture": "llama",
        }
        model, tokenizer = make_scratch(
            Scratch.model_validate({**settings, "max_length": PIECE + 8})
        )
        save_checkpoint(model, tokenizer, start)
        first = teach(
            folder / "first", start, texts.train, texts.dev, FIRST_STEPS, seed
        )
        before = perplexity(first, texts.test)
        drawn = draw_texts(first, len(texts.train), seed, 0)
        print(
            f"generation 0: perplexity {before:.3f}, {len(texts.train)} texts",
            flush=True,
        )
        ends = {
            arm: last_generation(
                folder / arm, arm == "replace", first, texts, drawn, seed, generations
            )
            for arm in ("replace", "ours")
        }
    note = f"{len(texts.train)} texts of {PIECE} characters, {generations} generations"
    return {
        "collapse.replace_ppl_ratio": (
            ends["replace"][0] / before,
            "ratio",
            "≥ 1.3",
            note,
        ),
        "collapse.ours_ppl_ratio": (ends["ours"][0] / before, "ratio", "≤ 1.02", note),
        "collapse.ours_distinct_2_ratio": (ends["ours"][1], "ratio", "≥ 0.95", note),
        "collapse.replace_distinct_2_ratio": (
            ends["replace"][1],
            "ratio",
            "shown beside",
            note,
        ),
    }


def last_generation(
    folder: Path,
    replace: bool,
    first: Path,
    texts: Texts,
    drawn: list[str],
    seed: int,
    generations: int,
) -> tuple[float, float]:
    """Perplexity on human text of the last model and distinct-2 of its samples against those of the
    first."""
    folder.mkdir()
    model, newest, older = first, drawn, list[TrainingRow]()
    for number in range(1, generations + 1):
        rows = [
            row_of(text, place, "self", number) for place, text in enumerate(newest)
        ]
        if replace:
            mix, dev = rows, []
        else:
            mix = list(
                weigh(texts.train, older, rows, labelled_share=0.5, newest_share=0.5)
            )
            dev = texts.dev
        older += rows
        model = teach(
            folder / str(number),
            model,
            mix,
            dev,
            STEPS,
            derived_seed(seed, number) % 2**31,
        )
        newest = draw_texts(model, len(drawn), seed, number)
        ratio = distinct_ratio(drawn, newest)
        value = perplexity(model, texts.test)
        print(
            f"{folder.name} {number}: perplexity {value:.3f}, distinct-2 {ratio:.3f} times",
            flush=True,
        )
    return value, ratio


def teach(
    folder: Path,
    init: Path,
    mix: list[TrainingRow],
    dev: list[TrainingRow],
    steps: int,
    seed: int,
) -> Path:
    """Train in a process of its own, by the step's own worker; returns the checkpoint."""
    job = make_job(
        folder,
        rows=mix,
        dev=dev,
        init=init,
        key=f"{folder.parent.name}-{folder.name}",
        batch_size=32,
        micro_batch_size=32,
        max_length=PIECE + 8,
        evaluate_every=20,
        schedule="cosine",
        zero=0,
        group_by_length=False,
        stages=(Stage(name="pretrain", steps=steps, learning_rate=LEARNING_RATE),),
    )
    done = carry_out(job.model_copy(update={"seed": seed}))
    assert not done["failure"], done["failure"]
    return Path(done["folder"])


def draw_texts(model_folder: Path, count: int, seed: int, generation: int) -> list[str]:
    """Samples from nothing, at temperature 1 from the whole vocabulary: the model's own
    distribution."""
    model, codec = load_for_answers(model_folder, "")
    start = tuple(codec.row_ids("", "")[0][:1])
    seeds = tuple(
        derived_seed(seed, "text", generation, number) for number in range(count)
    )
    sampling = Sampling(
        temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=PIECE + 4, batch_size=256
    )
    answers = sample(
        model, [Request(start, seeds)], sampling, codec.end_ids, codec.pad_id
    )
    return [text for answer in answers if (text := codec.text(answer.ids))]


def perplexity(model_folder: Path, rows: Sequence[TrainingRow]) -> float:
    """Per token, on texts that no training saw."""
    model, codec = load_for_answers(model_folder, "")
    scores = score_rows(
        model,
        [EncodedRow(*codec.row_ids("", row.completion)) for row in rows],
        codec.pad_id,
        64,
    )
    return math.exp(
        sum(score.loss for score in scores) / sum(score.num_tokens for score in scores)
    )


def distinct_ratio(first: Sequence[str], now: Sequence[str]) -> float:
    """distinct-2 of `now` over that of `first`, at an equal number of word pairs."""
    before, after = ngrams(first, 2), ngrams(now, 2)
    size = min(before.total(), after.total())
    old, new = distinct_share(before, size), distinct_share(after, size)
    return (new or 0.0) / old if old else math.nan


if __name__ == "__main__":
    main()
