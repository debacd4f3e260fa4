"""The scale of select: `python -m tests.benchmarks.selection [--seed N] [--rows N]`. About ten
minutes on two cores.

A million made-up samples of about 200 characters, eight to a prompt, in Parquet shards, go through
vote, exact and near duplicates, cap and mix. Each size is selected in a process of its own, so that
its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.contracts.rows import Prompt, Sample, TrainingRow, prompt_id
from components.contracts.summaries import GenerateSummary, SelectSummary
from components.runtime.attempts import Task
from components.runtime.context import Context, make_context
from components.runtime.receipts import Receipt, commit_once, read_receipt, read_summary
from components.select.step import SelectInputs, run
from tests.benchmarks.figures import record
from tests.unit.crafted import decided, generate_summary, prepare, recipe_of

SAMPLES_PER_PROMPT = 8
SHARDS = 4
NUM_LABELLED = 2000
SELECT = {
    "verifier": False,
    "min_vote_share": 0.5,
    "min_accepted": 1,
    "max_per_prompt": 4,
}


def main() -> None:
    """Select from `rows`, and from a tenth of them before and after, and record time, memory and
    how time grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--child", type=Path, help="internal: select in this folder, which holds shards"
    )
    given = parser.parse_args()
    if given.child:
        print(json.dumps(_selected(given.child)))
        return
    before, large, after = (
        _measured(rows, given.seed)
        for rows in (given.rows // 10, given.rows, given.rows // 10)
    )
    small = (before["seconds"] + after["seconds"]) / 2
    command, note = (
        f"python -m tests.benchmarks.selection --seed {given.seed}",
        f"{large['cpu_seconds']:.0f} s of CPU",
    )
    figures = {
        "select.million_rows_seconds": (large["seconds"], "s", "≤ 600"),
        "select.million_rows_gib": (large["gib"], "GiB", "≤ 2"),
        "select.scaling_10x": (large["seconds"] / small, "ratio", "≤ 11"),
    }
    for name, (value, unit, bound) in figures.items():
        print(f"{name} = {value:.4g} {unit} (bound {bound})")
        if given.rows == 1_000_000:
            record(name, value, unit, bound, command, given.seed, note)


def _measured(rows: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="selection-") as name:
        _write(Path(name), rows, seed)
        child = [sys.executable, "-m", "tests.benchmarks.selection", "--child", name]
        measured: dict[str, Any] = json.loads(
            subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout
        )
    print(f"{rows:,} samples: {measured}", flush=True)
    return measured


def _selected(folder: Path) -> dict[str, Any]:
    """Time and peak memory of the step alone, in this process."""
    context = _context(folder)
    about = json.loads((folder / "about.json").read_text())
    shards = tuple(read_receipt(context, ref) for ref in about["shards"])
    begun, begun_cpu = time.monotonic(), time.process_time()
    receipt = run(SelectInputs(about["state"], shards), context)
    seconds = time.monotonic() - begun
    # Not ru_maxrss: that of a started process begins at its parent's.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - begun_cpu,
        "gib": peak,
        "accepted": read_summary(receipt, SelectSummary).accepted,
        "dropped": read_summary(receipt, SelectSummary).dropped,
    }


def _context(folder: Path) -> Context:
    return make_context(
        (folder / "store").as_uri(), {"RATCHET_CACHE": str(folder / "cache")}
    )


def _write(folder: Path, rows: int, seed: int) -> None:
    """Shards as generate stores them, and a campaign that stands before its first round."""
    context = _context(folder)
    labelled = [
        TrainingRow(
            id=f"labelled-{n}",
            prompt=f"Question {n} of the people",
            completion=f"#### {n}",
            source="labelled",
            round=0,
        )
        for n in range(NUM_LABELLED)
    ]
    start = prepare(context, recipe_of(select=SELECT), train=labelled)
    num_prompts = rows // SAMPLES_PER_PROMPT
    shards = [
        _shard(context, range(number, num_prompts, SHARDS), number, seed).ref
        for number in range(SHARDS)
    ]
    (folder / "about.json").write_text(
        json.dumps({"state": decided(context, start), "shards": shards})
    )


def _shard(context: Context, numbers: range, shard: int, seed: int) -> Receipt:
    def work(folder: Path) -> GenerateSummary:
        draw = random.Random(f"{seed} {shard}")
        words = _words(seed)
        prompts = [_prompt(draw, words, number) for number in numbers]
        _parquet(folder / "prompts.parquet", (_flat(prompt) for prompt in prompts))
        _parquet(
            folder / "samples.parquet",
            (
                sample.model_dump()
                for prompt in prompts
                for sample in _samples(draw, words, prompt)
            ),
        )
        return generate_summary(
            shard=shard,
            shards=SHARDS,
            prompts=len(prompts),
            generated=SAMPLES_PER_PROMPT * len(prompts),
        )

    task = Task(run_id="crafted-run", name=f"generate-r1-s{shard}", round=1)
    config = {"shard": shard, "prompts": len(numbers), "seed": seed}
    return commit_once(
        context, task, "generate", config=config, inputs={}, seed=seed, work=work
    )


def _words(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        "".join(draw.choices("aeioulnrstdm", k=draw.randint(3, 9)))
        for _ in range(20_000)
    ]


def _text(draw: random.Random, words: list[str], count: int) -> str:
    """Words as frequent as in a language."""
    return " ".join(words[int(len(words) * draw.random() ** 3)] for _ in range(count))


def _prompt(draw: random.Random, words: list[str], number: int) -> Prompt:
    text = f"{_text(draw, words, 12)} {number}?"
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier="numeric",
        tags={"task": f"task-{number % 4}"},
    )


def _samples(draw: random.Random, words: list[str], prompt: Prompt) -> Iterator[Sample]:
    """About 200 characters each; most agree, some repeat another word for word or but for one word."""
    answer, texts = draw.randrange(1000), list[str]()
    for index in range(SAMPLES_PER_PROMPT):
        kind, final = (
            draw.random(),
            answer if draw.random() < 0.7 else draw.randrange(1000),
        )
        text = f"{_text(draw, words, 27)}\n#### {final}"
        if texts and kind < 0.1:
            text = draw.choice(texts)
        elif texts and kind < 0.2:
            text = draw.choice(texts).replace(" ", f" {draw.choice(words)} ", 1)
        texts.append(text)
        yield Sample(
            prompt_id=prompt.id,
            index=index,
            seed=index,
            text=text,
            num_tokens=len(text) // 4,
            finished=True,
        )


def _flat(prompt: Prompt) -> dict[str, Any]:
    row = prompt.model_dump()
    return {
        **row,
        "reference": json.dumps(row["reference"]),
        "tags": json.dumps(row["tags"]),
    }


def _parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


if __name__ == "__main__":
    main()
