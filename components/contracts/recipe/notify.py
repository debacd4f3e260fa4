"""The recipe's section `notify`: a webhook that is told how a run goes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.contracts.recipe.section import Section

Event = Literal["verdict", "failure", "waiting"]
"""verdict: of a round, and of the release at the end; failure: a step failed; waiting: the champion
waits for approval."""
_ALL_EVENTS: tuple[Event, ...] = ("verdict", "failure", "waiting")


class NotifySection(Section):
    """A webhook that gets a JSON document `{"text": …}`, as Slack, Mattermost and Discord
    (`…/slack`) take it. One that fails or hangs is named in the log, and costs a run 5 seconds."""

    # Who knows the URL of a webhook may write to it: a recipe is stored, and shown in the UI.
    url_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the environment variable that holds the webhook's URL, such as `SLACK_WEBHOOK_URL`;
    on a cluster a key of a Secret in the profile's `secrets`. Never the URL itself."""
    on: tuple[Event, ...] = _ALL_EVENTS
    """`verdict`: of each round, and of the release at the end. `failure`: a step failed. `waiting`:
    the champion waits for approval."""
