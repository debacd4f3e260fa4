"""Engine `openai`: a model behind an endpoint for chat completions; no answer is paid twice.

Every answer is stored under the digest of its request (`replay/…`) before it is used: a shard that
is started again, or another campaign with the same request, reads it there.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.canonical import digest_of, sealed, unsealed
from components.chat_api.client import Access, ChatClient, Refusal
from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.errors import Corrupt, Missing, RatchetError, UserError
from components.generate.batches import Ask
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.storage import keys

MAX_SEED = 2**31
"""Endpoints differ in the seeds they accept; all accept seeds below this."""


class Reply(BaseModel):
    """A stored answer, with the request it answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    payload: dict[str, Any]
    index: int
    """Number of the sample among those of its prompt. Equal payloads with other numbers get answers
    of their own."""
    text: str
    num_tokens: int
    finished: bool
    no_answer: str = ""
    """As in `Sample`."""


class EndpointEngine:
    """An engine that sends `concurrency` requests at a time."""

    def __init__(self, context: Context, campaign: Campaign) -> None:
        """Raise UserError without the package or a key."""
        if importlib.util.find_spec("openai") is None:
            raise UserError(
                "generate.engine is openai: install the Python package `openai`"
            )
        endpoint = campaign.recipe.generate.endpoint
        assert endpoint is not None
        self._context = context
        self._campaign = campaign
        self._endpoint = endpoint
        key = context.environment.get("OPENAI_API_KEY", "")
        if not key:
            raise UserError(
                "generate.engine is openai and OPENAI_API_KEY is not set: "
                "set it (to any word, if the endpoint wants none), "
                "and OPENAI_BASE_URL unless the endpoint is OpenAI's own"
            )
        access = Access(
            section="generate.endpoint",
            url=context.environment.get("OPENAI_BASE_URL")
            or "https://api.openai.com/v1",
            url_variable="OPENAI_BASE_URL",
            key=key,
            key_variable="OPENAI_API_KEY",
        )
        self._client = ChatClient(endpoint, access)
        self._failure: RatchetError | None = None

    @property
    def about(self) -> EngineFacts:
        """The model's name at the endpoint."""
        return EngineFacts(model=self._endpoint.model)

    def answer(
        self, asks: Sequence[Ask], on_answers: Callable[[int], None]
    ) -> list[Sample]:
        """Return one sample per ask, in order. After a failure no new request is sent.

        Raises:
            UserError: The endpoint refuses the key, the model or the request.
            Transient: The endpoint fails for now, after all retries.
        """
        with ThreadPoolExecutor(
            self._endpoint.concurrency, thread_name_prefix="endpoint"
        ) as pool:
            # First one sample of each prompt: the client judges by its first answers whether a
            # refusal is about one prompt or about all requests.
            ordered = sorted(asks, key=lambda ask: ask.index)
            future_by_ask = {
                (ask.prompt.id, ask.index): pool.submit(self._sample_unless_failed, ask)
                for ask in ordered
            }
            for num_done, future in enumerate(as_completed(future_by_ask.values()), 1):
                future.result()
                on_answers(num_done)
        return [future_by_ask[ask.prompt.id, ask.index].result() for ask in asks]

    def _sample_unless_failed(self, ask: Ask) -> Sample:
        # Requests that are queued when another one fails must not be sent, and paid, in vain.
        if self._failure is not None:
            raise self._failure
        try:
            return self._sample(ask)
        except RatchetError as error:
            self._failure = error
            raise

    def _sample(self, ask: Ask) -> Sample:
        payload = self._payload(ask)
        address = keys.replay_key(digest_of({"payload": payload, "index": ask.index}))
        reply = self._stored_reply(address, payload, ask.index)
        if reply is None:
            answer = self._replied(payload, ask.index)
            if isinstance(answer, Refusal):
                # Not stored: nothing was paid, and another time the endpoint may answer.
                return _unanswered(ask, answer.reason)
            reply = answer
            self._context.store.put_bytes(
                address, sealed(reply.model_dump(mode="json"))
            )
        return Sample(
            prompt_id=ask.prompt.id,
            index=ask.index,
            seed=ask.seed,
            text=reply.text,
            num_tokens=reply.num_tokens,
            finished=reply.finished,
            no_answer=reply.no_answer,
        )

    def _payload(self, ask: Ask) -> dict[str, Any]:
        section = self._campaign.recipe.generate
        system = self._campaign.recipe.model.system_prompt
        messages: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt.text}]
        if ask.prompt.conversation is not None:
            messages = list(ask.prompt.conversation.messages)
        # A conversation that brings its own system turn keeps it.
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return self._endpoint.request(
            messages,
            max_tokens=section.max_new_tokens,
            temperature=self._campaign.state.plan.temperature,
            top_p=section.top_p,
            seed=ask.seed % MAX_SEED,
        )

    def _stored_reply(
        self, address: str, payload: dict[str, Any], index: int
    ) -> Reply | None:
        """Return the stored answer; None if there is none, or none that fits (noted)."""
        try:
            reply = Reply.model_validate(
                unsealed(self._context.store.get_bytes(address))
            )
        except Missing:
            return None
        except (ValueError, Corrupt):
            reply = None
        if reply is None or reply.payload != payload or reply.index != index:
            self._context.progress.note(
                f"kept answer {address} is damaged: it is asked for again"
            )
            return None
        return reply

    def _replied(self, payload: dict[str, Any], index: int) -> Reply | Refusal:
        """Return the endpoint's answer, or its refusal of the prompt."""
        answer = self._client.ask(payload)
        if isinstance(answer, Refusal):
            return answer
        text = answer.text.strip()
        num_tokens = answer.num_tokens
        if num_tokens is None:
            # A token is taken to be about four characters.
            num_tokens = math.ceil(len(text) / 4)
        return Reply(
            payload=payload,
            index=index,
            text=text,
            num_tokens=num_tokens,
            finished=not answer.cut_off and not answer.no_answer,
            no_answer=answer.no_answer,
        )


def _unanswered(ask: Ask, reason: str) -> Sample:
    return Sample(
        prompt_id=ask.prompt.id,
        index=ask.index,
        seed=ask.seed,
        text="",
        num_tokens=0,
        finished=False,
        no_answer=reason,
    )
