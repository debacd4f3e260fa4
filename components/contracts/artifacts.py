"""Names of the files in receipts, each in one place."""

from __future__ import annotations

from typing import Final

# Of start and decide.
RECIPE: Final = "recipe.json"
STATE: Final = "state.json"
CARD: Final = "card.md"

# Of prepare; the splits are below `splits/`.
REJECTED: Final = "rejected.jsonl"
CHECKER: Final = "checker.zip"

# Of generate: with hints also the prompts (as they are without it) and samples with a hint.
PROMPTS: Final = "prompts.jsonl"
SAMPLES: Final = "samples.jsonl"
REJECTED_PROMPTS: Final = "rejected_prompts.jsonl"
HINTED_PREFIX: Final = "hinted_"
HINTED_PROMPTS: Final = "hinted_prompts.jsonl"
HINTED_SAMPLES: Final = "hinted_samples.jsonl"

# Of select, and of the first mix, which prepare writes.
ACCEPTED: Final = "accepted.jsonl"
DROPPED: Final = "dropped.jsonl"
MIX: Final = "mix.jsonl"
WRONG: Final = "wrong.jsonl"
TOO_HARD: Final = "too_hard.jsonl"

# Of train, beside the checkpoint's folder.
LOG: Final = "log.jsonl"
CHECKPOINT_CONFIG: Final = "config.json"

# Of evaluate; below `champion/` the same of the champion.
RESULTS: Final = "results.jsonl"
RETENTION: Final = "retention.jsonl"
DRAWN: Final = "samples.jsonl"
CHAMPION: Final = "champion"

# Of publish, beside the model's own files.
METRICS: Final = "metrics.json"
MODEL_CARD: Final = "README.md"


# Prompts of the dev split: what reflection reads. `splits/dev.jsonl` holds rows with answers.
DEV_PROMPTS: Final = "dev_prompts"


def split_file(split: str) -> str:
    """Return the name of a split's file in a prepare receipt."""
    return f"splits/{split}.jsonl"
