"""A champion that was trained in full gets adapters: it computes what it did until they are trained."""

from __future__ import annotations

import os
import re
import shutil
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.canonical import canonical_json
from components.contracts.recipe import LoraStructure
from components.contracts.summaries import TrainSummary
from components.decide.reflection.changes import changed_setting
from components.modeling.load import load_model
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.entrypoints import mix_of
from components.runtime.receipts import (
    Receipt,
    fetch_folder,
    find_receipt,
    read_summary,
    receipt_uri,
)
from components.storage.store import open_store
from components.train.process.adapters import attach, read_adapter
from components.train.process.job import Job
from components.train.step import FROZEN, TrainInputs, _job, _work
from tests.conftest import context_in
from tests.unit import forked
from tests.unit.crafted import Plain, store
from tests.unit.preparing import changed, prepare
from tests.unit.trainings import ENVIRONMENT, PATIENCE_SECONDS

pytestmark = pytest.mark.process
SECTION: dict[str, Any] = {
    "first": {"steps": 3, "learning_rate": 0.01},
    "rounds": {"steps": 3, "learning_rate": 0.01},
    "batch_size": 8,
    "evaluate_every": 3,
    "precision": "fp32",
}
LORA = {"rank": 2, "max_rank": 8, "targets": ["q_proj", "v_proj"]}
ADAPTED = {**SECTION, "lora": LORA}
RECEIPT = re.compile(r"/step-\d+-\w+\.json$")


def begin(context: Context, inputs: TrainInputs) -> ForkServerProcess:
    """Start the step as a pod does. A process can start DeepSpeed only once."""
    mix = receipt_uri(context, inputs.mix)
    # All that it has but the store is its own: it shares no cache and no scratch space.
    own = {"RATCHET_CACHE": str(context.scratch.parent / "cache-of-steps")}
    said = context.scratch.parent / "said.txt"
    said.parent.mkdir(parents=True, exist_ok=True)
    return forked.start(
        "components.train.__main__",
        ["--state", inputs.state, "--mix", mix],
        {**os.environ, **ENVIRONMENT, **own},
        stdout=said,
        stderr=said,
    )


def said_in(context: Context) -> str:
    return (context.scratch.parent / "said.txt").read_text(errors="replace")


def train(context: Context, inputs: TrainInputs) -> Receipt:
    """The receipt of a training that is carried out to its end."""
    process = begin(context, inputs)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0, said_in(context)[-3000:]
    receipt = find_receipt(context, "train", _work(inputs, context).key)
    assert receipt is not None
    return receipt


def state_after(context: Context, uri: str, champion: Receipt, **plan: Any) -> str:
    """URI of the state in which a candidate is the champion, and this is the plan."""
    campaign = load_campaign(context, uri)
    settings = {"training": "improvement", "steps": 3, **plan}
    changes = {
        "start": campaign.start.ref,
        "champion": champion.ref,
        "champion_round": campaign.next_round,
        "round": campaign.next_round,
        "plan": campaign.state.plan.model_copy(update=settings),
    }
    state = campaign.state.model_copy(update=changes)
    files = {"state.json": canonical_json(state.model_dump(mode="json"))}
    return receipt_uri(context, store(context, "decide", files, Plain({})))


def with_full_champion(
    context: Context, **section: Any
) -> tuple[str, Receipt, Receipt]:
    """A campaign whose champion was trained in full, gone on with under `section`.

    Returns:
        URI of its state, the mix of its trainings, and the champion.
    """
    start = prepare(context, changed(train=SECTION))
    uri = receipt_uri(context, start)
    mix = mix_of(context, start)
    champion = train(context, TrainInputs(uri, mix))
    decided = state_after(context, uri, champion)
    resumed = prepare(
        context, changed(train={**ADAPTED, **section}), resume_from=decided
    )
    return receipt_uri(context, resumed), mix, champion


def job_of(context: Context, inputs: TrainInputs, scratch: Path) -> Job:
    """The job by which the step starts its training."""
    scratch.mkdir(parents=True)
    return _job(context, _work(inputs, context), 0, scratch)


def logits_of(model: nn.Module) -> Tensor:
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        logits: Tensor = model.eval()(ids).logits
    return logits


def model_of(context: Context, receipt: Receipt) -> Any:
    """The model of a receipt, as every later step loads it."""
    return load_model(fetch_folder(context, receipt, "model"))


def started(job: Job) -> Tensor:
    """Logits of the model that a job trains, before its first step."""
    assert job.lora is not None
    return logits_of(attach(load_model(job.init), job.lora, job.adapter))


def test_adapters_are_added_to_a_champion_that_was_trained_in_full(
    context: Context, tmp_path: Path
) -> None:
    uri, mix, champion = with_full_champion(context)
    for number in range(2):
        inputs = TrainInputs(uri, mix)
        champion_model = model_of(context, champion)
        champion_logits = logits_of(champion_model)
        job = job_of(context, inputs, tmp_path / f"job-{number}")
        assert torch.equal(started(job), champion_logits), (
            "nothing is computed otherwise"
        )
        candidate = train(context, inputs)
        assert candidate.config[FROZEN] == "champion"
        assert read_summary(candidate, TrainSummary).init_from == "champion"
        parts, _ = read_adapter(fetch_folder(context, candidate, "adapter"))
        assert parts.structure == job.lora
        merged = model_of(context, candidate)
        assert not torch.equal(logits_of(merged), champion_logits), (
            "and they are trained"
        )
        weights = champion_model.state_dict()
        trained = {
            name
            for name, weight in merged.state_dict().items()
            if not weight.equal(weights[name])
        }
        assert trained
        assert all("q_proj" in name or "v_proj" in name for name in trained)
        # The next round goes on from what these adapters made, which is no longer the base.
        champion = candidate
        uri = state_after(context, uri, champion)


