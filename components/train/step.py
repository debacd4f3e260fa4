"""Fine-tune a candidate on this round's mix with DeepSpeed ZeRO, on this node or on many."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from components.canonical import derived_seed
from components.contracts import artifacts
from components.contracts.recipe import HOW_TO_TRAIN, Augmentation
from components.contracts.recipe.train import Stage as RecipeStage
from components.contracts.summaries import SelectSummary, TrainSummary
from components.errors import Transient, UserError
from components.runtime.attempts import attempting
from components.runtime.campaign import (
    Campaign,
    checkpoint_in,
    checkpoint_name,
    load_campaign,
)
from components.runtime.code_digest import code_digest
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    digests_of,
    fetch,
    fetch_folder,
    find_receipt,
    read_receipt,
    read_summary,
    receipt_uri,
    rely_on,
    step_key,
)
from components.storage import keys
from components.train.launch.local_processes import carry_out
from components.train.process.job import Job, Measured, Stage

# Process 0 still gathers and exports the model, answers a few dev prompts and uploads it all.
COMMIT_SECONDS = 1800.0
"""Longest time that the other processes wait for the receipt of process 0."""
COMPARING = ("dpo", "rpo", "kto")
"""Values of `train.method` that compare answers with a reference model."""
FROZEN = "frozen"
"""Key of a training's config where its adapters stand beside the champion: absent where they stand
beside the base, so that such a training keeps its address."""
POLL_SECONDS = 0.5
"""Between two looks for that receipt."""


@dataclass(frozen=True)
class TrainInputs:
    """Inputs of the step."""

    state: str
    """URI of the state the round begins from."""
    mix: Receipt
    """Receipt of the round's mix: of select, or the first mix of prepare."""


@dataclass(frozen=True)
class Work:
    """A training to be done, and its address."""

    campaign: Campaign
    mix: Receipt
    init: Receipt
    config: dict[str, JsonValue]
    stages: tuple[Stage, ...]
    freezes_champion: bool = False
    """Fresh adapters are trained beside the champion. It was trained in full, or adapted after that,
    so it is not the base and one adapter."""

    @property
    def inputs(self) -> dict[str, Receipt]:
        """Receipts the result depends on."""
        return {"mix": self.mix, "init": self.init, "prepare": self.campaign.prepared}

    @property
    def key(self) -> str:
        """The step key."""
        return step_key(
            "train",
            code_digest("train"),
            self.config,
            digests_of(self.inputs),
            self.campaign.recipe.seed,
        )


def run(inputs: TrainInputs, context: Context) -> Receipt:
    """Write the candidate (`model/`, with LoRA also `adapter/`) and its `log.jsonl`.

    A weak round has no mix to train on: the champion's receipt is returned, and nothing is spent.
    Starts from the champion, or from the base checkpoint where the recipe says so;
    the optimizer is fresh each round. A training that was killed goes on from its last checkpoint
    in the store. Under torchrun every process calls this; process 0 commits.

    Raises:
        UserError: a row is longer than the context, no token of the mix bears loss, or the model
            does not fit into memory.
        Transient: SIGTERM came. A checkpoint is saved, from which the same call goes on.
    """
    if read_summary(inputs.mix, SelectSummary).why_weak is not None:
        return _champion_instead(inputs, context)
    work = _work(inputs, context)
    # torchrun sets RANK: on the nodes of a TrainJob, or by hand.
    if "RANK" in context.environment:
        receipt = _as_one_of_many(work, context)
    elif work.campaign.recipe.train.num_nodes > 1:
        receipt = _on_many_nodes(work, inputs, context)
    else:
        receipt = _commit(work, context, carry_out)
    if context.environment.get("RANK", "0") == "0":
        _remove_progress(work, context)
    return receipt


def _champion_instead(inputs: TrainInputs, context: Context) -> Receipt:
    """Return the champion's receipt, and record that the task is done."""
    campaign = load_campaign(context, inputs.state)
    with attempting(context, campaign.task("train"), "train") as attempt:
        champion = read_receipt(context, campaign.champion_ref)
        attempt.reused = True
        attempt.receipt = champion.ref
    return champion


