"""The ledger of releases for people: the list of a name's releases, and the return to one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import get_args

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.cli.stores import unknown_run
from components.contracts.recipe.announce import Platform
from components.contracts.releases import Line, OpeningId
from components.errors import Corrupt, UserError
from components.measures import measure_of
from components.publish.announcing.announce import (
    Announced,
    announce,
    announce_after,
    recipe_of,
)
from components.publish.approval import approve
from components.publish.openings import account_of
from components.report.runs import load_run, published_receipt
from components.report.words import cut
from components.runtime import ledger
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import read_receipt, receipt_uri


def lines_of(context: Context, name: str) -> list[Line]:
    """Return the ledger of a name. Raises UserError if nothing was released under it."""
    lines = ledger.read_lines(context, name)
    if not lines:
        names = ", ".join(ledger.names(context)) or "none"
        raise UserError(
            f"nothing was released under the name {name!r} in {context.store.root} "
            f"(names there are: {names})"
        )
    return lines


def digests_of(context: Context, name: str, version: str) -> dict[str, str]:
    """Return file → SHA-256 of a release, as its line of the ledger has them.

    No file of the release is read. Signed, this stands for the whole folder.

    Args:
        context: Store of the ledger.
        name: Name of the releases.
        version: Version, or number of its line.

    Raises:
        UserError: There is no such release.
    """
    lines = lines_of(context, name)
    line = ledger.find_line(lines, version)
    if line is None:
        versions = ", ".join(dict.fromkeys(one.version for one in lines))
        raise UserError(f"{name} has no release {version!r} (there are: {versions})")
    return line.files


def approve_run(context: Context, run_id: str, version: str = "") -> Line:
    """Release the champion of a run that waits for approval, and return its line.

    Approved once more, the line that there is is returned.

    Args:
        context: Store of the run.
        run_id: The run.
        version: Version that a person has looked at; empty: whichever waits.

    Raises:
        UserError: Nothing waits, or another version does.
    """
    view = load_run(context, run_id)
    if not view.tasks:
        raise unknown_run(context, run_id)
    publication = view.publication
    if view.release is not None:
        return view.release
    if publication is None or not publication.needs_approval:
        raise UserError(f"{run_id} does not wait for approval: it is {view.status}")
    if version and version != publication.version:
        raise UserError(
            f"{run_id}: {publication.version} waits for approval, and not {version}; look at its "
            "report, then approve that"
        )
    receipt = published_receipt(view.tasks, view.receipts)
    assert receipt is not None, "its summary was read"
    state = read_receipt(context, view.state_ref)
    campaign = load_campaign(context, receipt_uri(context, state))
    if receipt.inputs["state"] != campaign.state_receipt.digest:
        raise UserError(
            f"{run_id} has gone on since {publication.version} was compared; start it again to have "
            "its champion compared, then approve that"
        )
    line = approve(context, campaign, receipt)
    announce_after(context, line)
    return line


def roll_back(context: Context, name: str, version: str) -> Line:
    """Put an earlier release in force again by a new line, and return the line.

    Args:
        context: Store of the ledger.
        name: Name of the releases.
        version: Version or number of the line to return to.

    Raises:
        UserError: There is no such version, or it is in force.
        Corrupt: Files of that version are gone.
    """
    while True:
        lines = lines_of(context, name)
        target = ledger.find_line(lines, version)
        if target is None:
            versions = ", ".join(dict.fromkeys(line.version for line in lines))
            raise UserError(f"{name} has no version {version!r}; there are {versions}")
        if target.version == lines[-1].version:
            raise UserError(f"{name} {target.version} is in force already")
        require_files(context, target)
        line = target.model_copy(
            update={
                "number": len(lines) + 1,
                "action": "rollback",
                # Of the release itself, where the target is a rollback.
                "returns_to": target.returns_to or target.number,
                "predecessor": len(lines),
                "asked_by": context.asked_by,
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(context.clock())),
            }
        )
        if ledger.append_line(context, line):
            announce_after(context, line)
            return line


def platforms_of(texts: Sequence[str]) -> tuple[Platform, ...]:
    """Return platforms by their names. Raises UserError for a name that is none."""
    names: tuple[Platform, ...] = get_args(Platform)
    for text in texts:
        if text not in names:
            raise UserError(
                f"--to {text}: no such platform; there are {', '.join(names)}"
            )
    return tuple(name for name in names if name in texts)


def announce_name(
    context: Context, name: str, platforms: tuple[Platform, ...] = ()
) -> list[Announced]:
    """Bring platforms up to date with the ledger of a name, and return how it went on each.

    Args:
        context: Store of the ledger.
        name: Name of the releases.
        platforms: Platforms; empty: those of the recipe of the release in force.

    Raises:
        UserError: There is no such name, or no platform to tell.
    """
    lines = lines_of(context, name)
    if not platforms:
        section = recipe_of(context, lines[-1]).announce
        if section is None:
            raise UserError(
                f"the recipe of {name} {lines[-1].version} names no platform (announce.to); give "
                "one by --to"
            )
        platforms = section.to
    return announce(context, name, platforms)


def require_files(context: Context, line: Line) -> None:
    """Raise Corrupt if a file of the release's folder is gone."""
    for name in line.files:
        if context.store.size(line.prefix + name) is None:
            raise Corrupt(
                f"{context.store.root}/{line.prefix}{name} is gone; restore it from "
                f"objects/ (SHA-256 {line.files[name]}), or return to another version"
            )


