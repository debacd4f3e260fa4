"""Engine `openai`: a model behind any endpoint that speaks OpenAI's chat completions, and nothing
paid twice.

Every answer is kept in the store under the digest of its request (`replay/…`), before anything is
made of it: a shard that is started again, or another campaign that asks the same, reads it there.
"""

from __future__ import annotations

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
"""Endpoints differ in the seeds they take; all take these."""
MAX_SAID = 200
"""Characters of a server's words in a message."""


class Reply(BaseModel):
    """A kept answer, with the request it answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    payload: dict[str, Any]
    index: int
    """Which of the samples wanted from this payload."""
    text: str
    num_tokens: int
    finished: bool


class EndpointEngine:
    """Asks `concurrency` requests at a time; the `openai` package retries what may pass."""

    def __init__(self, context: Context, campaign: Campaign) -> None:
        """Raises UserError without the package or a key."""
        try:
            import openai
        except ImportError:
            raise UserError(
                "generate.engine is openai: install the Python package `openai`"
            ) from None
        endpoint = campaign.recipe.generate.endpoint
        assert endpoint is not None
        self._context, self._campaign, self._endpoint = context, campaign, endpoint
        self._key = context.environment.get("OPENAI_API_KEY", "")
        if not self._key:
            raise UserError(
                "generate.engine is openai and OPENAI_API_KEY is not set: set it (to any word, if the endpoint wants "
                "none), and OPENAI_BASE_URL unless the endpoint is OpenAI's own"
            )
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=context.environment.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
            timeout=endpoint.timeout_seconds,
            max_retries=endpoint.max_retries,
        )
        self._answered = False
        self._failure: RatchetError | None = None

    @property
    def about(self) -> EngineFacts:
        """The model's name there."""
        return EngineFacts(model=self._endpoint.model)

    def answer(self, asks: Sequence[Ask], on_answers: Callable[[int], None]) -> list[Sample]:
        """Answers in order. After a failure nothing new is asked; what was answered is kept."""
        with ThreadPoolExecutor(self._endpoint.concurrency, thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(self._one, ask) for ask in asks]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_answers(done)
        return [future.result() for future in futures]

    def _one(self, ask: Ask) -> Sample:
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
        reply = self._kept(address, payload, ask.index)
        if reply is None:
            reply = self._asked(payload, ask.index)
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
        section, plan = self._campaign.recipe.generate, self._campaign.state.plan
        system = self._campaign.recipe.model.system_prompt
        messages: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt.text}]
        if ask.prompt.conversation is not None:
            messages = list(ask.prompt.conversation.messages)
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return {
            "model": self._endpoint.model,
            "messages": messages,
            "temperature": plan.temperature,
            "top_p": section.top_p,
            "max_tokens": section.max_new_tokens,
            "seed": ask.seed % MAX_SEED,
        }

    def _kept(self, address: str, payload: dict[str, Any], index: int) -> Reply | None:
        """The answer that was given before; None if there is none, or (said in a note) none that
        fits."""
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

    def _asked(self, payload: dict[str, Any], index: int) -> Reply:
        with self._failures():
            completion = self._client.chat.completions.create(**payload)
        try:
            choice = completion.choices[0]
            text, finished = (choice.message.content or "").strip(), choice.finish_reason == "stop"
            used = completion.usage.completion_tokens if completion.usage is not None else None
        except (AttributeError, TypeError, IndexError):
            raise self._strange("its answer is no chat completion") from None
        self._answered = True
        # Half an emoji (`\\ud83d`, cut off in the middle) is no text and could not be stored.
        text = whole_characters(text)
        # An endpoint that does not count tokens: about four characters each.
        num_tokens = int(used) if isinstance(used, int) else -(-len(text) // 4)
        return Reply(
            payload=payload, index=index, text=text, num_tokens=num_tokens, finished=finished
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the package raises, after its retries, into UserError or Transient: one line,
        no secret."""
        import openai

        where = f"generate.endpoint {self._shown()}"
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"{where} refuses the key ({self._said(error)}): set OPENAI_API_KEY"
            ) from None
        except openai.NotFoundError as error:
            raise UserError(
                f"{where} knows no model {self._endpoint.model!r}, or the address is wrong ({self._said(error)}): "
                "check generate.endpoint.model and OPENAI_BASE_URL"
            ) from None
        except openai.APITimeoutError:
            raise Transient(
                f"{where} did not answer within {self._endpoint.timeout_seconds:g} s, "
                f"{self._endpoint.max_retries + 1} times"
            ) from None
        except openai.APIConnectionError as error:
            raise Transient(
                f"{where} cannot be reached ({self._said(error.__cause__ or error)})"
            ) from None
        except (openai.RateLimitError, openai.InternalServerError, openai.ConflictError) as error:
            if error.code == "insufficient_quota":
                raise UserError(
                    f"{where}: the account has no quota left ({self._said(error)})"
                ) from None
            raise Transient(f"{where} is busy or failing ({self._said(error)})") from None
        except openai.APIStatusError as error:
            if error.status_code in (408, 425):
                raise Transient(f"{where} is busy or failing ({self._said(error)})") from None
            raise UserError(f"{where} refuses the request ({self._said(error)})") from None
        except (openai.APIError, ValueError) as error:
            raise self._strange(self._said(error)) from None

    def _strange(self, why: str) -> UserError | Transient:
        """An answer in no known form: from the wrong address, or, once others were right, garbled
        on its way."""
        text = f"generate.endpoint {self._shown()}: {why}"
        return (
            Transient(text)
            if self._answered
            else UserError(f"{text}; is OPENAI_BASE_URL right (…/v1)?")
        )

    def _shown(self) -> str:
        """The endpoint for messages, without a name, password or query that its URL may hold."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def _said(self, error: BaseException) -> str:
        """The server's words on one line, without the key."""
        words = " ".join(str(error).split()).replace(self._key, "***")
        return "".join(letter for letter in words if letter.isprintable())[:MAX_SAID]