def _remove_progress(work: Work, context: Context) -> None:
    """Delete the checkpoints of a training that is finished."""
    for peer in range(work.campaign.recipe.train.num_peers):
        prefix = keys.progress_prefix("train", peer_key(work.key, peer))
        # A list first: a store is not listed and changed at once.
        for address in list(context.store.list(prefix)):
            context.store.delete(address)


def peer_key(key: str, peer: int) -> str:
    """Return the key under which a peer keeps its checkpoints."""
    return key if peer == 0 else f"{key}-{peer}"


def _work(inputs: TrainInputs, context: Context) -> Work:
    campaign = load_campaign(context, inputs.state)
    recipe = campaign.recipe
    plan = campaign.state.plan
    section = recipe.train
    # The champion is the base until a candidate is proved better than it.
    base_is_champion = campaign.state.champion in (None, campaign.prepared.ref)
    from_base = section.init_from == "base" or base_is_champion
    init = (
        campaign.prepared if from_base else read_receipt(context, campaign.champion_ref)
    )
    freezes_champion = (
        plan.lora is not None and not from_base and not _is_base_adapted(init)
    )
    stages = _stages(campaign)
    config = campaign.config(
        # Lengths, learning rates, weight decay and the adapter's structure are in the plan.
        section=section.model_dump(
            mode="json",
            exclude={
                "pretrain",
                "first",
                "rounds",
                "weight_decay",
                "lora",
                "layers",
                *HOW_TO_TRAIN,
            },
        ),
        stages=[_stage_config(stage) for stage in stages],
        round=campaign.next_round,
        weight_decay=plan.weight_decay,
        lora=plan.lora,
        system_prompt=recipe.model.system_prompt,
        max_new_tokens=recipe.generate.max_new_tokens,
    )
    # Absent where nothing is set, so that such a training keeps its address.
    if plan.layers is not None:
        config |= campaign.config(layers=plan.layers)
    if freezes_champion:
        config[FROZEN] = "champion"
    return Work(campaign, inputs.mix, init, config, stages, freezes_champion)


def _is_base_adapted(champion: Receipt) -> bool:
    """Return True if a champion is the campaign's base and an adapter beside it."""
    has_adapter = any(name.startswith("adapter/") for name in champion.objects)
    return has_adapter and FROZEN not in champion.config


def _stages(campaign: Campaign) -> tuple[Stage, ...]:
    section = campaign.recipe.train
    plan = campaign.state.plan
    is_round = plan.training == "improvement"
    planned = Stage(
        name="sft",
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        augmentation=_noise(section.rounds if is_round else section.first),
    )
    # Pretraining is for the first model; every later training goes on from one that had it.
    if is_round or section.pretrain is None:
        return (planned,)
    pretrain = Stage(
        name="pretrain",
        steps=section.pretrain.steps,
        learning_rate=section.pretrain.learning_rate,
        augmentation=_noise(section.pretrain),
    )
    return (pretrain, planned) if section.first.steps else (pretrain,)


def _stage_config(stage: Stage) -> JsonValue:
    # The bound is reflection's: it changes nothing about this training.
    not_trained_by = {"augmentation": {"max_word_dropout"}}
    return stage.model_dump(mode="json", exclude_none=True, exclude=not_trained_by)


def _noise(stage: RecipeStage) -> Augmentation | None:
    """Return a stage's augmentation; None where all of it is 0, which is the same work."""
    augmentation = stage.augmentation
    return augmentation if augmentation is not None and augmentation.is_on else None


def _commit(
    work: Work, context: Context, train: Callable[[Context, list[Job]], None]
) -> Receipt:
    """Let `train` carry out the jobs (one a peer), and commit the files they leave."""

    def in_folder(folder: Path) -> TrainSummary:
        with tempfile.TemporaryDirectory(
            prefix="train-", dir=context.scratch
        ) as scratch:
            jobs = [
                _job(context, work, peer, Path(scratch))
                for peer in range(work.campaign.recipe.train.num_peers)
            ]
            train(context, jobs)
            return _collect(work, context, jobs, folder)

    return commit_once(
        context,
        work.campaign.task("train"),
        "train",
        config=work.config,
        inputs=work.inputs,
        seed=work.campaign.recipe.seed,
        work=in_folder,
    )


