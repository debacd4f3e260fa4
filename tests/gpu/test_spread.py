"""A model that is divided between a GPU and the CPU, both of which compute."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_spread import said_and_scored
from tests.unit.tiny import tiny_model


def test_two_devices_say_and_score_what_one_does() -> None:
    from accelerate import dispatch_model

    model, codec = tiny_model(num_layers=2)
    answers, scores = said_and_scored(model, codec)
    places: dict[str, Any] = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": 0,
        "model.norm": 0,
        "lm_head": "cpu",
    }
    divided = dispatch_model(model, places, main_device="cpu")
    their_answers, their_scores = said_and_scored(divided, codec)
    assert [one.ids for one in their_answers] == [one.ids for one in answers]
    for theirs, ours in zip(their_scores, scores, strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-3)
