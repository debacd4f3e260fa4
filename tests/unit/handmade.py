"""A campaign made by hand: real receipts, objects and attempt records, without a model."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

from components.contracts.recipe import Recipe
from components.contracts.recipe_file import parse_recipe
from components.contracts.rows import Dropped, Result, TrainingRow, write_rows
from components.contracts.state import Cause, ModelRecord, Plan, RoundRecord, State
from components.contracts.summaries import (
    DecideSummary,
    EvaluateSummary,
    GenerateSummary,
    LogEntry,
    PrepareSummary,
    PublishSummary,
    SelectSummary,
    StartSummary,
    TrainSummary,
)
from components.contracts.summaries.evaluate import (
    Bounds,
    Collapse,
    CollapseAlarm,
    Estimate,
    PassAtKSign,
    RatioSign,
)
from components.contracts.summaries.select import (
    FilterAudit,
    FilterCounts,
    FilterQuality,
    HintedCounts,
    HintPool,
)
from components.errors import RatchetError
from components.runtime.attempts import Task, attempting
from components.runtime.context import Context
from components.runtime.receipts import Receipt, Work, commit, commit_once, fetch
from tests.unit.crafted import (
    ask,
    evaluate_summary,
    select_summary,
    start_summary,
    train_summary,
)

RECIPE: dict[str, Any] = {
    "name": "by-hand",
    "data": {
        "tasks": [{"task": "reverse", "ladder": {"labelled": [1, 4], "climb": [5, 7]}}]
    },
    "decide": {"goal": {"threshold": 0.9}, "max_rounds": 3},
}
HOSTILE = "<script>alert(1)</script> $\\frac{1}{0}$ \x1b[31m\u202e"
PLAN = Plan(
    learning_rate=1e-3,
    steps=200,
    weight_decay=0.01,
    temperature=0.7,
    samples_per_prompt=4,
    labelled_share=0.5,
    level=5,
)


def _sampling(number: int, shard: int, folder: Path) -> GenerateSummary:
    return GenerateSummary(
        round=number,
        shard=shard,
        shards=2,
        prompts=100,
        generated=400,
        tokens=4000,
        finished_share=1.0,
        truncated=0,
        distinct_answers=300,
        temperature=0.7,
        level=5,
        champion="train/champion",
        engine="transformers",
        engine_reason="by hand",
        batches=1,
        batch_size=400,
    )


def _selected(number: int) -> SelectSummary:
    """What select tells of its filters; in round 2 they teach errors."""
    audit = FilterAudit(
        prompts=50,
        samples=200,
        model_accuracy=0.625,
        filters={
            "verifier": FilterQuality(
                given=200,
                accepted=120,
                prompts_accepted=40,
                precision=0.9125,
                precision_low=0.8345,
                recall=0.8875,
                accepted_share=0.6,
            ),
            "consistency": FilterQuality(
                given=120,
                accepted=0,
                prompts_accepted=0,
                precision=None,
                precision_low=0.0,
                recall=0.0,
                accepted_share=0.0,
            ),
        },
        all=FilterQuality(
            given=200,
            accepted=110,
            prompts_accepted=40,
            precision=0.9375,
            precision_low=0.8567,
            recall=0.8,
            accepted_share=0.55,
        ),
        teaches_errors=("verifier",) if number == 2 else (),
    )
    return select_summary(
        round=number,
        generated=800,
        accepted=400,
        filters={
            "contamination": FilterCounts(given=800, accepted=790),
            "verifier": FilterCounts(given=790, accepted=450),
            "consistency": FilterCounts(given=450, accepted=400),
        },
        audit=audit,
        bias={"length": 0.125, "answer": 0.0, "slice": 1.0},
        why_blocked="this round teaches errors" if number == 2 else None,
        hinted=HintedCounts(
            prompts=10,
            generated=40,
            accepted=11,
            dropped={},
            filters={},
            prompts_accepted=5,
        ),
        too_hard=HintPool(found=9, answered=4, waiting=1005),
    )


def _evaluated(number: int, accuracy: float) -> EvaluateSummary:
    """What evaluate tells of collapse: word pairs get fewer from round to round."""
    scores = evaluate_summary(round=number, validation_accuracy=accuracy)
    if not number:
        return scores
    ratio = 1.0 - 0.05 * number
    alarm = CollapseAlarm(
        measure="distinct_2", value=ratio, limit=0.85, why="fewer word pairs"
    )
    collapse = Collapse(
        distinct_2=RatioSign(
            value=0.8 * ratio,
            first=0.8,
            ratio=ratio,
            n=900,
            block=Bounds(below=0.85),
            warn=Bounds(below=0.925),
        ),
        pass_at_k=PassAtKSign(
            k=8,
            value=0.6,
            first=0.625,
            difference=-0.025,
            low=-0.05,
            high=0.0,
            warn_high=-0.01,
            n=60,
        ),
        perplexity=RatioSign(
            value=3.5,
            first=3.0,
            ratio=1.0 + 0.04 * number,
            n=60,
            block=Bounds(above=1.1),
            warn=Bounds(above=1.05),
        ),
    )
    return scores.model_copy(
        update={
            "collapse": collapse,
            "blocks": (alarm,) if number == 3 else (),
            "warnings": (alarm,) if number == 2 else (),
        }
    )


BASE = ModelRecord(score=0.02, interval=(0.0, 0.05), overall=0.02, test_score=0.01)
"""Of the model that the campaign begins with."""


TEST_PROMPTS = [ask(f"reverse {number:05d}", str(number)) for number in range(20)]


def _test_result(number: int, text: str, *, correct: bool) -> Result:
    return Result(
        prompt_id=TEST_PROMPTS[number].id,
        split="test",
        correct=correct,
        text=f"{text} {number}",
        finished=True,
        num_tokens=4,
    )


def _base_measured(folder: Path) -> EvaluateSummary:
    """Of the base, which knows no more than the last test prompt."""
    write_rows(
        folder / "results.jsonl",
        (_test_result(n, "no idea", correct=n == 19) for n in range(len(TEST_PROMPTS))),
    )
    estimate = Estimate(value=0.05, low=0.009, high=0.236, n=len(TEST_PROMPTS))
    return evaluate_summary(round=-1, measured={"test": {"": estimate}})


class Campaign:
    """Adds one step after the other to a store; a clock of its own lets every step take known
    seconds."""

    def __init__(
        self, context: Context, document: dict[str, Any] | None = None
    ) -> None:
        self.now = 1_700_000_000.0
        self.context = context
        self.recipe: Recipe = parse_recipe(document or RECIPE)
        self.run_id = self.recipe.run_id
        self.state = State(run_id=self.run_id, prepared="", plan=PLAN)
        self.last: Receipt | None = None

    def step(
        self,
        step: str,
        name: str,
        number: int,
        inputs: dict[str, Receipt],
        work: Work,
        *,
        seconds: float = 4.0,
        costs: dict[str, float] | None = None,
    ) -> Receipt:
        """Commit one step that takes `seconds`."""
        context = self._clocked(seconds, costs)
        task = Task(run_id=self.run_id, name=name, round=number)
        return commit_once(
            context, task, step, config={"task": name}, inputs=inputs, seed=0, work=work
        )

    def _clocked(
        self, seconds: float, costs: dict[str, float] | None = None
    ) -> Context:
        times = itertools.chain(
            [self.now + 0.5, self.now + seconds - 0.5],
            itertools.repeat(self.now + seconds),
        )
        context = dataclasses.replace(
            self.context,
            clock=lambda: next(times),
            started=self.now,
            costs=dict(costs or {}),
        )
        self.now += seconds
        return context

    def prepare(self, code: str = "") -> Receipt:
        """The first receipt, as other code than usual makes it if it has a name."""

        def data(folder: Path) -> PrepareSummary:
            (folder / "rejected.jsonl").touch()
            (folder / "splits").mkdir()
            write_rows(folder / "splits/test.jsonl", TEST_PROMPTS)
            return PrepareSummary(
                counts={"train": 40},
                rejected={},
                parameters=1000,
                base_digest="abc",
                dtype="float32",
                positions=None,
            )

        def mix(folder: Path) -> SelectSummary:
            (folder / "mix.jsonl").touch()
            return SelectSummary(round=0, labelled_rows=40)

        def start(folder: Path) -> StartSummary:
            (folder / "recipe.json").write_text(self.recipe.model_dump_json())
            (folder / "state.json").write_text(self.state.model_dump_json())
            return start_summary(first_mix=self.first_mix.ref)

        config = {"code": code} if code else {}
        context, task = (
            self._clocked(2.0),
            Task(run_id=self.run_id, name="prepare", round=0),
        )
        with attempting(context, task, "prepare") as attempt:
            self.prepared = commit(
                context, attempt, "prepare", config=config, inputs={}, seed=0, work=data
            )
            self.state = self.state.model_copy(update={"prepared": self.prepared.ref})
            inputs = {"prepare": self.prepared}
            self.first_mix = commit(
                context, attempt, "mix", config=config, inputs=inputs, seed=0, work=mix
            )
            base = commit(
                context,
                attempt,
                "evaluate",
                config=config,
                inputs=inputs,
                seed=0,
                work=_base_measured,
            )
            inputs["mix"] = self.first_mix
            self.last = commit(
                context,
                attempt,
                "start",
                config=config,
                inputs=inputs,
                seed=0,
                work=start,
            )
        self.state = self.state.model_copy(
            update={
                "start": self.last.ref,
                "base": BASE,
                "base_evaluation": base.ref,
                "champion": self.prepared.ref,
            }
        )
        return self.last

    def go_on(self, earlier: Campaign) -> Receipt:
        """The start of a run that goes on from another one."""
        assert earlier.last is not None
        self.prepared = earlier.prepared
        self.first_mix = earlier.first_mix
        self.state = earlier.state.model_copy(
            update={"run_id": self.run_id, "start": None}
        )

        def start(folder: Path) -> StartSummary:
            (folder / "recipe.json").write_text(self.recipe.model_dump_json())
            (folder / "state.json").write_text(self.state.model_dump_json())
            return start_summary(first_mix=self.first_mix.ref)

        inputs = {
            "prepare": self.prepared,
            "mix": self.first_mix,
            "resume": earlier.last,
        }
        context, task = (
            self._clocked(2.0),
            Task(run_id=self.run_id, name="prepare", round=0),
        )
        with attempting(context, task, "prepare") as attempt:
            self.last = commit(
                context, attempt, "start", config={}, inputs=inputs, seed=0, work=start
            )
        self.state = self.state.model_copy(update={"start": self.last.ref})
        return self.last

    def round(
        self,
        number: int,
        accuracy: float,
        verdict: Any,
        *,
        stop: Any = None,
        text: str = "21 = 12",
    ) -> Receipt:
        """A whole round; round 0 has no samples of its own."""
        inputs = {"prepare": self.prepared}
        receipts: dict[str, Receipt] = {}
        if number:
            for shard in range(2):
                receipts[f"generate-{shard}"] = self.step(
                    "generate",
                    f"generate-r{number}-s{shard}",
                    number,
                    {**inputs, "state": self._state_receipt()},
                    functools.partial(_sampling, number, shard),
                    seconds=6.0,
                    costs={"compute_seconds": 5.0, "tokens_generated": 4000.0},
                )
            receipts["select"] = self.step(
                "select",
                f"select-r{number}",
                number,
                {**inputs, **receipts},
                lambda folder: self._selection(folder, number, text),
                seconds=3.0,
            )
        mix = receipts.setdefault("select", self.first_mix)
        receipts["train"] = self.step(
            "train",
            f"train-r{number}",
            number,
            {**inputs, "mix": mix},
            lambda folder: self._training(folder, number),
            seconds=20.0,
            costs={"compute_seconds": 18.0, "tokens_trained": 90_000.0},
        )
        receipts["evaluate"] = self.step(
            "evaluate",
            f"evaluate-r{number}",
            number,
            {**inputs, "candidate": receipts["train"]},
            lambda folder: self._evaluation(folder, number, accuracy, text),
            costs={"compute_seconds": 3.0, "tokens_generated": 2_000.0},
        )
        self._advance(number, accuracy, verdict, stop, receipts, text)

        def decide(folder: Path) -> DecideSummary:
            (folder / "state.json").write_text(self.state.model_dump_json())
            return DecideSummary(
                round=number,
                verdict=verdict,
                why="by hand",
                go=stop is None,
                stop=stop,
                metric="accuracy",
                score=accuracy,
                p_value=0.004,
                champion=receipts["train"].ref,
                alarms=(),
                causes=(),
            )

        named = {
            "state": self._state_receipt(),
            "candidate": receipts["train"],
            "results": receipts["evaluate"],
        }
        self.last = self.step(
            "decide", f"decide-r{number}", number, named, decide, seconds=1.0
        )
        return self.last

    def publish(self, *, target_met: bool) -> Receipt:
        """The published model."""

        number, champion = self.state.round, self.state.champion
        assert number is not None
        assert champion is not None

        def work(folder: Path) -> PublishSummary:
            (folder / "model.safetensors").write_bytes(b"weights")
            return PublishSummary(
                name="by-hand",
                version="v1",
                prefix="models/by-hand/v1/",
                released=True,
                why="proved better than base model scratch",
                dtype="float32",
                champion=champion,
                champion_round=number,
                target_met=target_met,
                metric="accuracy",
                validation_score=0.9,
                test_score=0.9,
                split="test",
                scores=None,
            )

        receipt = self.step(
            "publish", "publish", number, {"state": self._state_receipt()}, work
        )
        for name in receipt.objects:
            self.context.store.put_bytes(
                f"models/by-hand/v1/{name}",
                fetch(self.context, receipt, name).read_bytes(),
            )
        return receipt

    def fail(self, step: str, name: str, number: int, error: RatchetError) -> None:
        """An attempt that ends in an error."""

        def work(folder: Path) -> PublishSummary:
            raise error

        try:
            self.step(step, name, number, {}, work)
        except RatchetError:
            return

    def _state_receipt(self) -> Receipt:
        assert self.last is not None, "prepare comes first"
        return self.last

    def _advance(
        self,
        number: int,
        accuracy: float,
        verdict: Any,
        stop: Any,
        receipts: Any,
        text: str,
    ) -> None:
        made = 800 if number else 0
        dropped = (
            {"verifier": 300 - 40 * number, "duplicate": 90, "unfinished": 12}
            if number
            else {}
        )
        cause = Cause(
            name="low_diversity",
            evidence=f"{31 + number} % of the answers were distinct. {text}",
            priority=0.7,
            change="temperature 0.7 → 0.9",
            predicted="more distinct answers",
        )
        record = RoundRecord(
            round=number,
            verdict=verdict,
            why=f"{round(accuracy * 200)} of 200 right, p = 0.004",
            level=5,
            plan=self.state.plan,
            score=accuracy,
            overall=accuracy,
            interval=(accuracy - 0.05, min(1.0, accuracy + 0.045)),
            test_score=accuracy - 0.01,
            slices={
                f"length={n}": max(0.0, min(1.0, accuracy + (5 - n) * 0.1))
                for n in range(1, 12)
            },
            generated=made,
            accepted=made - sum(dropped.values()),
            dropped=dropped,
            p_value=0.004,
            perplexity=3.21,
            causes=(cause,) if number else (),
            blocked=number == 2,
            alarms=("collapse guard: distinct-2 is 0.9 times what it was at first",)
            if number == 2
            else (),
            measures={"agreement": 0.6 + 0.1 * number} if number else {},
            receipts={name: one.ref for name, one in receipts.items()},
        )
        won = verdict != "rejected"
        self.state = self.state.model_copy(
            update={
                "round": number,
                "stop": stop,
                "go": stop is None,
                "champion": receipts["train"].ref if won else self.state.champion,
                "champion_round": number if won else self.state.champion_round,
                "champion_evaluation": receipts["evaluate"].ref
                if won
                else self.state.champion_evaluation,
                "first_evaluation": self.state.first_evaluation
                or receipts["evaluate"].ref,
                "plan": self.state.plan.model_copy(
                    update={"temperature": 0.7 + 0.1 * number, "level": 5 + number}
                ),
                "history": (*self.state.history, record),
            }
        )

    def _selection(self, folder: Path, number: int, text: str) -> SelectSummary:
        write_rows(
            folder / "accepted.jsonl",
            (
                TrainingRow(
                    id=str(n),
                    prompt=f"reverse {n:05d}",
                    completion=f"{text} {n}",
                    source="self",
                    round=number,
                    provenance={"vote_share": 0.75, "model": "abc"},
                )
                for n in range(200)
            ),
        )
        write_rows(
            folder / "dropped.jsonl",
            (
                Dropped(
                    reason=reason,
                    detail=f"expected {n}",
                    row={"prompt_id": f"p{n}", "text": f"{text} {n}"},
                )
                for reason, count in (
                    ("verifier", 260),
                    ("duplicate", 90),
                    ("unfinished", 1),
                )
                for n in range(count)
            ),
        )
        return _selected(number)

    def _evaluation(
        self, folder: Path, number: int, accuracy: float, text: str
    ) -> EvaluateSummary:
        num_right = int(accuracy * len(TEST_PROMPTS))
        write_rows(
            folder / "results.jsonl",
            (
                _test_result(n, text, correct=n < num_right)
                for n in range(len(TEST_PROMPTS))
            ),
        )
        return _evaluated(number, accuracy)

    def _training(self, folder: Path, number: int) -> TrainSummary:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(
            f"weights of round {number}".encode() * 50
        )
        log = [
            LogEntry(
                step=step,
                stage="sft",
                loss=2.5 * math.exp(-step / 60) + 0.1 + 0.03 * math.sin(step * 1.7),
                gradient_norm=1.0,
                learning_rate=1e-3,
                tokens=512,
                padding_share=0.1,
                dev_loss=2.4 * math.exp(-step / 55) + 0.2 if step % 25 == 0 else None,
            )
            for step in range(1, 201)
        ]
        write_rows(folder / "log.jsonl", log)
        return train_summary(
            round=number, best_step=175, stopped_early=number == 2, final_loss=0.15
        )


def whole_campaign(context: Context, text: str = "21 = 12") -> Campaign:
    """Prepare, round 0 and three rounds, of which the second was not proved better; the target is
    met."""
    made = Campaign(context)
    made.prepare()
    made.round(0, 0.41, "promoted")
    made.round(1, 0.68, "promoted", text=text)
    made.round(2, 0.69, "rejected", text=text)
    made.round(3, 0.93, "promoted", stop="target", text=text)
    made.publish(target_met=True)
    return made
