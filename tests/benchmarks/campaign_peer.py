"""The loop of recipes/smollm2.yaml as people write it by hand: TRL's SFTTrainer, `generate` in
padded batches, a filter, and so on. What a whole campaign of ours is held against.

`python -m tests.benchmarks.campaign_peer loop FOLDER` reads from the folder `base`, `work.json`,
`choice.json` and the rows (`train.jsonl`, `unlabelled.jsonl`, `validation.jsonl`), and appends a line
to `rounds.jsonl` after each round. `tune` instead tries the settings that change speed alone on
`tuning.jsonl`, and writes the fastest to `choice.json`.

One process keeps the model in memory from the first step to the last: no checkpoint is written and
no process started in between, and nothing is measured but the accuracy on validation prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from components.contracts.rows import Prompt, read_rows
from components.verifiers import verify
from tests.benchmarks.campaign_settings import (
    LoopWork,
    PeerChoice,
    read_choice,
    read_work,
    write_settings,
)

Pair = tuple[str, str]
"""(question, answer)."""

TRAIN_CHOICES = (("eager", 16), ("eager", 8), ("sdpa", 16), ("sdpa", 8))
"""(attention, rows of a forward pass) that are tried."""
GENERATE_CHOICES = (("eager", 128), ("eager", 256), ("sdpa", 128), ("sdpa", 256))
"""(attention, sequences of a batch) that are tried."""
TUNING_STEPS = 3


def main() -> None:
    """Run the loop, or try its settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("loop", "tune"))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--choices", type=int, default=len(TRAIN_CHOICES), help="so many are tried"
    )
    given = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    work = read_work(given.folder / "work.json")
    torch.manual_seed(work.seed)
    if given.mode == "tune":
        choice = fastest_choice(given.folder, work, given.choices)
        write_settings(given.folder / "choice.json", choice)
    else:
        run_loop(given.folder, work, read_choice(given.folder / "choice.json"))


def run_loop(folder: Path, work: LoopWork, choice: PeerChoice) -> None:
    """Train on labelled rows, then in rounds on the model's own right answers beside them."""
    loop = HandLoop(folder, work, choice)
    labelled = read_pairs(folder / "train.jsonl")
    pool = list(read_rows(folder / "unlabelled.jsonl", Prompt))
    validation = list(read_rows(folder / "validation.jsonl", Prompt))
    rows = draw([(1.0, labelled)], work.first_steps * work.batch_size, work.seed)
    loop.train(rows, work.first_learning_rate)
    loop.report(0, validation)
    older: list[Pair] = []
    for round_number in range(1, work.num_rounds + 1):
        begin = (round_number - 1) * work.prompts_per_round
        newest = loop.right_answers(pool[begin : begin + work.prompts_per_round])
        groups = mix_groups(labelled, older, newest, work)
        rows = draw(
            groups, work.round_steps * work.batch_size, work.seed + round_number
        )
        loop.train(rows, work.round_learning_rate)
        loop.report(round_number, validation)
        older += newest


def mix_groups(
    labelled: list[Pair], older: list[Pair], newest: list[Pair], work: LoopWork
) -> list[tuple[float, list[Pair]]]:
    """Return (share of what is drawn, rows), groups without rows left out."""
    own_share = 1 - work.labelled_share
    newest_share = work.newest_share if older else 1.0
    groups = [
        (work.labelled_share, labelled),
        (own_share * (1 - newest_share), older),
        (own_share * newest_share, newest),
    ]
    return [(share, rows) for share, rows in groups if rows]


def draw(
    groups: Sequence[tuple[float, list[Pair]]], count: int, seed: int
) -> list[Pair]:
    """Return rows drawn with replacement, from each group its share."""
    rows: list[Pair] = []
    weights: list[float] = []
    for share, group in groups:
        rows += group
        weights += [share / len(group)] * len(group)
    return random.Random(seed).choices(rows, weights, k=count)