@pytest.mark.parametrize("change", ["structure_up", "structure_down"])
def test_reflection_changes_added_adapters_and_the_champion_computes_what_it_did(
    context: Context, tmp_path: Path, change: Any
) -> None:
    """They begin at zero in each round: even a smaller rank takes nothing away."""
    uri, mix, champion = with_full_champion(context)
    candidate = train(context, TrainInputs(uri, mix))
    uri = state_after(context, uri, candidate)
    campaign = load_campaign(context, uri)
    setting, structure = changed_setting(campaign.state.plan, campaign.written, change)
    assert (setting, structure) != ("lora", campaign.state.plan.lora)
    uri = state_after(context, uri, candidate, lora=structure)
    job = job_of(context, TrainInputs(uri, mix), tmp_path / "job")
    assert job.lora == structure
    assert torch.equal(started(job), logits_of(model_of(context, candidate)))
    assert not torch.equal(started(job), logits_of(model_of(context, champion)))


STRUCTURES = [
    LoraStructure(),
    LoraStructure(rank=1, targets=("o_proj",)),
    LoraStructure(rank=64, scale=0.5),
    LoraStructure(rank=2, dropout=0.5, targets=("q_proj", "down_proj")),
    LoraStructure(rank=2, unfrozen_layers=1),
    LoraStructure(rank=2, unfrozen_modules=("norms",)),
    LoraStructure(rank=2, unfrozen_modules=("embed_tokens",), targets=("up_proj",)),
]


def test_no_structure_changes_what_the_champion_computes(
    context: Context, tmp_path: Path
) -> None:
    uri, mix, champion = with_full_champion(context)
    expected = logits_of(model_of(context, champion))
    for number, structure in enumerate(STRUCTURES):
        inputs = TrainInputs(state_after(context, uri, champion, lora=structure), mix)
        job = job_of(context, inputs, tmp_path / str(number))
        assert torch.equal(started(job), expected), structure


def test_the_base_stays_what_losses_and_first_rounds_compare_with(
    context: Context, tmp_path: Path
) -> None:
    uri, mix, champion = with_full_champion(context, kl_beta=0.1)
    base = logits_of(model_of(context, load_campaign(context, uri).prepared))
    job = job_of(context, TrainInputs(uri, mix), tmp_path / "job")
    assert job.base is not None
    assert torch.equal(logits_of(load_model(job.base)), base)
    assert torch.equal(
        logits_of(load_model(job.init)), logits_of(model_of(context, champion))
    )
    # Each round from the base: its adapters stand beside the base, as they always did.
    settings = changed(train={**ADAPTED, "init_from": "base"})
    resumed = prepare(context, settings, resume_from=uri)
    inputs = TrainInputs(receipt_uri(context, resumed), mix)
    from_base = job_of(context, inputs, tmp_path / "from-base")
    assert FROZEN not in _work(inputs, context).config
    assert from_base.adapter is None
    assert torch.equal(started(from_base), base)


def test_adapters_beside_the_base_go_on_as_they_did(
    context: Context, tmp_path: Path
) -> None:
    start = prepare(context, changed(train=ADAPTED))
    uri = receipt_uri(context, start)
    mix = mix_of(context, start)
    champion = train(context, TrainInputs(uri, mix))
    assert FROZEN not in champion.config
    inputs = TrainInputs(state_after(context, uri, champion), mix)
    assert FROZEN not in _work(inputs, context).config
    job = job_of(context, inputs, tmp_path / "job")
    assert job.adapter is not None
    base = model_of(context, load_campaign(context, uri).prepared)
    assert torch.equal(logits_of(load_model(job.init)), logits_of(base))
    # Taken away again, the merged champion is trained on in full.
    inputs = TrainInputs(state_after(context, uri, champion, lora=None), mix)
    full = job_of(context, inputs, tmp_path / "full")
    assert (full.lora, full.adapter) == (None, None)
    merged = model_of(context, champion)
    assert torch.equal(logits_of(load_model(full.init)), logits_of(merged))


def test_a_killed_training_of_added_adapters_goes_on(
    context: Context, tmp_path: Path
) -> None:
    """Killed and begun again, it makes the receipt that it makes in one go."""
    uri, mix, champion = with_full_champion(context, checkpoint_minutes=0)
    lora = load_campaign(context, uri).state.plan.lora
    inputs = TrainInputs(state_after(context, uri, champion, steps=20, lora=lora), mix)
    folder = Path(context.store.root.removeprefix("file://"))
    shutil.copytree(folder, tmp_path / "copied")
    copied = context_in(
        tmp_path / "other", open_store((tmp_path / "copied").as_uri(), {})
    )
    elsewhere = inputs.state.replace(context.store.root, copied.store.root)
    whole = train(copied, TrainInputs(elsewhere, mix))

    process = begin(context, inputs)
    deadline = time.monotonic() + PATIENCE_SECONDS
    # The receipt of a checkpoint: the digests of one process come before it.
    while not any(RECEIPT.search(name) for name in context.store.list("progress/")):
        assert process.is_alive(), said_in(context)[-3000:]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.01)
    process.kill()
    process.join()
    assert find_receipt(context, "train", _work(inputs, context).key) is None
    again = train(context, inputs)
    assert "going on from the checkpoint of step" in said_in(context)
    assert again.config[FROZEN] == "champion"
    assert {
        name: again.objects[name].sha256 for name in again.objects if "model" in name
    } == {name: whole.objects[name].sha256 for name in whole.objects if "model" in name}
