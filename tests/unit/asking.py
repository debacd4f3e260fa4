"""A round of prompts that a served endpoint answers."""

from __future__ import annotations

import dataclasses
from typing import Any

from components.errors import RatchetError
from components.generate.step import GenerateInputs, run
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from tests.doubles.openai_api import KEY, MODEL, OpenAiApi
from tests.unit.generations import begun


def ask_endpoint(
    context: Context, endpoint: OpenAiApi, *, model: str = MODEL, **settings: Any
) -> Receipt:
    """One shard of a round that the endpoint answers: 3 samples of 24 prompts."""
    environment = {**endpoint.environment, **settings.pop("environment", {})}
    asked = {
        "model": model,
        "concurrency": 4,
        "timeout_seconds": 0.4,
        "max_retries": 2,
        **settings.pop("asked", {}),
    }
    state = begun(context, engine="openai", endpoint=asked, **settings)
    return run(
        GenerateInputs(state, 0), dataclasses.replace(context, environment=environment)
    )


def stored_text(context: Context) -> str:
    """Everything in the store, as text."""
    return "".join(
        context.store.get_bytes(key).decode("latin-1") for key in context.store.list("")
    )


def told(error: RatchetError) -> None:
    """A message fits one line, says where, and shows no secret."""
    text = str(error)
    assert "\n" not in text
    assert "generate.endpoint http://127.0.0.1:" in text
    assert KEY not in text
