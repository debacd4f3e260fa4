"""Other ways to fine-tune the same model on the same rows, each a process of its own: what the
train step is held against.

`python -m tests.benchmarks.training_peers ARM FOLDER [name=value …]` reads `FOLDER/base` and
`FOLDER/rows.jsonl` (token ids, and how many of them bear no loss), prints {"seconds", "tokens"} of
the training alone, and writes the trained model to `FOLDER/ARM` where one is asked for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from components.modeling.likelihood import IGNORED

SETTINGS: dict[str, Any] = {
    "rate": 5e-5,
    "batch": 16,
    "micro": 16,
    "attention": "eager",
    "save": 1,
    "seed": 0,
    "steps": 0,
}


def main() -> None:
    """One arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm", choices=["naive", "trainer", "trl", "plain"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    settings = dict(SETTINGS)
    for name, value in (one.split("=") for one in given.settings):
        settings[name] = type(SETTINGS[name])(value)
    torch.set_num_threads(torch.get_num_threads())
    torch.manual_seed(settings["seed"])
    model = AutoModelForCausalLM.from_pretrained(
        given.folder / "base",
        dtype=torch.float32,
        attn_implementation=settings["attention"],
        local_files_only=True,
    )
    rows = [json.loads(line) for line in (given.folder / "rows.jsonl").open()]
    for row in rows:
        row["labels"] = [IGNORED] * row["masked"] + row["ids"][row["masked"] :]
    match given.arm:
        case "naive":
            seconds, tokens = naive(model, rows, settings)
        case "plain":
            seconds, tokens = plain(model, rows, settings)
        case _:
            seconds, tokens = by_trainer(model, rows, settings, given.folder, given.arm)
    if settings["save"]:
        model.save_pretrained(given.folder / given.arm)
        AutoTokenizer.from_pretrained(given.folder / "base").save_pretrained(
            given.folder / given.arm
        )
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


def naive(
    model: Any, rows: list[dict[str, Any]], settings: dict[str, Any]
) -> tuple[float, int]:
    """As articles show it: one row at a time in fp32, an Adam step for each, or for every `batch`
    rows."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["rate"])
    model.train()
    begun = time.perf_counter()
    for number, row in enumerate(rows, 1):
        loss = model(
            input_ids=torch.tensor([row["ids"]]), labels=torch.tensor([row["labels"]])
        ).loss
        (loss / settings["batch"]).backward()
        if number % settings["batch"] == 0:
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - begun, sum(len(row["ids"]) for row in rows)


def by_trainer(
    model: Any,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    folder: Path,
    arm: str,
) -> tuple[float, int]:
    """transformers' Trainer or TRL's SFTTrainer: bf16 autocast, batches grouped by length, one pass
    over the rows."""
    clock = _Clock()
    common = {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": settings["micro"],
        "gradient_accumulation_steps": settings["batch"] // settings["micro"],
        "bf16": True,
        "use_cpu": True,
        "learning_rate": settings["rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1000,
        "train_sampling_strategy": "group_by_length",
        "seed": settings["seed"],
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    if arm == "trainer":
        data: Any = [{"input_ids": row["ids"], "labels": row["labels"]} for row in rows]
        trainer: Any = Trainer(
            model=model,
            args=TrainingArguments(**common),
            train_dataset=data,
            callbacks=[clock],
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        )
    else:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        data = Dataset.from_list(
            [{"input_ids": row["ids"], "labels": row["labels"]} for row in rows]
        )
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common, max_length=None, packing=False),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[clock],
        )
    trainer.train()
    return clock.seconds, sum(len(row["ids"]) for row in rows)


class _Clock(TrainerCallback):
    seconds = 0.0
    begun = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.begun


def plain(
    model: Any, rows: list[dict[str, Any]], settings: dict[str, Any]
) -> tuple[float, int]:
    """A good loop by hand: batches padded to their longest row, AdamW, clipping, and nothing else."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["rate"], betas=(0.9, 0.98)
    )
    generator = torch.Generator().manual_seed(settings["seed"])
    model.train()
    tokens = 0
    begun = time.perf_counter()
    for _ in range(settings["steps"]):
        chosen = [
            rows[int(index)]
            for index in torch.randint(
                len(rows), (settings["batch"],), generator=generator
            )
        ]
        longest = max(len(row["ids"]) for row in chosen)
        ids = torch.tensor(
            [row["ids"] + [0] * (longest - len(row["ids"])) for row in chosen]
        )
        labels = torch.tensor(
            [row["labels"] + [IGNORED] * (longest - len(row["ids"])) for row in chosen]
        )
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(row["ids"]) for row in chosen)
    return time.perf_counter() - begun, tokens


if __name__ == "__main__":
    main()
