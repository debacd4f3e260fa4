"""Fine-tune a candidate on this round's mix with DeepSpeed ZeRO."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.common.context import Context
from components.common.errors import RatchetError, Transient, UserError
from components.common.receipts import Receipt, commit_once, fetch, fetch_folder, read_receipt
from components.common.recipe import TrainSection
from components.common.records import derived_seed
from components.common.state import Campaign, base_name, checkpoint_name, load_campaign


@dataclass(frozen=True)
class TrainInputs:
    """What is trained on."""

    state: str
    """URI of the state the round begins from."""
    mix: Receipt
    """Receipt of select; in round 0 the start receipt, which stands for the human train split."""


class Job(BaseModel):
    """Everything one training process needs, as a file: the same for every rank and launcher."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: str
    init: Path
    """Folder of the checkpoint to start from."""
    mix: Path
    heldout: Path
    output: Path
    """Folder that gets `model/`, `log.jsonl` and `summary.json`."""
    system_prompt: str
    section: TrainSection
    learning_rate: float
    weight_decay: float
    steps: int
    seed: int
    threads: int


def run(inputs: TrainInputs, context: Context) -> Receipt:
    """Write the candidate (`model/`) and its `log.jsonl`.

    Starts from the base checkpoint in round 0 or where the recipe says so, else from the champion; the optimizer is
    fresh each round. Raises UserError for rows longer than the context or a mix without loss-bearing tokens.
    """
    campaign = load_campaign(context, inputs.state)
    recipe, plan = campaign.recipe, campaign.state.plan
    from_base = campaign.next_round == 0 or recipe.train.init_from == "base"
    init = campaign.prepared if from_base else read_receipt(context, campaign.state.champion)
    mix = campaign.prepared if inputs.mix.step == "start" else inputs.mix

    def work(folder: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="train-", dir=context.scratch) as scratch:
            jobs = [_job(context, campaign, mix, init, peer, Path(scratch)) for peer in range(recipe.train.num_peers)]
            measured = _carry_out(context, jobs)
            for peer, job in enumerate(jobs):
                (job.output / "model").rename(folder / checkpoint_name(peer))
            (jobs[0].output / "log.jsonl").rename(folder / "log.jsonl")
        return {"round": campaign.next_round, "init_from": "base" if from_base else "champion", **measured}

    return commit_once(
        context,
        campaign.task("train"),
        "train",
        config=campaign.config(
            section=recipe.train.model_dump(mode="json", exclude={"first", "rounds", "weight_decay"}),  # in the plan
            round=campaign.next_round,
            learning_rate=plan.learning_rate,
            steps=plan.steps,
            weight_decay=plan.weight_decay,
            system_prompt=recipe.model.system_prompt,
        ),
        inputs={"mix": mix, "init": init, "prepare": campaign.prepared},
        seed=recipe.seed,
        work=work,
    )


def _job(context: Context, campaign: Campaign, mix: Receipt, init: Receipt, peer: int, scratch: Path) -> Job:
    recipe, plan = campaign.recipe, campaign.state.plan
    output = scratch / checkpoint_name(peer)
    output.mkdir()
    side_by_side = min(recipe.train.num_peers, context.threads) * recipe.train.num_processes
    return Job(
        task=campaign.task("train").name,
        init=fetch_folder(context, init, base_name(init, peer) if init.step == "prepare" else checkpoint_name(peer)),
        mix=fetch(context, mix, "splits/train.jsonl" if mix.step == "prepare" else "mix.jsonl"),
        heldout=fetch(context, campaign.prepared, "splits/heldout.jsonl"),
        output=output,
        system_prompt=recipe.model.system_prompt,
        section=recipe.train,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        steps=plan.steps,
        seed=derived_seed(recipe.seed, "train", campaign.next_round, peer) % 2**31,
        threads=max(1, context.threads // side_by_side),
    )


def _carry_out(context: Context, jobs: list[Job]) -> dict[str, Any]:
    """Train one job in this process, or several processes side by side, and return the summary of the first."""
    if len(jobs) == 1 and jobs[0].section.num_processes == 1:
        from components.train.worker import train

        train(jobs[0], context.progress)
    else:
        with ThreadPoolExecutor(min(len(jobs), context.threads)) as pool:
            list(pool.map(lambda job: _launch(context, job), jobs))
    measured = [json.loads((job.output / "measured.json").read_text()) for job in jobs]
    context.charge("compute_seconds", max(one["costs"]["compute_seconds"] for one in measured))
    context.charge("startup_seconds", max(one["costs"]["startup_seconds"] for one in measured))
    tokens = sum(one["summary"]["tokens_trained"] for one in measured)
    context.charge("tokens_trained", tokens)
    return {**measured[0]["summary"], "tokens_trained": tokens}


def _launch(context: Context, job: Job) -> None:
    """One training process, or `num_processes` of them by torchrun."""
    spec = job.output / "job.json"
    spec.write_text(job.model_dump_json(), encoding="utf-8")
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nnodes=1",
        f"--nproc_per_node={job.section.num_processes}",
    ]
    command = [
        sys.executable,
        *(torchrun if job.section.num_processes > 1 else []),
        "-m",
        "components.train.worker",
        str(spec),
    ]
    # One thread pool a process: without this the pools of two ranks spin against each other, ten times slower.
    environment = {**context.environment, "OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    status = subprocess.run(command, env=environment, check=False).returncode
    failure = job.output / "failure.json"
    if failure.exists():
        said = json.loads(failure.read_text())
        kinds = {kind.__name__: kind for kind in (UserError, Transient)}
        raise kinds.get(said["kind"], RatchetError)(said["message"])
    if status:
        raise RatchetError(
            f"{job.task}: training ended with status {status}; the log above names the process that failed"
        )
