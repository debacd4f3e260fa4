"""Receipts of a campaign with contents made up for a test, stored like real ones."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, RootModel

from components.canonical import canonical_json
from components.contracts.recipe import Recipe
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import (
    Dropped,
    Prompt,
    Result,
    Sample,
    TrainingRow,
    prompt_id,
    read_rows,
    write_rows,
)
from components.contracts.state import Plan, State
from components.contracts.summaries import (
    EvaluateSummary,
    GenerateSummary,
    LogEntry,
    PrepareSummary,
    SelectSummary,
    StartSummary,
    TrainSummary,
)
from components.contracts.summaries.evaluate import (
    Diversity,
    Estimate,
    Intervals,
    Measurement,
)
from components.contracts.summaries.train import TrainingLayout
from components.decide import first_champion
from components.decide.first_champion import FirstChampionInputs
from components.runtime.attempts import Task
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    read_summary,
    receipt_uri,
)

PLAN = Plan(
    learning_rate=1e-3,
    steps=200,
    weight_decay=0.01,
    temperature=0.7,
    samples_per_prompt=4,
    labelled_share=0.5,
    level=0,
)


class Plain(RootModel[dict[str, Any]]):
    """A summary that nobody reads."""


def recipe_of(*, ladder: bool = False, **sections: Any) -> Recipe:
    """A recipe with `sections` set over a small one."""
    task: dict[str, Any] = {
        "task": "reverse",
        "ladder": {"labelled": [1, 8], "climb": [9, 12], "mastery": 0.9},
    }
    document = {
        "name": "crafted",
        "data": {"tasks": [task]}
        if ladder
        else {"sources": [{"uri": "file:///data.jsonl"}]},
        "decide": {"goal": {"threshold": 0.99}},
    }
    return parse_recipe({**document, **sections})


def store(
    context: Context,
    step: str,
    files: Mapping[str, Sequence[BaseModel] | bytes],
    summary: BaseModel | dict[str, Any],
    inputs: Mapping[str, Receipt] | None = None,
    config: dict[str, Any] | None = None,
) -> Receipt:
    """Commit a receipt of `step` with these files."""

    written = Plain(summary) if isinstance(summary, dict) else summary

    def work(folder: Path) -> BaseModel:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                write_rows(folder / name, content)
        return written

    # What is in the files is part of the key, as it is for real steps through their inputs.
    contents = {name: repr(content) for name, content in files.items()}
    task = Task(run_id="crafted-run", name=f"{step}-crafted", round=0)
    made_up = {
        **(config or {}),
        "crafted": contents,
        "summary": written.model_dump(mode="json"),
    }
    return commit_once(
        context,
        task,
        step,
        config=made_up,
        inputs=dict(inputs or {}),
        seed=0,
        work=work,
    )


def rows(
    context: Context, receipt: Receipt, name: str, kind: Any = TrainingRow
) -> list[Any]:
    """Rows of a file of a receipt."""
    return list(read_rows(fetch(context, receipt, name), kind))


def ask(text: str, answer: str, *, verifier: str = "exact", **tags: str) -> Prompt:
    """A prompt with its reference answer."""
    return Prompt(
        id=prompt_id(text),
        text=text,
        verifier=verifier,
        reference={"answer": answer},
        tags=tags,
    )


def say(prompt: Prompt, index: int, text: str, finished: bool = True) -> Sample:
    """One sample of a prompt."""
    return Sample(
        prompt_id=prompt.id,
        index=index,
        seed=index,
        text=text,
        num_tokens=len(text) + 1,
        finished=finished,
    )


def prepare(
    context: Context,
    recipe: Recipe,
    *,
    train: Sequence[TrainingRow] = (),
    validation: Sequence[Prompt] = (),
    test: Sequence[Prompt] = (),
    audit: Sequence[Prompt] = (),
    dev: Sequence[Prompt] | None = None,
    rejected: Sequence[Dropped] = (),
    plan: Plan = PLAN,
) -> Receipt:
    """A start receipt: the beginning of a campaign. Dev prompts are the validation prompts unless
    told otherwise."""
    splits: dict[str, Sequence[BaseModel]] = {
        "splits/train.jsonl": train,
        "splits/validation.jsonl": validation,
        "splits/dev_prompts.jsonl": validation if dev is None else dev,
        "splits/test.jsonl": test,
        "splits/audit.jsonl": audit,
    }
    if rejected:
        splits["rejected.jsonl"] = rejected
    prepared = store(context, "prepare", splits, prepare_summary())
    state = State(run_id="crafted-run", prepared=prepared.ref, plan=plan)
    files = {
        "recipe.json": canonical_json(recipe.model_dump(mode="json")),
        "state.json": canonical_json(state.model_dump(mode="json")),
    }
    mix = first_mix(context, train)
    return store(context, "start", files, start_summary(first_mix=mix.ref))


def prepare_summary() -> PrepareSummary:
    """The summary of a base and of splits that nobody counted."""
    return PrepareSummary(
        counts={},
        rejected={},
        parameters=0,
        base_digest="",
        dtype="float32",
        positions=None,
    )


def start_summary(first_mix: str = "mix/none") -> StartSummary:
    """Of a fresh campaign."""
    return StartSummary(
        counts={},
        rejected={},
        parameters=0,
        base_digest="",
        dtype="float32",
        positions=None,
        supervised=True,
        first_mix=first_mix,
        base="prepare/none",
    )


def first_mix(context: Context, train: Sequence[TrainingRow] = ()) -> Receipt:
    """The mix that prepare writes: labelled rows, no samples."""
    files = {"mix.jsonl": train, "accepted.jsonl": [], "dropped.jsonl": []}
    return store(
        context, "mix", files, SelectSummary(round=0, labelled_rows=len(train))
    )


def with_base(
    context: Context, start: Receipt, results: Sequence[Result], **summary: Any
) -> str:
    """URI of the state in which the base, with these results, is the first champion."""
    uri = receipt_uri(context, start)
    prepared = load_campaign(context, uri).prepared
    written = evaluate_summary(**{"round": 0, "test_accuracy": 0.1, **summary})
    rows = with_dev(results)
    measured = store(
        context, "evaluate", {"results.jsonl": rows}, written, {"candidate": prepared}
    )
    return receipt_uri(
        context, first_champion.run(FirstChampionInputs(uri, measured), context)
    )


def with_dev(results: Sequence[Result]) -> list[Result]:
    """The results, and those of validation once more as dev results unless there are some."""
    if any(one.split == "dev" for one in results):
        return list(results)
    measured = [one for one in results if one.split == "validation"]
    return [*results, *(one.model_copy(update={"split": "dev"}) for one in measured)]


def all_wrong(results: Sequence[Result]) -> list[Result]:
    """The same prompts, none of them right."""
    return [one.model_copy(update={"correct": False}) for one in results]


def decided(context: Context, start: Receipt, **changes: Any) -> str:
    """URI of a state after round 0 (or what `changes` say), as decide would have left it."""
    prepared = load_campaign(context, receipt_uri(context, start)).prepared
    state = State(
        run_id="crafted-run",
        prepared=prepared.ref,
        start=start.ref,
        round=0,
        champion="train/champion",
        champion_round=0,
        plan=PLAN,
    ).model_copy(update=changes)
    files = {"state.json": canonical_json(state.model_dump(mode="json"))}
    return receipt_uri(context, store(context, "decide", files, {"round": state.round}))


def generated(
    context: Context,
    prompts: Sequence[Prompt],
    texts: Mapping[str, Sequence[str]],
    hinted: Sequence[tuple[Prompt, Sequence[str]]] | None = None,
    **summary: Any,
) -> Receipt:
    """A generate receipt; `texts` are the answers to each prompt by its text, `hinted` those with a
    hint."""
    samples = [
        _said(one, index, text)
        for one in prompts
        for index, text in enumerate(texts[one.text])
    ]
    about: dict[str, Any] = {
        "prompts": len(prompts),
        "generated": len(samples),
        "distinct_answers": len({(one.prompt_id, one.text) for one in samples}),
        "tokens": sum(one.num_tokens for one in samples),
    }
    files: dict[str, Sequence[BaseModel]] = {
        "prompts.jsonl": prompts,
        "samples.jsonl": samples,
    }
    if hinted is not None:
        first = max(map(len, texts.values()))
        files["hinted_prompts.jsonl"] = [one for one, _ in hinted]
        files["hinted_samples.jsonl"] = [
            _said(one, index, text)
            for one, own in hinted
            for index, text in enumerate(own, first)
        ]
    return store(context, "generate", files, generate_summary(**{**about, **summary}))


def _said(prompt: Prompt, index: int, text: str) -> Sample:
    """A sample; one whose text ends in an ellipsis was cut off."""
    return say(prompt, index, text, finished=not text.endswith("…"))


def generate_summary(**changes: Any) -> GenerateSummary:
    """Of the only shard of round 1, with `changes`."""
    about: dict[str, Any] = {
        "round": 1,
        "shard": 0,
        "shards": 1,
        "prompts": 1,
        "generated": 1,
        "finished_share": 1.0,
        "truncated": 0,
        "distinct_answers": 1,
        "tokens": 1,
        "temperature": 0.7,
        "level": 0,
        "champion": "train/champion",
        "engine": "transformers",
        "engine_reason": "crafted",
        "batches": 1,
        "batch_size": 1,
    }
    return GenerateSummary(**{**about, **changes})


def trained(
    context: Context,
    round_number: int,
    losses: Sequence[float | None] = (1.0, 0.5, 0.2),
    **summary: Any,
) -> Receipt:
    """A train receipt without weights: decide reads its summary and log only."""
    log = [
        LogEntry(
            step=step,
            stage="sft",
            loss=loss,
            learning_rate=1e-3,
            gradient_norm=1.0,
            tokens=10,
            padding_share=0.1,
        )
        for step, loss in enumerate(losses, 1)
    ]
    return store(
        context,
        "train",
        {"log.jsonl": log},
        train_summary(**{"round": round_number, **summary}),
    )


def train_summary(**changes: Any) -> TrainSummary:
    """Of a training that went well, with `changes`."""
    about: dict[str, Any] = {
        "round": 1,
        "init_from": "champion",
        "steps": 200,
        "best_step": 200,
        "first_loss": 1.0,
        "final_loss": 0.2,
        "first_dev_loss": 1.1,
        "best_dev_loss": 0.3,
        "final_dev_loss": 0.3,
        "stopped_early": False,
        "tokens_trained": 1000,
        "padding_share": 0.1,
        "skipped_steps": 0,
        "num_processes": 1,
        "end_of_text_share": None,
        "interpolation_share": None,
        "interpolation_losses": None,
        "layout": TrainingLayout(
            zero_stage=0,
            offload=False,
            micro_batch_size=8,
            precision="fp32",
            state_bytes=1,
            activation_bytes=1,
        ),
        "optimizer": "torch",
    }
    return TrainSummary(**{**about, **changes})


def select_summary(**changes: Any) -> SelectSummary:
    """Of 40 samples of 10 prompts, of which 36 were accepted, with `changes`."""
    about: dict[str, Any] = {
        "round": 1,
        "generated": 40,
        "accepted": 36,
        "acceptance": 0.9,
        "dropped": {"verifier": 4},
        "prompts": 10,
        "prompts_accepted": 10,
        "distinct_share": 0.9,
        "mean_answer_tokens": 2.0,
        "finished_share": 1.0,
        "labelled_rows": 0,
    }
    return SelectSummary(**{**about, **changes})


def results_of(
    verdicts: Mapping[str, Sequence[bool]],
    split: Literal["dev", "validation", "test"] = "validation",
) -> list[Result]:
    """Results by slice: `length=9` → right or wrong, prompt by prompt. An empty slice name gives no
    tags."""
    return [
        Result(
            prompt_id=prompt_id(f"{split} {name} {number}"),
            split=split,
            correct=right,
            text="?",
            finished=True,
            num_tokens=2,
            tags=dict([name.split("=", 1)]) if name else {},
        )
        for name, own in verdicts.items()
        for number, right in enumerate(own)
    ]


def evaluated(
    context: Context,
    train: Receipt,
    results: Sequence[Result],
    *,
    dev: bool = True,
    **summary: Any,
) -> Receipt:
    """An evaluate receipt of a trained candidate. Dev results are like those of validation unless
    the results have some, or `dev` says that there are no dev prompts."""
    about: dict[str, Any] = {
        "round": read_summary(train, TrainSummary).round,
        "validation_accuracy": sum(one.correct for one in results) / len(results),
    }
    written = evaluate_summary(**{**about, **summary})
    rows = with_dev(results) if dev else results
    return store(
        context, "evaluate", {"results.jsonl": rows}, written, {"candidate": train}
    )


def evaluate_summary(**changes: Any) -> EvaluateSummary:
    """Of a model that is right half the time, with `changes`."""
    about: dict[str, Any] = {
        "round": 1,
        "validation_accuracy": 0.5,
        "test_accuracy": 0.5,
        "slices": {},
        "test_slices": {},
        "pass_at_k": None,
        "pass_k": 0,
        "pass_at": {},
        "numeric": {},
        "classification": {},
        "perplexity": 2.0,
        "finished_share": 1.0,
        "mean_answer_tokens": 2.0,
        "distinct_share": 0.5,
        "tokens": 100,
        "intervals": Intervals(
            validation_accuracy=(0.4, 0.6), test_accuracy=(0.4, 0.6)
        ),
        "retention": None,
        "generation_verification": None,
        "diversity": Diversity(
            texts=0,
            distinct_1=None,
            distinct_2=None,
            self_bleu=None,
            vendi=None,
            answer_entropy=0.0,
            sample_entropy=None,
        ),
        "harness": {},
        "skipped": {},
        "measurement": Measurement(candidate="crafted"),
    }
    about |= changes
    measured = {
        split: {"": Estimate(value=about[f"{split}_accuracy"], low=0.4, high=0.6, n=20)}
        for split in ("validation", "test")
    }
    return EvaluateSummary(**{"measured": measured, **about})


def right_of(count: int, right: int, seed: int = 0) -> list[bool]:
    """`count` verdicts of which `right` are right, in a fixed random order."""
    verdicts = [place < right for place in range(count)]
    random.Random(seed).shuffle(verdicts)
    return verdicts
