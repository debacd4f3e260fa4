"""Brings all platforms of a recipe up to date with the ledger of a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from components.contracts.recipe import Recipe
from components.contracts.recipe.announce import Platform
from components.contracts.releases import Line
from components.errors import RatchetError, one_line
from components.publish.announcing.ledger_view import LedgerView, ledger_view
from components.publish.announcing.mlflow import Mlflow
from components.publish.announcing.model_registry import ModelRegistry
from components.publish.announcing.platform_api import Refused
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.ledger import read_lines
from components.runtime.receipts import read_receipt, receipt_uri


class Outlet(Protocol):
    """A platform that shows releases."""

    def bring_up_to_date(self, view: LedgerView) -> list[str]:
        """Enter what the ledger has and the platform has not, and return that in words.

        Nothing is entered twice, and nothing that the ledger does not name is touched. A call that
        fails leaves what was entered before it; the next one goes on from there.

        Raises:
            UserError: Address or rights are wrong, or the name is another store's.
            Transient: The platform does not answer.
            Refused: It does not take an entry.
        """


@dataclass(frozen=True)
class Announced:
    """The end of an announcement on one platform."""

    platform: Platform
    entered: tuple[str, ...]
    """Entries that were missing, in words."""
    problem: str = ""
    """Reason why it is not up to date; empty if it is."""
    exit_code: int = 0
    """Status that the problem costs a verb."""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.platform}: not up to date: {self.problem}"
        return f"{self.platform}: {', '.join(self.entered) or 'up to date'}"


def announce(
    context: Context, name: str, platforms: tuple[Platform, ...]
) -> list[Announced]:
    """Bring platforms up to date with the ledger of a name, and return how it went on each.

    Args:
        context: Store of the ledger, and variables with the platforms' addresses.
        name: Name of the releases.
        platforms: Platforms, each of which is tried whatever becomes of the others.

    Raises:
        Corrupt: The ledger is damaged.
    """
    lines = read_lines(context, name)
    if not lines:
        return []
    view = ledger_view(context, name, lines)
    return [_announced(platform, view, context.environment) for platform in platforms]


def announce_releases(context: Context, recipe: Recipe, name: str) -> None:
    """Announce the releases of a name, if the recipe says where; warn of what is missing."""
    if recipe.announce is None:
        return
    for announced in announce(context, name, recipe.announce.to):
        if announced.problem:
            # The release stands, whatever becomes of its announcement.
            context.progress.warn(
                f"{announced}; the release stands: `announce {name} --store "
                f"{context.store.root}` enters what is missing"
            )
        elif announced.entered:
            context.progress.note(str(announced))


def announce_after(context: Context, line: Line) -> None:
    """Announce what a verb has added to the ledger, as the recipe of the release says.

    Args:
        context: Store of the ledger.
        line: The new line, which stands whatever becomes of this.
    """
    try:
        recipe = recipe_of(context, line)
    except RatchetError as error:
        context.progress.warn(
            f"{line.name}: no platform was told of line {line.number}: {error}"
        )
    else:
        announce_releases(context, recipe, line.name)


def recipe_of(context: Context, line: Line) -> Recipe:
    """Return the recipe of a release."""
    state = read_receipt(context, line.state)
    return load_campaign(context, receipt_uri(context, state)).written


def _announced(
    platform: Platform, view: LedgerView, environment: Mapping[str, str]
) -> Announced:
    try:
        entered = _outlet(platform, environment).bring_up_to_date(view)
    except RatchetError as error:
        return Announced(platform, (), one_line(error), error.exit_code)
    except Refused as refused:
        return Announced(platform, (), f"it refuses an entry ({refused.message})", 1)
    return Announced(platform, tuple(entered))


def _outlet(platform: Platform, environment: Mapping[str, str]) -> Outlet:
    match platform:
        case "model-registry":
            return ModelRegistry(environment)
        case "mlflow":
            return Mlflow(environment)
