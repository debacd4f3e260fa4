"""Parts of a Markdown page that a program writes, between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations


def with_part(page: str, name: str, part: str) -> str:
    """Return the page with `part` between the two marks.

    Raises:
        ValueError: The page does not have both marks, once each and in this order.
    """
    begin = f"<!-- {name} -->"
    end = f"<!-- /{name} -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in after:
        raise ValueError(f"the page needs {begin} and {end}, once each")
    return f"{before}{begin}\n{part}\n{end}{after}"
