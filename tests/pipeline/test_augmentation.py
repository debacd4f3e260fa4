"""A campaign that memorises its rows: reflection drops words in the next round, and looks what became
of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

from components.report.runs import load_run
from components.runtime.receipts import read_receipt
from tests.pipeline.campaigns import recipe
from tests.pipeline.conftest import MakePlace

COUNTS = {"train": 60, "dev": 100, "unlabelled": 150, "validation": 100, "test": 30}


def write_riddles(folder: Path) -> None:
    """Numbers with an answer that no other number tells: what is learned is learned by heart."""
    numbers = list(range(1000))
    random.Random(1).shuffle(numbers)
    for split, count in COUNTS.items():
        lines = []
        for number in numbers[:count]:
            answer = number * 7919 % 1009 % 10
            lines.append(
                json.dumps({"prompt": f"{number:03d}=", "completion": str(answer)})
            )
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        numbers = numbers[count:]


def test_overfitting_turns_word_dropout_on_and_the_next_round_confirms_it(
    make_place: MakePlace, tmp_path: Path
) -> None:
    write_riddles(tmp_path)
    changes = {
        "data": recipe(tmp_path)["data"],
        "generate.shards": 1,
        "select.labelled_share": 0.9,
        "train.first.steps": 20,
        "train.rounds": {"steps": 120, "learning_rate": 0.01, "augmentation": {}},
        "train.init_from": "base",
        "train.evaluate_every": 10,
        "train.early_stopping_patience": 100,
        "decide.alpha": 0.05,
    }
    place = make_place(changes)
    run = place.run("--rounds=2")
    context = place.context
    view = load_run(context, run.told["run_id"])
    assert view.state is not None
    _, overfitted, noisy = view.state.history
    causes = {cause.name: cause for cause in overfitted.causes}
    assert causes["overfitting"].change == "word_dropout as in the recipe → 0.1"
    assert (causes["overfitting"].measure, causes["overfitting"].direction) == (
        "dev_rise",
        "down",
    )
    assert noisy.plan.word_dropout == 0.1
    # It is what was trained by, and by nothing else that is new.
    stages = [
        read_receipt(context, record.receipts["train"]).config["stages"]
        for record in (overfitted, noisy)
    ]
    stage_without, stage_with = stages[0][0], stages[1][0]
    assert stage_with.pop("augmentation")["word_dropout"] == 0.1
    assert stage_with == stage_without
    assert noisy.measures["dev_rise"] < 0.8 * overfitted.measures["dev_rise"]
    assert "change_confirmed" in {cause.name for cause in noisy.causes}