def _collect(
    work: Work, context: Context, jobs: list[Job], folder: Path
) -> TrainSummary:
    """Move what the jobs made into the receipt's folder and return the summary of the first."""
    for peer, job in enumerate(jobs):
        (job.output / "model").rename(folder / checkpoint_name(peer))
        if job.lora is not None:
            (job.output / "adapter").rename(folder / adapter_name(peer))
    (jobs[0].output / artifacts.LOG).rename(folder / artifacts.LOG)
    measured = [
        Measured.model_validate_json((job.output / "measured.json").read_bytes())
        for job in jobs
    ]
    # Peers train side by side: the slowest is what the step took.
    compute_seconds = max(
        peer_measured.costs.compute_seconds for peer_measured in measured
    )
    startup_seconds = max(
        peer_measured.costs.startup_seconds for peer_measured in measured
    )
    tokens = sum(peer_measured.summary.tokens_trained for peer_measured in measured)
    context.charge("compute_seconds", compute_seconds)
    context.charge("startup_seconds", startup_seconds)
    context.charge("tokens_trained", tokens)
    outcome = measured[0].summary.model_copy(update={"tokens_trained": tokens})
    return TrainSummary(
        round=work.campaign.next_round,
        init_from="base" if work.init is work.campaign.prepared else "champion",
        **dict(outcome),
    )


def adapter_name(peer: int) -> str:
    """Return the folder of a peer's adapter in a train receipt."""
    return "adapter" if peer == 0 else f"adapter-{peer}"


