"""The recipe meta-update beside the usual script of its scheme, which is written here as articles
show it: figures `recipe.meta-update.*` of `tests.benchmarks.recipes`.

`python -m tests.benchmarks.meta_update BASE OUTPUT [--seed N]` is that script alone, a process of its
own: 100 texts of 50 tokens from one prompt, one after the other; a random 80 of them for Adam at
1e-4, five epochs at batch 1; the perplexity of the other 20. It prints {"seconds", "own_before",
"own_after"} and writes the trained model to OUTPUT.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.contracts.rows import Prompt, read_rows
from components.measures import perplexity_of
from components.runtime.receipts import fetch, fetch_folder, read_receipt
from tests.benchmarks.campaigns import REPOSITORY, Finished, results, run_campaign

RECIPE = "recipes/meta-update.yaml"
PROMPT = "The future of artificial intelligence is"
NUM_TEXTS = 100
NUM_TAUGHT = 80
NUM_TOKENS = 50
EPOCHS = 5
RATE = 1e-4
STRATEGIES = ("random", "diversity", "difficulty", "likelihood")
"""Beside influence, which the recipe takes."""
Figures = dict[str, tuple[float, str, str]]


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(script(given.base, given.output, given.seed)))


def script(base: Path, output: Path, seed: int) -> dict[str, float]:
    """Return the seconds of sampling and training, and the perplexities of own texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, local_files_only=True
    )
    prompt = tokenizer(PROMPT, return_tensors="pt")
    begun = time.perf_counter()
    texts: list[Any] = []
    for _ in range(NUM_TEXTS):
        text = model.generate(
            **prompt,
            do_sample=True,
            max_new_tokens=NUM_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts.append(text)
    random.Random(seed).shuffle(texts)
    taught, others = texts[:NUM_TAUGHT], texts[NUM_TAUGHT:]
    sampled = time.perf_counter()
    own_before = _own_perplexity(model, others)
    measured = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    model.train()
    for _ in range(EPOCHS):
        random.shuffle(taught)
        for text in taught:
            optimizer.zero_grad()
            model(input_ids=text, labels=text).loss.backward()
            optimizer.step()
    # Only what the product is timed at as well.
    seconds = time.perf_counter() - measured + sampled - begun
    own_after = _own_perplexity(model, others)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"seconds": seconds, "own_before": own_before, "own_after": own_after}


def _own_perplexity(model: Any, texts: Sequence[Any]) -> float:
    import torch

    model.eval()
    with torch.inference_mode():
        losses = [float(model(input_ids=text, labels=text).loss) for text in texts]
    return math.exp(sum(losses) / len(losses))


def figures(finished: Finished, folder: Path) -> Figures:
    """Return what the recipe, other ways of choosing, and the script do to text of people.

    Args:
        finished: The campaign of the recipe, with its store in `folder`.
        folder: Other campaigns share the store, so texts are drawn once.
    """
    recipe = finished.view.recipe
    assert recipe is not None
    seed = recipe.seed
    prepared = read_receipt(finished.context, finished.state.prepared)
    base = fetch_folder(finished.context, prepared, "model")
    before = human_perplexity(finished, base)
    scripted = run_script(base, folder / "script", seed)
    after_script = human_perplexity(finished, folder / "script")
    same_work = run_campaign(
        RECIPE, folder, same_work_overrides(folder, seed), rounds=1
    )
    champion = before
    if finished.state.champion != finished.state.prepared:
        champion = _after_round(finished, finished.champion_round)
    return {
        "human_ppl_ratio": (champion / before, "ratio", "≤ 1.02"),
        "script_human_ppl_ratio": (after_script / before, "ratio", "measured"),
        "script_own_ppl_ratio": (
            scripted["own_after"] / scripted["own_before"],
            "",
            "measured",
        ),
        "vs_script_time": (scripted["seconds"] / _seconds(same_work), "times", "≥ 5"),
        **{
            f"round_ppl_ratio_{by}": (after / before, "ratio", "measured")
            for by, after in _after_one_round(finished, folder, seed).items()
        },
    }


def run_script(base: Path, output: Path, seed: int) -> dict[str, float]:
    """Run the script in a process of its own; return what it prints."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.meta_update",
        str(base),
        str(output),
    ]
    done = subprocess.run(
        [*command, "--seed", str(seed)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def same_work_overrides(folder: Path, seed: int) -> list[str]:
    """Return the settings by which the recipe does the work of the script."""
    (folder / "prompt.txt").write_text(PROMPT, encoding="utf-8")
    text = "package://reasoning_gym/data/in_the_year_2889.txt"
    return [
        f"seed={seed}",
        f"data.sources=[{{uri: {text}}}, {{uri: {folder / 'prompt.txt'}, split: unlabelled}}]",
        "generate.from=prompts",
        "generate.prompts_per_round=1",
        f"generate.samples_per_prompt={NUM_TEXTS}",
        f"generate.max_new_tokens={NUM_TOKENS}",
        f"select.max_per_prompt={NUM_TEXTS}",
        f"select.keep={{by: random, rows: {NUM_TAUGHT}}}",
        # As many rows as the script's epochs hold, in batches.
        f"train.rounds.steps={EPOCHS * NUM_TAUGHT // 16}",
        f"train.rounds.learning_rate={RATE}",
        "train.early_stopping_patience=100",
    ]


def human_perplexity(finished: Finished, model_folder: Path) -> float:
    """Return the perplexity per token of a checkpoint on the blocks of the test split."""
    from components.modeling.inference.answers import load_for_answers
    from components.modeling.scoring import reference_losses

    recipe = finished.view.recipe
    assert recipe is not None
    prepared = read_receipt(finished.context, finished.state.prepared)
    path = fetch(finished.context, prepared, "splits/test.jsonl")
    model, codec = load_for_answers(model_folder, "")
    blocks = list(read_rows(path, Prompt))
    scores = reference_losses(model, codec, blocks, recipe.train.max_length)
    counted = [score for score in scores if score is not None]
    loss = sum(score.loss for score in counted)
    return math.exp(loss / sum(score.num_tokens for score in counted))


def _after_round(finished: Finished, number: int) -> float:
    """Return the perplexity of a round's candidate on the same blocks."""
    rows = results(finished.context, finished.evaluation(number), "test")
    return perplexity_of(list(rows.values())).value


def _after_one_round(finished: Finished, folder: Path, seed: int) -> dict[str, float]:
    """Return, by strategy, the perplexity of the candidate of round 1; weak rounds have none."""
    campaigns = {"influence": finished}
    for by in STRATEGIES:
        overrides = [f"seed={seed}", f"select.keep.by={by}"]
        campaigns[by] = run_campaign(RECIPE, folder, overrides, rounds=1)
    return {
        by: _after_round(campaign, 1)
        for by, campaign in campaigns.items()
        if not campaign.state.history[0].weak
    }


def _seconds(finished: Finished) -> float:
    """Return the wall time of drawing, choosing and training in round 1, starts included."""
    names = ("generate-r1-s0", "select-r1", "train-r1")
    tasks = [task for task in finished.view.tasks if task.name in names]
    assert len(tasks) == len(names), "one shard samples"
    return sum(task.worked.seconds for task in tasks)


if __name__ == "__main__":
    main()
