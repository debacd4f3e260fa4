"""One sentence to the webhook of the recipe's section `notify`.

A notification is a courtesy: whatever happens to it, a step goes on, after at most PATIENCE_SECONDS.
It is sent at most once: work that is found done tells nobody.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

from components.contracts.recipe import Recipe
from components.contracts.recipe.notify import Event
from components.errors import one_line
from components.runtime.context import Context

PATIENCE_SECONDS = 5.0
"""Longest time that a step waits for a webhook, from the look-up of its name to its answer."""
MAX_CHARACTERS = 1_500
"""Longest text; Slack cuts messages off at 4,000 characters."""
_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)


def notify(context: Context, recipe: Recipe | None, event: Event, text: str) -> None:
    """Tell the recipe's webhook of an event, if it has one for such events.

    Args:
        context: Has the webhook's URL in its environment.
        recipe: The recipe; None where it is not known, which tells nobody.
        event: Kind of the event.
        text: One sentence. Words of models and errors in it do nothing but stand there.
    """
    section = recipe.notify if recipe is not None else None
    if section is None or event not in section.on:
        return
    url = context.environment.get(section.url_env, "").strip()
    if not url:
        problem = f"the environment has no variable {section.url_env}"
    elif not _URL.match(url):
        problem = f"the variable {section.url_env} holds no http(s) URL"
    else:
        problem = _sent_in_time(url, {"text": _escaped(one_line(text, MAX_CHARACTERS))})
    if problem:
        # The variable's name, and never the URL: who knows that may write to the webhook.
        context.progress.warn(
            f"the webhook of notify.url_env was not told of a {event}: {problem}"
        )


def _escaped(text: str) -> str:
    """Return a text in which Slack finds no link and no mention such as `<!channel>`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _sent_in_time(url: str, document: Mapping[str, str]) -> str:
    """Send a document, and return what went wrong; empty if nothing did."""
    problems: list[str] = []
    # A thread, because no timeout of a socket covers a name server that hangs, or a server that
    # sends its answer a byte at a time. A daemon: the process need not wait for it either.
    thread = threading.Thread(
        target=lambda: problems.append(_send(url, document)), daemon=True
    )
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return problems[0] if problems else _no_answer()


def _no_answer() -> str:
    return f"no answer within {PATIENCE_SECONDS:g} seconds"


def _send(url: str, document: Mapping[str, str]) -> str:
    """Send a document, and return what went wrong, without the URL."""
    try:
        request = urllib.request.Request(
            url,
            data=json.dumps(document).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "ratchet"},
            method="POST",
        )
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=PATIENCE_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # Not its message: some hold the URL.
        return (
            _no_answer() if isinstance(reason, TimeoutError) else type(reason).__name__
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for an answer: the address that it names is nobody's choice."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Return None, which ends the request with the status of the redirection."""
