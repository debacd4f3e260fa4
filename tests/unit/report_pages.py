"""Parts of a report's page, as a reader finds them."""

from __future__ import annotations

import html
import re

from components.report.page import build_page
from components.report.runs import load_run
from components.runtime.context import Context
from tests.unit.handmade import Campaign


def page_of(context: Context, made: Campaign) -> str:
    return build_page(load_run(context, made.run_id, examples=12))


def tables_of(page: str) -> list[list[list[str]]]:
    """The text of every cell of every table, row by row."""
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    return [
        [cells_of(row) for row in re.findall(r"<tr.*?>(.*?)</tr>", table, re.DOTALL)]
        for table in tables
    ]


def cells_of(row: str) -> list[str]:
    return [
        html.unescape(re.sub(r"<.+?>", "", cell)).strip()
        for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
    ]


def round_of(page: str, number: int) -> str:
    """The part of the page that is about one round."""
    return page.split(f"<h3>Round {number}</h3>")[1].split("</section>")[0]


def first_screen(page: str) -> str:
    """The text of the page before its first section, in one line."""
    text = html.unescape(
        re.sub(r"<[^>]+>", " ", page.split("</style>")[1].split("</header>")[0])
    )
    # Code and text of a sentence are divided by tags.
    return re.sub(r" ([.,:])", r"\1", " ".join(text.split()))
