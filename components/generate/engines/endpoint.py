"""Engine `openai`: a model behind an endpoint for chat completions; no answer is paid twice.

Every answer is stored under the digest of its request (`replay/…`) before it is used: a shard that
is started again, or another campaign with the same request, reads it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from components.canonical import canonical_json, digest_of, whole_characters
from components.contracts.rows import Sample
from components.contracts.summaries.generate import EngineFacts
from components.errors import Corrupt, Missing, RatchetError, Transient, UserError
from components.generate.batches import Ask
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.storage import keys

MAX_SEED = 2**31
"""Endpoints differ in the seeds they accept; all accept seeds below this."""
MAX_ERROR_CHARACTERS = 200
"""Characters of a server's error in a message."""


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


class EndpointEngine:
    """An engine that sends `concurrency` requests at a time.

    The `openai` package retries errors that may pass.
    """

    def __init__(self, context: Context, campaign: Campaign) -> None:
        """Raise UserError without the package or a key."""
        try:
            import openai
        except ImportError:
            raise UserError(
                "generate.engine is openai: install the Python package `openai`"
            ) from None
        endpoint = campaign.recipe.generate.endpoint
        assert endpoint is not None
        self._context = context
        self._campaign = campaign
        self._endpoint = endpoint
        self._key = context.environment.get("OPENAI_API_KEY", "")
        if not self._key:
            raise UserError(
                "generate.engine is openai and OPENAI_API_KEY is not set: "
                "set it (to any word, if the endpoint wants none), "
                "and OPENAI_BASE_URL unless the endpoint is OpenAI's own"
            )
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=context.environment.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
            timeout=endpoint.timeout_seconds,
            max_retries=endpoint.max_retries,
        )
        # True once an answer was understood: then the address is right, see `_malformed`.
        self._answered = False
        self._failure: RatchetError | None = None

    @property
    def about(self) -> EngineFacts:
        """The model's name at the endpoint."""
        return EngineFacts(model=self._endpoint.model)

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """Return one sample per ask, in order. After a failure no new request is sent.

        Raises:
            UserError: The endpoint refuses the key, the model or the request.
            Transient: The endpoint fails for now, after all retries.
        """
        with ThreadPoolExecutor(self._endpoint.concurrency, thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(self._sample_unless_failed, ask) for ask in asks]
            for num_done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_answers(num_done)
        return [future.result() for future in futures]

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
            reply = self._request(payload, ask.index)
            self._context.store.put_bytes(address, canonical_json(reply.model_dump(mode="json")))
        return Sample(
            prompt_id=ask.prompt.id,
            index=ask.index,
            seed=ask.seed,
            text=reply.text,
            num_tokens=reply.num_tokens,
            finished=reply.finished,
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
        return {
            "model": self._endpoint.model,
            "messages": messages,
            "temperature": self._campaign.state.plan.temperature,
            "top_p": section.top_p,
            "max_tokens": section.max_new_tokens,
            "seed": ask.seed % MAX_SEED,
        }

    def _stored_reply(self, address: str, payload: dict[str, Any], index: int) -> Reply | None:
        """Return the stored answer; None if there is none, or none that fits (noted)."""
        try:
            reply = Reply.model_validate_json(self._context.store.get_bytes(address))
        except Missing:
            return None
        except (ValidationError, Corrupt):
            reply = None
        if reply is None or reply.payload != payload or reply.index != index:
            self._context.progress.note(f"kept answer {address} is damaged: it is asked for again")
            return None
        return reply

    def _request(self, payload: dict[str, Any], index: int) -> Reply:
        """Return the endpoint's answer."""
        with self._failures():
            completion = self._client.chat.completions.create(**payload)
        try:
            choice = completion.choices[0]
            text = (choice.message.content or "").strip()
            finished = choice.finish_reason == "stop"
            usage = completion.usage
            counted_tokens = usage.completion_tokens if usage is not None else None
        except (AttributeError, TypeError, IndexError):
            raise self._malformed("its answer is no chat completion") from None
        self._answered = True
        # Half an emoji (`\ud83d`, cut off in the middle) is no text and could not be stored.
        text = whole_characters(text)
        # Without a count by the endpoint, a token is taken to be about four characters.
        num_tokens = counted_tokens if isinstance(counted_tokens, int) else math.ceil(len(text) / 4)
        return Reply(
            payload=payload, index=index, text=text, num_tokens=num_tokens, finished=finished
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the package, after its retries, into UserError or Transient.

        The message is one line, without the key.
        """
        import openai

        endpoint = f"generate.endpoint {self._address_shown()}"
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"{endpoint} refuses the key ({self._words(error)}): set OPENAI_API_KEY"
            ) from None
        except openai.NotFoundError as error:
            raise UserError(
                f"{endpoint} knows no model {self._endpoint.model!r}, or the address is wrong "
                f"({self._words(error)}): check generate.endpoint.model and OPENAI_BASE_URL"
            ) from None
        except openai.APITimeoutError:
            raise Transient(
                f"{endpoint} did not answer within {self._endpoint.timeout_seconds:g} s, "
                f"{self._endpoint.max_retries + 1} times"
            ) from None
        except openai.APIConnectionError as error:
            raise Transient(
                f"{endpoint} cannot be reached ({self._words(error.__cause__ or error)})"
            ) from None
        except (openai.RateLimitError, openai.InternalServerError, openai.ConflictError) as error:
            # Sent as 429 as well, but no pause mends it.
            if error.code == "insufficient_quota":
                raise UserError(
                    f"{endpoint}: the account has no quota left ({self._words(error)})"
                ) from None
            raise Transient(f"{endpoint} is busy or failing ({self._words(error)})") from None
        except openai.APIStatusError as error:
            # Request timeout and "too early": the package has no class for them.
            if error.status_code in (408, 425):
                raise Transient(f"{endpoint} is busy or failing ({self._words(error)})") from None
            raise UserError(f"{endpoint} refuses the request ({self._words(error)})") from None
        # ValueError: a body that is announced as JSON and is none.
        except (openai.APIError, ValueError) as error:
            raise self._malformed(self._words(error)) from None

    def _malformed(self, reason: str) -> UserError | Transient:
        """Return the error for an answer that is no chat completion."""
        text = f"generate.endpoint {self._address_shown()}: {reason}"
        # Once another answer was right, the address is right: this one was garbled on its way.
        if self._answered:
            return Transient(text)
        return UserError(f"{text}; is OPENAI_BASE_URL right (…/v1)?")

    def _address_shown(self) -> str:
        """Return the endpoint's URL without a user name, password or query that it may hold."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def _words(self, error: BaseException) -> str:
        """Return the server's words on one line, without the key."""
        words = " ".join(str(error).split()).replace(self._key, "***")
        return "".join(letter for letter in words if letter.isprintable())[:MAX_ERROR_CHARACTERS]
