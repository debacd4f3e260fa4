"""Questions of six classes, in the form of TREC's: rows of text and label, made from templates."""

from __future__ import annotations

import json
import random
from pathlib import Path

PATTERNS = {
    "ABBR": ("What does {} stand for ?", "What is the full form of {} ?"),
    "DESC": ("What is the meaning of {} ?", "How does {} work ?"),
    "ENTY": ("What animal lives in {} ?", "What color has {} ?"),
    "HUM": ("Who invented {} ?", "Who was the first to see {} ?"),
    "LOC": ("Where is {} ?", "What city is near {} ?"),
    "NUM": ("How many people know {} ?", "When did {} begin ?"),
}
THINGS = ("river", "opera", "comet", "guild", "tower", "engine", "forest", "treaty")


def write_questions(folder: Path, rows: int, test_rows: int) -> None:
    """Write `train.jsonl` and `test.jsonl`, without a question in common."""
    draw = random.Random(5)
    questions: dict[str, str] = {}
    while len(questions) < rows + test_rows:
        label = draw.choice(sorted(PATTERNS))
        thing = f"the {draw.choice(THINGS)} of {draw.randrange(1000)}"
        questions[draw.choice(PATTERNS[label]).format(thing)] = label
    lines = [
        json.dumps({"text": text, "label": label}) for text, label in questions.items()
    ]
    (folder / "train.jsonl").write_text(
        "\n".join(lines[:rows]) + "\n", encoding="utf-8"
    )
    (folder / "test.jsonl").write_text("\n".join(lines[rows:]) + "\n", encoding="utf-8")
