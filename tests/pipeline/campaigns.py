"""Small real campaigns through the real command line, each in a folder of its own.

The task is to say the last digit of three. A decoder of 32 dimensions learns it from a few dozen
steps, better with every round, so rounds are really promoted. Runs on a CPU are deterministic.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.cli.local.task_server import HANDED_ON, TaskServer
from components.runtime.context import Context, make_context
from components.storage.keys import split_receipt_uri

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline.py"
SPLITS = {"train": 300, "dev": 10, "unlabelled": 300, "validation": 100, "test": 30}
PAYLOAD_STEPS = (
    "prepare",
    "start",
    "mix",
    "champion",
    "generate",
    "select",
    "train",
    "evaluate",
    "decide",
    "publish",
)


def write_data(folder: Path) -> None:
    """One JSON Lines file per split, without a prompt in common."""
    numbers = list(range(1000))
    random.Random(1).shuffle(numbers)
    for split, count in SPLITS.items():
        own, numbers = numbers[:count], numbers[count:]
        rows = (
            json.dumps({"prompt": f"{number:03d}=", "completion": str(number % 10)})
            for number in own
        )
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def recipe(data: Path) -> dict[str, Any]:
    """A recipe whose rounds get better by about a tenth each."""
    return {
        "name": "last-digit",
        "seed": 3,
        "model": {
            "scratch": {
                "architecture": "llama",
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 64,
                "max_length": 16,
            }
        },
        "data": {
            "sources": [
                {"uri": (data / f"{split}.jsonl").as_uri(), "split": split}
                for split in SPLITS
            ]
        },
        "generate": {
            "prompts_per_round": 100,
            "samples_per_prompt": 1,
            "temperature": 0.0,
            "max_new_tokens": 3,
            "batch_size": 128,
            "shards": 2,
        },
        "select": {
            "minhash_threshold": 1.0,
            "min_accepted": 1,
            "max_length_ratio": 10.0,
            "labelled_share": 0.4,
        },
        "train": {
            "first": {"steps": 24, "learning_rate": 0.005},
            "rounds": {"steps": 14, "learning_rate": 0.003},
            "batch_size": 16,
            "micro_batch_size": 16,
            "max_length": 16,
            "zero": 0,
            "evaluate_every": 100,
        },
        "decide": {
            "goal": {"threshold": 1.0},
            "max_rounds": 2,
            "patience": 4,
            "alpha": 0.8,
            "max_perplexity_ratio": 1000.0,
        },
        "publish": {"name": "last-digit"},
    }


@dataclass(frozen=True)
class Run:
    """How one call of `pipeline.py run --json` ended."""

    code: int
    told: dict[str, Any]
    """The JSON document; empty if there was none."""
    said: str
    """Standard error."""

    @property
    def executed(self) -> list[str]:
        """Tasks in the order they were started, shards repeated."""
        return list(self.told["executed"])

    @property
    def errors(self) -> list[str]:
        """The lines of standard error that say what is wrong."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    @property
    def verdicts(self) -> list[str]:
        """Of each round, from round 0."""
        return [one["verdict"] for one in self.told["rounds"]]

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy of each round's candidate."""
        return [one["score"] for one in self.told["rounds"]]

    @property
    def task_status(self) -> dict[str, str]:
        """Name of each task in the run's records → done, reused, failed."""
        return {one["task"]: one["status"] for one in self.told["tasks"]}


@dataclass(frozen=True)
class Place:
    """A working folder with a store and a recipe."""

    folder: Path
    document: dict[str, Any]
    store_uri: str = ""
    extra: Mapping[str, str] | None = None
    """Environment variables besides those of the tests."""
    python: str = sys.executable
    server: TaskServer | None = None
    """Starts the tasks of `run`; without one each campaign has a server of its own."""

    @property
    def store(self) -> Path:
        """The folder of a file store."""
        return self.folder / "store"

    @property
    def uri(self) -> str:
        """The store's URI."""
        return self.store_uri or self.store.as_uri()

    def command(self, verb: str, *arguments: str) -> list[str]:
        """`python pipeline.py VERB … --store …`; `run` gets the recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.yaml").write_text(
            yaml.safe_dump(self.document), encoding="utf-8"
        )
        named = ("recipe.yaml",) if verb == "run" else ()
        return [
            self.python,
            str(PIPELINE),
            verb,
            *named,
            *arguments,
            "--store",
            self.uri,
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The tests' own, without what would steer a run."""
        steering = ("RATCHET_", "AWS_", "FORCE_COLOR")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(steering)
        }
        return {**kept, "NO_COLOR": "1", "TERM": "dumb", **(self.extra or {})}

    def cli(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call the command line and wait for it."""
        command = self.command(verb, *arguments)
        return call(command, self.folder, self.environment, 400.0, self.server)

    def run(self, *arguments: str) -> Run:
        """Carry the campaign out."""
        done = self.cli("run", "--json", *arguments)
        return Run(
            done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr
        )

    @property
    def context(self) -> Context:
        """Surroundings that read the store."""
        return make_context(
            self.uri, {**self.environment, "RATCHET_CACHE": f"{self.folder}/cache"}
        )

    def receipts(self) -> dict[str, bytes]:
        """`step/key` → stored bytes, of all steps of a file store."""
        found = (
            path
            for step in PAYLOAD_STEPS
            for path in (self.store / "steps" / step).glob("*.json")
        )
        return {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in found}


def call(
    command: list[str],
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
    server: TaskServer | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait; one that takes too long is asked to end, so that it ends its
    own processes. A `server` starts the tasks of a campaign."""
    handed_on: dict[str, str] = {}
    descriptors: tuple[int, ...] = ()
    if server is not None:
        handed_on[HANDED_ON], descriptors = server.handed_on
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, **handed_on},
        pass_fds=descriptors,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, said = process.communicate(timeout=seconds)
    finally:
        process.terminate()
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def state_object(run: Run, receipts: Mapping[str, bytes]) -> str:
    """SHA-256 of the last state: all that a campaign has come to."""
    _, step, key = split_receipt_uri(run.told["state"])
    assert step == "decide"
    return str(json.loads(receipts[f"{step}/{key}"])["objects"]["state.json"]["sha256"])


def round_tasks(number: int, shards: int = 2) -> list[str]:
    """The tasks of a round that is carried out, in order."""
    begin = [f"generate-r{number}"] * shards + [f"select-r{number}"] if number else []
    return [*begin, f"train-r{number}", f"evaluate-r{number}", f"decide-r{number}"]


ROUND_0 = ["prepare", "evaluate-base", "first-champion", *round_tasks(0)]
END = ["publish", "report"]
"""The tasks of every run before its rounds, and after them."""


def assert_published(place: Place, run: Run, champion_round: int) -> None:
    """The champion lies under a prefix that names its round, as a server of models wants it."""
    assert run.told["published"]
    assert run.told["champion_round"] == champion_round
    assert re.fullmatch(
        rf"models/last-digit/r{champion_round}-[0-9a-f]{{12}}/", run.told["model"]
    )
    files = {path.name for path in (place.store / run.told["model"]).iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "metrics.json",
    } <= files
