"""Answer prompts by the vllm engine, in an environment that has vLLM: `PYTHON -m tests.vllm.answers
JOB_FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from components.contracts.recipe import Vllm
from components.contracts.rows import Prompt
from components.generate.batches import Ask
from components.generate.engines.vllm import VllmEngine
from components.modeling.inference.sampling import Sampling


def main() -> None:
    """Print one JSON list of samples for each batch of asks."""
    job = json.loads(Path(sys.argv[1]).read_text())
    engine = VllmEngine(
        Path(job["model"]),
        "",
        Sampling(**job["sampling"]),
        Vllm(),
        with_log_probabilities=True,
    )
    for asks in job["batches"]:
        wanted = [
            Ask(Prompt(id=text, text=text, verifier="exact"), index, seed)
            for index, (text, seed) in enumerate(asks)
        ]
        found = engine.answer(wanted, lambda done: None)
        print(
            json.dumps([sample.model_dump(mode="json") for sample in found]), flush=True
        )


if __name__ == "__main__":
    main()
