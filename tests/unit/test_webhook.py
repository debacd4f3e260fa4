"""A webhook is told in one document, its URL is told to nobody, and no fault of it ends a step."""

from __future__ import annotations

import dataclasses

import pytest

from components.contracts.recipe_file import parse_recipe
from components.errors import UserError
from components.runtime import webhook
from components.runtime.context import Context
from components.runtime.webhook import notify
from tests.doubles.webhook import SECRET_PATH, Manner, Webhook
from tests.unit.crafted import recipe_of
from tests.waiting import wait_until

VARIABLE = "TEAM_WEBHOOK"
RECIPE = recipe_of(notify={"url_env": VARIABLE})


def with_url(context: Context, url: str) -> Context:
    return dataclasses.replace(context, environment={VARIABLE: url} if url else {})


def test_it_gets_one_sentence_in_which_slack_finds_no_mention(context: Context) -> None:
    with Webhook() as server:
        # A file that became a Secret ends in a line break.
        notify(
            with_url(context, f"{server.url}\n"),
            RECIPE,
            "failure",
            "a <!channel> & b\n\x1b[31mc",
        )
    assert server.told == [{"text": "a &lt;!channel&gt; &amp; b [31mc"}]
    assert (server.paths, server.content_types) == ([SECRET_PATH], ["application/json"])


def test_only_events_that_were_asked_for_are_told(context: Context) -> None:
    recipe = recipe_of(notify={"url_env": VARIABLE, "on": ["failure"]})
    with Webhook() as server:
        own = with_url(context, server.url)
        notify(own, recipe, "verdict", "promoted")
        notify(own, recipe_of(), "failure", "without a section")
        notify(own, None, "failure", "without a recipe")
        notify(own, recipe, "failure", "failed")
    assert server.texts == ["failed"]


@pytest.mark.parametrize(
    ("manner", "problem"),
    [
        ("refuses", "it answered 404"),
        ("redirects", "it answered 302"),
        ("hangs", "no answer within 0.5 seconds"),
        ("dribbles", "no answer within 0.5 seconds"),
        ("hangs up", "RemoteDisconnected"),
    ],
)
def test_one_that_fails_or_hangs_is_said_in_the_log_and_ends_nothing(
    context: Context,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    manner: Manner,
    problem: str,
) -> None:
    if manner in ("hangs", "dribbles"):
        monkeypatch.setattr(webhook, "PATIENCE_SECONDS", 0.5)
    with Webhook(manner) as server:
        notify(with_url(context, server.url), RECIPE, "verdict", "promoted")
        wait_until(lambda: bool(server.paths))
        # A redirection is an answer: nobody is sent elsewhere.
        assert server.paths == [SECRET_PATH]
    assert_said(capfd, problem)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", f"the environment has no variable {VARIABLE}"),
        (f"http://127.0.0.1:1{SECRET_PATH}", "ConnectionRefusedError"),
        (f"file://{SECRET_PATH}", "holds no http(s) URL"),
        (f"hooks.example{SECRET_PATH}", "holds no http(s) URL"),
        (f"http://127.0.0.1:port{SECRET_PATH}", "InvalidURL"),
        (f"http://127.0.0.1:9/a b{SECRET_PATH}", "InvalidURL"),
        (f"http://[::1{SECRET_PATH}", "ValueError"),
    ],
)
def test_a_url_that_is_none_is_not_shown(
    context: Context, capfd: pytest.CaptureFixture[str], url: str, problem: str
) -> None:
    notify(with_url(context, url), RECIPE, "verdict", "promoted")
    assert_said(capfd, problem)


def assert_said(capfd: pytest.CaptureFixture[str], problem: str) -> None:
    """The log has the problem, and not the secret."""
    _, said = capfd.readouterr()
    assert f"was not told of a verdict: {problem}" in " ".join(said.split()).replace(
        f"the variable {VARIABLE} ", ""
    )
    assert "a-secret" not in said


def test_a_recipe_with_the_url_in_it_is_refused_without_showing_it() -> None:
    section = {"url_env": f"https://hooks.example{SECRET_PATH}"}
    document = {
        "name": "told",
        "data": {"sources": [{"uri": "file:///data.jsonl"}]},
        "decide": {"goal": {"threshold": 0.9}},
        "notify": section,
    }
    with pytest.raises(UserError, match="never the URL") as refused:
        parse_recipe(document)
    assert "a-secret" not in str(refused.value)
