"""The ledger of a name as platforms are told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.contracts.releases import Line
from components.contracts.state import RoundRecord
from components.contracts.summaries import PublishSummary
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.ledger import receipt_of
from components.runtime.receipts import read_receipt, read_summary, receipt_uri


@dataclass(frozen=True)
class Details:
    """The part of a release that its line does not hold."""

    license: str
    """Identifier of the hub; empty if the recipe names none."""
    validation_score: float
    test_score: float
    rounds: tuple[RoundRecord, ...]
    """History of the campaign, oldest round first."""


@dataclass(frozen=True)
class LedgerView:
    """All releases of a name, and which one is in force."""

    name: str
    store: str
    """URI of the store."""
    lines: tuple[Line, ...]
    """The ledger, oldest line first; at least one."""
    details: Callable[[Line], Details]
    """Reads the details of a release, which takes several requests to the store."""

    @property
    def releases(self) -> list[Line]:
        """The lines of releases, oldest first. A rollback releases nothing new."""
        return [line for line in self.lines if line.action == "release"]

    @property
    def version_in_force(self) -> str:
        """Version of the newest line."""
        return self.lines[-1].version

    def uri(self, line: Line) -> str:
        """Return the address of a released folder, with a slash at its end."""
        return f"{self.store}/{line.prefix}"


def scores_of(line: Line, details: Details) -> dict[str, float]:
    """Return the scores of a release by name: `<split>_<metric>` with its interval, and gains."""
    metric = line.metric
    low, high = line.interval
    scores = {
        f"validation_{metric}": details.validation_score,
        f"test_{metric}": details.test_score,
    }
    # After the other two: where test decided, this is its value with the files of the release.
    scores |= {
        f"{line.split}_{metric}": line.score,
        f"{line.split}_{metric}_low": low,
        f"{line.split}_{metric}_high": high,
    }
    for rival in line.rivals:
        scores[f"gain_over_{rival.kind}"] = rival.gain
    return scores


def ledger_view(context: Context, name: str, lines: list[Line]) -> LedgerView:
    """Return the ledger of a name for platforms.

    Args:
        context: Store of the ledger.
        name: Name of the releases.
        lines: Its lines, at least one.
    """

    def details(line: Line) -> Details:
        state = read_receipt(context, line.state)
        campaign = load_campaign(context, receipt_uri(context, state))
        summary = read_summary(receipt_of(context, line), PublishSummary)
        return Details(
            license=campaign.written.publish.license,
            validation_score=summary.validation_score,
            test_score=summary.test_score,
            rounds=campaign.state.history,
        )

    return LedgerView(
        name=name, store=context.store.root, lines=tuple(lines), details=details
    )