def _job(context: Context, work: Work, peer: int, scratch: Path) -> Job:
    # What is fetched goes with the job's folder, whatever becomes of the training.
    context = replace(context, scratch=scratch)
    campaign = work.campaign
    section = campaign.recipe.train
    output = scratch / checkpoint_name(peer)
    output.mkdir()
    num_processes = min(section.num_peers, context.threads) * section.num_processes
    lora = campaign.state.plan.lora
    from_base = work.init is campaign.prepared
    needs_base = bool(section.kl_beta or section.interpolate)
    reference_receipt = _reference(context, work)
    base = None
    # With LoRA every round begins from the frozen base, and the champion gives its adapter alone;
    # but where the base and an adapter are not all that the champion is.
    beside_base = lora is not None and not work.freezes_champion
    if from_base or needs_base or beside_base or reference_receipt is campaign.prepared:
        base = fetch_folder(
            context, campaign.prepared, checkpoint_in(campaign.prepared, peer)
        )
    init = base if from_base or beside_base else None
    adapter = None
    if beside_base and not from_base:
        adapter = fetch_folder(context, work.init, adapter_name(peer))
    reference = None
    if reference_receipt is campaign.prepared:
        reference = base
    elif reference_receipt is not None:
        reference = fetch_folder(
            context, reference_receipt, checkpoint_in(reference_receipt, peer)
        )
    return Job(
        task=campaign.task("train").name,
        run_id=campaign.state.run_id,
        key=peer_key(work.key, peer),
        store=context.store.root,
        init=init or fetch_folder(context, work.init, checkpoint_in(work.init, peer)),
        adapter=adapter,
        base=base if needs_base else None,
        reference=reference,
        mix=fetch(context, work.mix, artifacts.MIX),
        wrong=(
            fetch(context, work.mix, artifacts.WRONG)
            if artifacts.WRONG in work.mix.objects
            else None
        ),
        dev=fetch(context, campaign.prepared, artifacts.split_file("dev")),
        output=output,
        system_prompt=campaign.recipe.model.system_prompt,
        section=section,
        stages=work.stages,
        weight_decay=campaign.state.plan.weight_decay,
        lora=lora,
        layers=campaign.state.plan.layers,
        base_layers=_base_layers(context, campaign, peer),
        max_new_tokens=campaign.recipe.generate.max_new_tokens,
        seed=derived_seed(campaign.recipe.seed, "train", campaign.next_round, peer)
        % 2**31,
        # Threads beyond the free cores have made a training 30 times slower. Below a million
        # parameters even a second core adds nothing.
        threads=max(1, context.threads // num_processes),
    )


def _base_layers(context: Context, campaign: Campaign, peer: int) -> int | None:
    """Return the decoder layers of the base model; None where no depth is planned."""
    if campaign.state.plan.layers is None:
        return None
    from components.modeling.blocks import depth_of

    folder = checkpoint_in(campaign.prepared, peer)
    path = fetch(context, campaign.prepared, f"{folder}/{artifacts.CHECKPOINT_CONFIG}")
    return depth_of(path)


def _reference(context: Context, work: Work) -> Receipt | None:
    """Return the receipt of the model that answers are compared with.

    None where the training starts from that model, or compares with none.
    """
    campaign = work.campaign
    section = campaign.recipe.train
    wanted = section.preference.reference
    if wanted is None or section.method not in COMPARING:
        return None
    if wanted == "base":
        return None if work.init is campaign.prepared else campaign.prepared
    # Before it is measured, the base is the champion.
    champion = campaign.state.champion or campaign.prepared.ref
    return None if champion == work.init.ref else read_receipt(context, champion)


def _as_one_of_many(work: Work, context: Context) -> Receipt:
    """Train as one rank of the processes that torchrun started, on one node or many.

    Process 0 commits; the others wait for its receipt.
    """
    existing_receipt = find_receipt(context, "train", work.key)
    if existing_receipt is not None:
        return existing_receipt
    from components.train.process.worker import train

    rank = int(context.environment["RANK"])
    if rank == 0:
        return _commit(
            work, context, lambda step_context, jobs: train(jobs[0], step_context)
        )
    context.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train-", dir=context.scratch) as scratch:
        train(_job(context, work, 0, Path(scratch)), context)
    deadline = context.clock() + COMMIT_SECONDS
    while True:
        receipt = find_receipt(context, "train", work.key)
        if receipt is not None:
            return receipt
        if context.clock() > deadline:
            raise Transient(
                f"process {rank}: process 0 committed no receipt within {COMMIT_SECONDS:.0f} "
                "seconds"
            )
        time.sleep(POLL_SECONDS)


def _on_many_nodes(work: Work, inputs: TrainInputs, context: Context) -> Receipt:
    """Have a Kubeflow TrainJob train, and read its result from the store."""
    from components.train.launch.cluster_api import Cluster
    from components.train.launch.launcher import follow_train_job
    from components.train.launch.pods import secret_values
    from components.train.launch.trainjob import spec_from

    # Nodes share no folder: checkpoints, rows and the receipt go through the store.
    if context.store.root.startswith("file://"):
        raise UserError(
            "train.num_nodes > 1 needs a store that all nodes reach: use s3://bucket/prefix"
        )
    task = work.campaign.task("train")
    section = work.campaign.recipe.train
    # The pods of the TrainJob run this step too, and commit the receipt that is read here.
    with attempting(context, task, "train") as attempt:
        receipt = find_receipt(context, "train", work.key)
        attempt.reused = receipt is not None
        if receipt is not None:
            rely_on(context, attempt, receipt)
        else:
            spec = spec_from(
                context.environment,
                step_key=work.key,
                run_id=task.run_id,
                task=task.name,
                state_uri=inputs.state,
                mix_uri=receipt_uri(context, inputs.mix),
                num_nodes=section.num_nodes,
                num_processes_per_node=section.num_processes,
            )
            follow_train_job(
                spec,
                Cluster.from_environment(context.environment),
                context.progress,
                secrets=secret_values(context.environment),
                has_receipt=lambda: (
                    find_receipt(context, "train", work.key) is not None
                ),
            )
            receipt = find_receipt(context, "train", work.key)
        if receipt is None:
            raise Transient(
                f"{task.name}: the TrainJob is complete and its receipt is not in the store; start "
                "it again"
            )
        attempt.receipt = receipt.ref
    return receipt