def document_of(context: Context, name: str) -> dict[str, JsonValue]:
    """Return the ledger of a name as JSON: the release in force, all lines, and its prompts."""
    lines = lines_of(context, name)
    newest = lines[-1]
    return {
        "name": name,
        "store": context.store.root,
        "latest": newest.version,
        "model": f"{context.store.root}/{newest.prefix}",
        "lines": [line.model_dump(mode="json") for line in lines],
        "openings": _openings(context, lines),
    }


def _openings(context: Context, lines: list[Line]) -> list[JsonValue]:
    """Return each opening of the prompts that these releases were decided on."""
    released_openings = {line.opening for line in lines if line.opening is not None}
    openings: list[JsonValue] = []
    for prompts in dict.fromkeys(
        line.opening.prompts for line in lines if line.opening
    ):
        for number, opening in enumerate(ledger.read_openings(context, prompts), 1):
            led_to_release = (
                OpeningId(prompts=prompts, number=number) in released_openings
            )
            openings.append(
                {
                    "prompts": prompts,
                    "number": number,
                    "run_id": opening.run_id,
                    "released": led_to_release,
                    "spent": 0.0 if led_to_release else opening.level,
                    "alpha": opening.alpha,
                }
            )
    return openings


def print_releases(console: Console, context: Context, name: str) -> None:
    """Print the ledger of a name, the release in force last, and what is left of its prompts."""
    lines = lines_of(context, name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    score_title = f"{lines[-1].metric} [95 %]"
    for title in (
        "line",
        "version",
        score_title,
        "decided on",
        "at",
        "asked by",
        "how",
    ):
        table.add_column(title, overflow="fold")
    for line in lines:
        measure = measure_of(line.metric)
        table.add_row(
            str(line.number),
            line.version,
            f"{measure.text(line.score)} {measure.interval_text(line.interval)}",
            line.split,
            line.at,
            Text(cut(line.asked_by, 60)),
            Text(_how(line)),
            style="bold" if line is lines[-1] else "",
        )
    console.print(table)
    model = f"{context.store.root}/{lines[-1].prefix}"
    console.print(Text(f"in force: {lines[-1].version}  {model}"), soft_wrap=True)
    console.print(Text(_prompts_left(context, lines[-1])), soft_wrap=True)


def _how(line: Line) -> str:
    if line.returns_to is not None:
        return f"rollback to line {line.returns_to}"
    verdicts = "; ".join(f"{rival.verdict} than {rival.name}" for rival in line.rivals)
    verdicts = verdicts.replace("non-inferior than", "non-inferior to")
    return f"{verdicts}; approved" if line.approval is not None else verdicts


def _prompts_left(context: Context, line: Line) -> str:
    """Return the standing of the prompts that decided about a release, as a sentence."""
    assert line.opening is not None, "every release was decided on prompts"
    num_openings = len(ledger.read_openings(context, line.opening.prompts))
    account = account_of(context, line.opening.prompts, 1.0)
    due = ": new ones are due" if account.new_prompts_due else ""
    return (
        f"its {line.split} prompts were opened {num_openings} times, {account.spent_openings} of "
        f"them without a release; {account.alpha - account.spent:.3g} of alpha "
        f"{account.alpha:.3g} is left{due}"
    )