class HandLoop:
    """The model in training and a copy of it in bfloat16, from which answers are drawn."""

    def __init__(self, folder: Path, work: LoopWork, choice: PeerChoice) -> None:
        self.folder = folder
        self.work = work
        self.choice = choice
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            folder / "base", padding_side="left"
        )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: Any = load(folder, torch.float32, choice.train_attention)
        # Twice as fast as float32 where the processor has bfloat16 products. Loaded once: a round
        # only copies the weights.
        self.sampler: Any = load(
            folder, torch.bfloat16, choice.generate_attention
        ).eval()

    def train(
        self, rows: list[Pair], learning_rate: float, *callbacks: TrainerCallback
    ) -> None:
        """Take an optimizer step for each `batch_size` rows."""
        trainer = SFTTrainer(
            model=self.model,
            args=self._config(len(rows) // self.work.batch_size, learning_rate),
            train_dataset=Dataset.from_list(
                [self._conversation(pair) for pair in rows]
            ),
            processing_class=self.tokenizer,
            callbacks=list(callbacks),
        )
        trainer.train()
        # Else each round would be wrapped in the autocast of all rounds before it.
        self.model = trainer.accelerator.unwrap_model(
            trainer.model, keep_fp32_wrapper=False
        )

    def _config(self, num_steps: int, learning_rate: float) -> SFTConfig:
        work = self.work
        return SFTConfig(
            output_dir=str(self.folder / "trainer"),
            max_steps=num_steps,
            per_device_train_batch_size=self.choice.micro_batch_size,
            gradient_accumulation_steps=work.batch_size // self.choice.micro_batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": work.min_learning_rate_ratio},
            warmup_steps=round(work.warmup_share * num_steps),
            weight_decay=work.weight_decay,
            adam_beta2=work.beta2,
            max_grad_norm=work.max_gradient_norm,
            max_length=work.max_length,
            packing=False,
            completion_only_loss=True,
            train_sampling_strategy="group_by_length",
            bf16=True,
            use_cpu=True,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=work.seed,
        )

    def _conversation(self, pair: Pair) -> dict[str, list[dict[str, str]]]:
        question, answer = pair
        completion = [{"role": "assistant", "content": answer}]
        return {"prompt": self.messages(question), "completion": completion}

    def messages(self, question: str) -> list[dict[str, str]]:
        """Return the conversation up to the answer."""
        messages = [{"role": "user", "content": question}]
        if self.work.system_prompt:
            messages.insert(0, {"role": "system", "content": self.work.system_prompt})
        return messages

    def report(self, round_number: int, validation: list[Prompt]) -> None:
        """Append the time and the accuracy of greedy answers to `rounds.jsonl`."""
        self.copy_weights()
        answers = self.answers(
            [prompt.text for prompt in validation], 1, do_sample=False
        )
        rights = [
            verify(prompt, texts[0])
            for prompt, texts in zip(validation, answers, strict=True)
        ]
        line = {
            "round_number": round_number,
            "ended": time.time(),
            "accuracy": sum(rights) / len(rights),
        }
        with (self.folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def right_answers(self, prompts: list[Prompt]) -> list[Pair]:
        """Return an answer that the verifier accepts to each prompt that has one among its samples.

        The weights are those that `report` copied.
        """
        work = self.work
        answers = self.answers(
            [prompt.text for prompt in prompts],
            work.samples_per_prompt,
            do_sample=True,
            temperature=work.temperature,
            top_k=work.top_k,
            top_p=1.0,
        )
        accepted: list[Pair] = []
        for prompt, texts in zip(prompts, answers, strict=True):
            right = next((text for text in texts if verify(prompt, text)), None)
            if right is not None:
                accepted.append((prompt.text, right))
        return accepted

    def question_ids(self, question: str) -> list[int]:
        """Return the token ids of all that stands before the answer."""
        rendered = self.tokenizer.apply_chat_template(
            self.messages(question), add_generation_prompt=True, tokenize=False
        )
        encoded = self.tokenizer(rendered, add_special_tokens=False)
        token_ids: list[int] = encoded["input_ids"]
        return token_ids

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer."""
        stated = self.sampler.generation_config.eos_token_id
        stated_ids = stated if isinstance(stated, list) else [stated]
        ids = {self.tokenizer.eos_token_id, *stated_ids} - {None}
        return sorted(ids)

    def copy_weights(self) -> None:
        """Give the sampler the weights of the model in training."""
        self.sampler.load_state_dict(self.model.state_dict())

    def answers(
        self, questions: list[str], num_samples: int, **drawing: Any
    ) -> list[list[str]]:
        """Return the answers to each question, drawn in batches of questions of similar length."""
        encoded = [self.question_ids(question) for question in questions]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        batch_size = max(1, self.choice.generate_rows // num_samples)
        answers: dict[int, list[str]] = {}
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            batch = [encoded[index] for index in indices]
            texts = self._generate(batch, num_samples, drawing)
            for position, index in enumerate(indices):
                answers[index] = texts[
                    position * num_samples : (position + 1) * num_samples
                ]
        return [answers[index] for index in range(len(questions))]

    def _generate(
        self, batch: list[list[int]], num_samples: int, drawing: dict[str, Any]
    ) -> list[str]:
        padded = self.tokenizer.pad({"input_ids": batch}, return_tensors="pt")
        with torch.inference_mode():
            sequences = self.sampler.generate(
                **padded,
                max_new_tokens=self.work.max_new_tokens,
                num_return_sequences=num_samples,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.end_ids,
                **drawing,
            )
        new_tokens = sequences[:, padded["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


def load(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    """Return the base model."""
    return AutoModelForCausalLM.from_pretrained(
        folder / "base",
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
    )


def read_pairs(path: Path) -> list[Pair]:
    """Return questions and answers of a file of rows."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(row["prompt"], row["completion"]) for row in map(json.loads, lines)]


def fastest_choice(folder: Path, work: LoopWork, num_tried: int) -> PeerChoice:
    """Return the fastest of the first so many choices, on the rows for tuning."""
    rows = read_pairs(folder / "tuning.jsonl")
    train_seconds: dict[tuple[str, int], float] = {}
    for attention, micro_batch_size in TRAIN_CHOICES[:num_tried]:
        choice = PeerChoice(
            train_attention=attention, micro_batch_size=micro_batch_size
        )
        clock = StepClock()
        drawn = draw([(1.0, rows)], (TUNING_STEPS + 1) * work.batch_size, work.seed)
        HandLoop(folder, work, choice).train(drawn, work.first_learning_rate, clock)
        train_seconds[attention, micro_batch_size] = clock.seconds
    row_seconds: dict[tuple[str, int], float] = {}
    for attention, generate_rows in GENERATE_CHOICES[:num_tried]:
        choice = PeerChoice(generate_attention=attention, generate_rows=generate_rows)
        row_seconds[attention, generate_rows] = generate_seconds(
            HandLoop(folder, work, choice), rows
        )
    best_train = min(train_seconds, key=lambda tried: train_seconds[tried])
    best_generate = min(row_seconds, key=lambda tried: row_seconds[tried])
    print(
        f"training, s a step: {train_seconds}; sampling, s a sequence: {row_seconds}",
        flush=True,
    )
    return PeerChoice(*best_train, *best_generate)


def generate_seconds(loop: HandLoop, rows: list[Pair]) -> float:
    """Return the seconds of a sequence, in one full batch of questions of similar length."""
    work = loop.work
    num_questions = loop.choice.generate_rows // work.samples_per_prompt
    questions = sorted((question for question, _ in rows), key=len)
    begin = max(0, (len(questions) - num_questions) // 2)
    batch = questions[begin : begin + num_questions]
    drawing = {"do_sample": True, "temperature": work.temperature, "top_k": work.top_k}
    loop.answers(batch[:4], work.samples_per_prompt, **drawing)
    begun = time.perf_counter()
    loop.answers(batch, work.samples_per_prompt, **drawing)
    seconds = time.perf_counter() - begun
    return seconds / (len(batch) * work.samples_per_prompt)


class StepClock(TrainerCallback):
    """Seconds of an optimizer step behind the first, which warms up."""

    seconds = 0.0
    begun = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time of the first step, and the mean of the others."""
        if state.global_step == 1:
            self.begun = time.perf_counter()
        else:
            self.seconds = (time.perf_counter() - self.begun) / (state.global_step - 1)


if __name__ == "__main__":
    main()
