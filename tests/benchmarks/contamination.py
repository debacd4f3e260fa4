"""The firewall on GSM8K: `python -m tests.benchmarks.contamination --data FOLDER [--seed N]`. A few
seconds.

The evaluation split is GSM8K's test split; among its 7,473 training questions, test questions are
planted, some as they are and some reworded. FOLDER has `train.jsonl` and `test.jsonl`
(github.com/openai/grade-school-math); RATCHET_GSM8K names it too. Wrongly refused training
questions count against precision, though some are near-copies in truth.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from components.contracts.recipe import SelectSection
from components.contracts.rows import Prompt, Sample, prompt_id
from components.select.filter_settings import FilterSettings
from components.select.filters import contamination
from components.select.scored_samples import make_scored_samples
from tests.benchmarks.figures import record

NUM_PLANTED = 500
"""Of each kind, exact and reworded."""
NAMES = ("Ivo", "Mara", "Teun", "Saskia", "Bram", "Lotte", "Pim", "Fenna")

_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_NAME = re.compile(r"(?<![.?!]\s)(?<!^)\b[A-Z][a-z]+\b")

Change = Callable[[random.Random, str], str]


def plain(draw: random.Random, text: str) -> str:
    """Lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def typos(draw: random.Random, text: str) -> str:
    """Two neighbouring letters swapped in one word of twenty."""
    words = text.split()
    for place in range(len(words)):
        word = words[place]
        if len(word) > 3 and draw.random() < 0.05:
            words[place] = word[0] + word[2] + word[1] + word[3:]
    return " ".join(words)


def dropped_words(draw: random.Random, text: str) -> str:
    """One word of twelve is left out."""
    return " ".join(word for word in text.split() if draw.random() > 1 / 12)


def framed(draw: random.Random, text: str) -> str:
    """An instruction before and after."""
    return (
        f"Solve this problem step by step. {text} Write the answer after four hashes."
    )


def renamed(draw: random.Random, text: str) -> str:
    """Every name is another."""
    names: dict[str, str] = {}
    return _NAME.sub(lambda found: names.setdefault(found[0], draw.choice(NAMES)), text)


def reordered(draw: random.Random, text: str) -> str:
    """The first two sentences change places, the question stays last."""
    parts = _SENTENCE.split(text)
    if len(parts) > 2:
        parts[0], parts[1] = parts[1], parts[0]
    return " ".join(parts)


def renumbered(draw: random.Random, text: str) -> str:
    """Every number is another."""
    return re.sub(
        r"\d+", lambda found: str(draw.randrange(2, 10 * int(found[0]) + 3)), text
    )


CHANGES: tuple[Change, ...] = (
    plain,
    typos,
    dropped_words,
    framed,
    renamed,
    reordered,
    renumbered,
)


def main() -> None:
    """Plant, filter, count, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("RATCHET_GSM8K"), required=False
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.data is None or not (Path(given.data) / "test.jsonl").is_file():
        sys.exit(
            "no GSM8K: give --data FOLDER (or RATCHET_GSM8K) with train.jsonl and test.jsonl"
        )
    test, train = (
        _questions(Path(given.data) / f"{split}.jsonl") for split in ("test", "train")
    )
    draw = random.Random(given.seed)
    chosen = draw.sample(range(len(test)), 2 * NUM_PLANTED)
    planted = {prompt_id(test[place][0]): "exact" for place in chosen[:NUM_PLANTED]}
    texts = [test[place][0] for place in chosen[:NUM_PLANTED]] + [
        question for question, _ in train
    ]
    for number, place in enumerate(chosen[NUM_PLANTED:]):
        change = CHANGES[number % len(CHANGES)]
        text = change(draw, test[place][0])
        planted[prompt_id(text)] = change.__name__
        texts.append(text)
    begun = time.monotonic()
    refused = _refused(texts, test)
    print(
        f"{len(texts):,} prompts against {len(test):,} evaluation items in {time.monotonic() - begun:.1f} s"
    )
    for name, (value, bound) in _figures(planted, refused).items():
        print(f"{name} = {value:.4g} (bound {bound})")
        record(
            name,
            value,
            "share",
            bound,
            f"python -m tests.benchmarks.contamination --seed {given.seed}",
            given.seed,
            f"{NUM_PLANTED} planted of each kind among {len(train):,}",
        )


def _questions(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["question"], row["answer"]) for row in rows]


def _refused(texts: list[str], test: list[tuple[str, str]]) -> set[str]:
    """Ids of the prompts that the firewall drops. The answers say nothing: only the questions can
    give them away."""
    prompts = {
        prompt_id(text): Prompt(id=prompt_id(text), text=text, verifier="numeric")
        for text in texts
    }
    samples = [
        Sample(
            prompt_id=one,
            index=0,
            seed=0,
            text="I do not know.",
            num_tokens=5,
            finished=True,
        )
        for one in prompts
    ]
    evaluation = [
        (Prompt(id=prompt_id(asked), text=asked, verifier="numeric"), answer)
        for asked, answer in test
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = FilterSettings(
            SelectSection(contamination="overlap"), Path(folder), evaluation=evaluation
        )
        apply = contamination.filter_of(settings, lambda: iter(()))
        assert apply is not None
        _, dropped = apply(make_scored_samples(prompts, samples))
    return {row.row["prompt_id"] for row in dropped}


def _figures(
    planted: dict[str, str], refused: set[str]
) -> dict[str, tuple[float, str]]:
    kinds, found = (
        Counter(planted.values()),
        Counter(planted[one] for one in refused & planted.keys()),
    )
    for kind, count in sorted(kinds.items()):
        print(f"  {kind}: {found[kind]} of {count}")
    reworded = kinds.total() - kinds["exact"]
    return {
        "contamination.recall_exact": (found["exact"] / kinds["exact"], "≥ 0.99"),
        "contamination.recall_perturbed": (
            (found.total() - found["exact"]) / reworded,
            "≥ 0.95",
        ),
        "contamination.precision": (
            len(refused & planted.keys()) / len(refused),
            "≥ 0.95",
        ),
    }


if __name__ == "__main__":
    main()
