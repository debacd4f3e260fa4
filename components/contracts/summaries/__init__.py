"""The summaries of receipts: one frozen model a step, which the step writes and others read.

`components.runtime.receipts.read_summary` reads them.
"""

from components.contracts.summaries.decide import ChampionSummary, DecideSummary
from components.contracts.summaries.evaluate import EvaluateSummary
from components.contracts.summaries.generate import GenerateSummary
from components.contracts.summaries.prepare import (
    PrepareSummary,
    StartSummary,
    TeacherSummary,
)
from components.contracts.summaries.publish import PublishSummary
from components.contracts.summaries.select import SelectSummary
from components.contracts.summaries.summary import Summary
from components.contracts.summaries.train import LogEntry, TrainSummary

__all__ = [
    "ChampionSummary",
    "DecideSummary",
    "EvaluateSummary",
    "GenerateSummary",
    "LogEntry",
    "PrepareSummary",
    "PublishSummary",
    "SelectSummary",
    "StartSummary",
    "Summary",
    "TeacherSummary",
    "TrainSummary",
]
