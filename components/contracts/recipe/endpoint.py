"""The recipe's description of a model behind an endpoint: who is asked, and with what parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, JsonValue, field_validator

from components.contracts.recipe.section import Positive, Section

FIXED_PARAMETERS = ("model", "messages", "stream", "n")
"""Fields of a request that this project sets: a request is one answer, whole, to one prompt."""


class ChatEndpoint(Section):
    """A model at an endpoint that speaks OpenAI's chat completions."""

    model: str
    """The model's name there."""
    concurrency: Positive = 8
    """Requests under way at once."""
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 120.0
    """Longest time of one request."""
    max_retries: Annotated[int, Field(ge=0)] = 6
    """After a refusal that may pass (429, 5xx, no connection), with growing pauses, or those the
    server asks for."""
    # OpenAI's reasoning models refuse `max_tokens`; most other servers know nothing else.
    max_tokens_parameter: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")] = (
        "max_tokens"
    )
    """Name under which the largest number of tokens is sent, such as `max_completion_tokens`."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to the body of each request: a value is sent, null leaves the parameter out. For
    endpoints that refuse one (`{temperature: null, seed: null}`) or know more
    (`{reasoning_effort: low}`)."""

    @field_validator("parameters", mode="after")
    @classmethod
    def _leaves_the_request(
        cls, parameters: dict[str, JsonValue]
    ) -> dict[str, JsonValue]:
        for name in FIXED_PARAMETERS:
            if name in parameters:
                raise ValueError(
                    f"{name} is no parameter to choose: each request sets it"
                )
        return parameters

    def request(
        self,
        messages: list[dict[str, Any]],
        *,
        max_tokens: int,
        **parameters: JsonValue,
    ) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            messages: The turns so far.
            max_tokens: Longest answer.
            parameters: Everything else that is sent unless `parameters` of the recipe says
                otherwise.
        """
        chosen = {
            **parameters,
            self.max_tokens_parameter: max_tokens,
            **self.parameters,
        }
        sent = {name: value for name, value in chosen.items() if value is not None}
        return {"model": self.model, "messages": messages, **sent}
