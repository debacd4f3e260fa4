"""Figures of a decided round for Prometheus."""

from __future__ import annotations

from components.contracts.state import ModelRecord, State
from components.prometheus import Gauge, Sample


def round_gauges(state: State) -> list[Gauge]:
    """Return the figures of the last round of a state, and of its champion."""
    record = state.history[-1]
    gauges = [
        _gauge("ratchet_round", "Number of the last decided round.", record.round),
        _gauge(
            "ratchet_round_promoted",
            "1 if the candidate of the last decided round was promoted, else 0.",
            record.verdict == "promoted",
        ),
        _gauge(
            "ratchet_rounds_without_gain",
            "Rounds in a row that promoted nothing.",
            state.rounds_without_gain,
        ),
        _gauge(
            "ratchet_campaign_goes_on",
            "1 if another round follows the last decided one, else 0.",
            state.go,
        ),
        _gauge(
            "ratchet_round_alarms",
            "Alarms that spoke against the candidate of the last decided round.",
            len(record.alarms),
        ),
        Gauge(
            "ratchet_round_tokens",
            "Tokens of the last decided round.",
            (
                Sample(record.tokens_generated, {"kind": "generated"}),
                Sample(record.tokens_trained, {"kind": "trained"}),
            ),
        ),
        _scores(
            "ratchet_candidate_score", "Candidate of the last decided round", record
        ),
    ]
    if record.generated:
        share = record.accepted / record.generated
        gauges.append(
            _gauge(
                "ratchet_round_accepted_share",
                "Share of the samples of the last decided round that were accepted.",
                share,
            )
        )
    if state.champion_record is not None:
        gauges.append(
            _scores("ratchet_champion_score", "Champion", state.champion_record)
        )
    return gauges


def _gauge(name: str, meaning: str, value: float) -> Gauge:
    return Gauge(name, meaning, (Sample(float(value)),))


def _scores(name: str, model: str, record: ModelRecord) -> Gauge:
    metric = {"metric": record.metric}
    return Gauge(
        name,
        f"{model}, by the metric of the goal.",
        (
            Sample(record.overall, {"split": "validation", **metric}),
            Sample(record.test_score, {"split": "test", **metric}),
        ),
    )
