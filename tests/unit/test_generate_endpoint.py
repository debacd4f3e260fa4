"""The generate step with an endpoint that speaks OpenAI's API: every fault, and nothing paid twice."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from components.contracts.recipe_file import parse_recipe
from components.contracts.summaries import GenerateSummary
from components.errors import RatchetError, Transient, UserError
from components.generate.step import GenerateInputs, run
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary
from tests.doubles.openai_api import KEY, MODEL, Fault, OpenAiApi, refusal
from tests.unit.generations import PROMPTS, begun, samples_of


@pytest.fixture
def endpoint() -> Iterator[OpenAiApi]:
    server = OpenAiApi()
    yield server
    server.close()


def ask_endpoint(
    context: Context, endpoint: OpenAiApi, *, model: str = MODEL, **settings: Any
) -> Receipt:
    """One shard of a round that the endpoint answers: 3 samples of 24 prompts."""
    environment = {**endpoint.environment, **settings.pop("environment", {})}
    asked = {
        "model": model,
        "concurrency": 4,
        "timeout_seconds": 0.4,
        "max_retries": 2,
        **settings.pop("asked", {}),
    }
    state = begun(context, engine="openai", endpoint=asked, **settings)
    return run(GenerateInputs(state, 0), dataclasses.replace(context, environment=environment))


def stored_text(context: Context) -> str:
    """Everything in the store, as text."""
    return "".join(context.store.get_bytes(key).decode("latin-1") for key in context.store.list(""))


def test_answers_come_from_the_endpoint_with_a_seed_each(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.thinks_seconds = 0.01
    receipt = ask_endpoint(context, endpoint)
    drawn = samples_of(context, receipt)
    assert len(drawn) == len(endpoint.payloads) == 72
    assert len({payload["seed"] for payload in endpoint.payloads}) == 72
    for sample in drawn.values():
        assert sample.text == f"{sample.seed % 2**31}!"
        assert sample.finished == bool(sample.seed % 2**31 % 5)
        assert sample.num_tokens == 7
    assert {"model", "messages", "temperature", "top_p", "max_tokens", "seed"} == set(
        endpoint.payloads[0]
    )
    assert endpoint.payloads[0]["max_tokens"] == 12
    assert {payload["messages"][0]["content"] for payload in endpoint.payloads} == {
        one.text for one in PROMPTS
    }
    assert 2 <= endpoint.most_at_once <= 4
    assert read_summary(receipt, GenerateSummary).engine == "openai"
    assert read_summary(receipt, GenerateSummary).model == MODEL
    assert KEY not in stored_text(context)
    assert "127.0.0.1" not in stored_text(context)


def test_half_an_emoji_is_kept_as_a_sign_that_can_be_stored(
    context: Context, endpoint: OpenAiApi
) -> None:
    whole = endpoint.completion

    def cut_off(payload: dict[str, Any]) -> dict[str, Any]:
        completion = whole(payload)
        completion["choices"][0]["message"]["content"] = "nice \ud83d"
        return completion

    endpoint.completion = cut_off  # type: ignore[method-assign]
    drawn = samples_of(context, ask_endpoint(context, endpoint))
    assert {sample.text for sample in drawn.values()} == {"nice \ufffd"}
    asked = len(endpoint.payloads)
    ask_endpoint(context, endpoint)
    assert len(endpoint.payloads) == asked


def test_an_endpoint_that_counts_no_tokens_is_estimated(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.counts_tokens = False
    for sample in samples_of(context, ask_endpoint(context, endpoint)).values():
        assert sample.num_tokens == -(-len(sample.text) // 4)


BUSY = refusal(429, "rate_limit_exceeded", "slow down")


@pytest.mark.parametrize(
    "fault",
    [BUSY, refusal(500, "oops", "oops"), (503, b"<html>"), "closed", "broken", "slow"],
    ids=str,
)
def test_what_passes_is_tried_again(context: Context, endpoint: OpenAiApi, fault: Fault) -> None:
    expected = samples_of(context, ask_endpoint(context, endpoint, prompts=PROMPTS[:2]))
    endpoint.faults = [fault]
    receipt = ask_endpoint(context, endpoint, prompts=PROMPTS[2:4])
    assert len(samples_of(context, receipt)) == len(expected) == 6
    assert len(endpoint.payloads) == 6 + 7


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (BUSY, "is busy or failing (Error code: 429"),
        (refusal(500, "oops", "oops"), "is busy or failing"),
        ((503, b"<html>"), "is busy or failing"),
        ("closed", "cannot be reached"),
        ("broken", "cannot be reached"),
        ("slow", "did not answer within 0.4 s, 1 times"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_to_be_tried_later(
    context: Context, endpoint: OpenAiApi, fault: Fault, said: str
) -> None:
    endpoint.always = fault
    with pytest.raises(Transient) as error:
        ask_endpoint(context, endpoint, prompts=PROMPTS[:2], asked={"max_retries": 0})
    assert said in str(error.value)
    told(error.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refusal(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"), "refuses the key"),
        (refusal(403, "denied", "not for you"), "refuses the key"),
        (refusal(404, "model_not_found", "no such model"), f"knows no model '{MODEL}'"),
        (refusal(400, "bad", "temperature is\ntoo high"), "refuses the request"),
        (refusal(422, "bad", "unprocessable"), "refuses the request"),
        (refusal(429, "insufficient_quota", "pay first"), "has no quota left"),
        ((200, b"<html>welcome</html>"), "is OPENAI_BASE_URL right"),
        ((200, b"{"), "is OPENAI_BASE_URL right"),
        ((200, {"choices": []}), "is OPENAI_BASE_URL right"),
        ((200, {"error": "no"}), "is OPENAI_BASE_URL right"),
    ],
    ids=str,
)
def test_what_the_user_must_mend_ends_at_once(
    context: Context, endpoint: OpenAiApi, fault: Fault, said: str
) -> None:
    endpoint.always = fault
    with pytest.raises(UserError) as error:
        ask_endpoint(context, endpoint, prompts=PROMPTS[:2], asked={"concurrency": 1})
    assert said in str(error.value)
    told(error.value)
    assert len(endpoint.payloads) <= 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refusal(400, "content_filter", "filtered due to the prompt"), "refused (content policy)"),
        (refusal(400, "context_length_exceeded", "at most 4096"), "refused (context length)"),
        (
            refusal(400, "invalid_value", "messages[0] holds a zero byte"),
            "refused: Error code: 400",
        ),
        (refusal(500, "oops", "context size exceeded"), "refused (context length)"),
        ((422, {"detail": "Input is too long for requested model."}), "refused (context length)"),
        ((200, {"error": {"code": 403, "message": "flagged"}}), "refused (content policy)"),
    ],
    ids=str,
)
def test_one_refused_prompt_is_set_aside_with_the_endpoints_words(
    context: Context, endpoint: OpenAiApi, fault: Fault, said: str
) -> None:
    refused = PROMPTS[1].text

    def refuses_one(payload: dict[str, Any]) -> Fault | None:
        return fault if payload["messages"][-1]["content"] == refused else None

    endpoint.fault_of = refuses_one
    receipt = ask_endpoint(context, endpoint, prompts=PROMPTS[:3], asked={"max_retries": 6})
    drawn = samples_of(context, receipt)
    assert len(drawn) == 9
    set_aside = [one for one in drawn.values() if one.no_answer]
    assert {one.prompt_id for one in set_aside} == {PROMPTS[1].id}
    assert len(set_aside) == 3
    for sample in set_aside:
        assert (sample.text, sample.finished, sample.num_tokens) == ("", False, 0)
        assert sample.no_answer.startswith(said)
    summary = read_summary(receipt, GenerateSummary)
    assert (summary.generated, summary.no_answer) == (9, 3)
    others = [one for one in drawn.values() if not one.no_answer]
    assert summary.truncated == sum(not one.finished for one in others)
    assert summary.finished_share == sum(one.finished for one in others) / 6
    assert len(endpoint.payloads) == 9, "a refusal is not asked for again"
    assert len(list(context.store.list("replay/"))) == 6, "a refusal is not kept for ever"


def test_which_parameters_are_sent_is_a_matter_of_the_recipe(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.completion = completion_of("5")  # type: ignore[method-assign]
    asked = {
        "max_tokens_parameter": "max_completion_tokens",
        "parameters": {"temperature": None, "seed": None, "reasoning_effort": "low", "top_p": 0.5},
    }
    drawn = samples_of(context, ask_endpoint(context, endpoint, prompts=PROMPTS[:2], asked=asked))
    assert {one.text for one in drawn.values()} == {"5"}
    for payload in endpoint.payloads:
        names = {"model", "messages", "max_completion_tokens", "reasoning_effort", "top_p"}
        assert set(payload) == names
        assert payload["max_completion_tokens"] == 12
        assert payload["top_p"] == 0.5
    for name in ("messages", "model", "stream", "n"):
        with pytest.raises(UserError, match=f"{name} is no parameter to choose"):
            ask_endpoint(context, endpoint, asked={"parameters": {name: 1}})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            refusal(
                400,
                "unsupported_parameter",
                "Unsupported parameter: 'max_tokens' is not "
                "supported with this model. Use 'max_completion_tokens' instead.",
            ),
            "set generate.endpoint.max_tokens_parameter to max_completion_tokens",
        ),
        (
            refusal(400, "unsupported_value", "'temperature' does not support 0.7 with this model"),
            "set generate.endpoint.parameters.temperature to null",
        ),
        (
            (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no"}]}),
            "seed: no); set generate.endpoint.parameters.seed to null",
        ),
        (
            (
                422,
                {
                    "object": "error",
                    "message": {
                        "detail": [{"loc": ["body", "top_p"], "msg": "Input should be less than 1"}]
                    },
                },
            ),
            "top_p: Input should be less than 1); set generate.endpoint.parameters.top_p to null",
        ),
    ],
    ids=str,
)
def test_a_refused_parameter_is_told_with_the_key_that_helps(
    context: Context, endpoint: OpenAiApi, fault: Fault, said: str
) -> None:
    endpoint.always = fault
    with pytest.raises(UserError) as error:
        ask_endpoint(context, endpoint, prompts=PROMPTS[:3], asked={"concurrency": 8})
    assert said in str(error.value)
    assert len(endpoint.payloads) == 1, "a request that is wrong is told after one"
    told(error.value)


def completion_of(content: Any, finish: Any = "stop", **message: Any) -> Any:
    """A function that answers each request alike, in the form of a chat completion."""

    def completion(payload: dict[str, Any]) -> dict[str, Any]:
        turn = {"role": "assistant", "content": content, **message}
        choice = {"index": 0, "finish_reason": finish, "message": turn}
        return {"id": "x", "model": payload["model"], "choices": [choice]}

    return completion


def test_after_the_first_answer_all_that_waited_are_asked_at_once(
    context: Context, endpoint: OpenAiApi
) -> None:
    three_wait = threading.Event()
    answered = completion_of("5")

    def completion(payload: dict[str, Any]) -> dict[str, Any]:
        if len(endpoint.payloads) >= 4:
            three_wait.set()
        if len(endpoint.payloads) > 1:
            # Each of these three gets its answer only while the two others wait for theirs.
            assert three_wait.wait(55)
        body: dict[str, Any] = answered(payload)
        return body

    endpoint.completion = completion  # type: ignore[method-assign]
    asked = {"timeout_seconds": 60, "max_retries": 0}
    receipt = ask_endpoint(context, endpoint, plan={"samples_per_prompt": 1}, asked=asked)
    assert len(samples_of(context, receipt)) == len(PROMPTS)


def test_an_answer_that_is_all_thought_is_no_finished_empty_answer(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.completion = completion_of(None, reasoning_content="2+3 is 5")  # type: ignore[method-assign]
    receipt = ask_endpoint(context, endpoint, prompts=PROMPTS[:2])
    for sample in samples_of(context, receipt).values():
        assert not sample.finished
        assert "thoughts in `reasoning_content`" in sample.no_answer
    assert read_summary(receipt, GenerateSummary).no_answer == 6
    # It was paid for, so it is kept like any answer.
    assert len(list(context.store.list("replay/"))) == 6


def test_a_wrong_model_or_key_is_named(context: Context, endpoint: OpenAiApi) -> None:
    with pytest.raises(UserError, match="knows no model 'teacher-2'"):
        ask_endpoint(context, endpoint, model="teacher-2")
    with pytest.raises(UserError, match="refuses the key") as error:
        ask_endpoint(context, endpoint, environment={"OPENAI_API_KEY": "sk-another-secret"})
    assert "sk-another-secret" not in str(error.value)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        ask_endpoint(context, endpoint, environment={"OPENAI_API_KEY": ""})


def test_a_name_and_password_in_the_address_are_not_told(
    context: Context, endpoint: OpenAiApi
) -> None:
    address = endpoint.environment["OPENAI_BASE_URL"].replace("http://", "http://me:secret@")
    endpoint.always = refusal(404, "none", "none")
    with pytest.raises(UserError) as error:
        ask_endpoint(context, endpoint, environment={"OPENAI_BASE_URL": address})
    assert "secret" not in str(error.value)


def test_no_answer_is_paid_for_twice(context: Context, endpoint: OpenAiApi) -> None:
    endpoint.answers_left = 30
    with pytest.raises(Transient):
        ask_endpoint(context, endpoint, asked={"max_retries": 0, "concurrency": 2})
    assert len(list(context.store.list("replay/"))) == 30
    endpoint.answers_left = None
    endpoint.payloads.clear()
    receipt = ask_endpoint(context, endpoint)
    assert len(endpoint.payloads) == 72 - 30
    assert len(samples_of(context, receipt)) == 72
    # Other work that asks the same is answered from what is kept: here, the same round in other
    # shards.
    endpoint.payloads.clear()
    state = begun(
        context,
        engine="openai",
        shards=2,
        endpoint={"model": MODEL, "concurrency": 4, "timeout_seconds": 0.4, "max_retries": 2},
    )
    surroundings = dataclasses.replace(context, environment=endpoint.environment)
    parts = [run(GenerateInputs(state, shard), surroundings) for shard in range(2)]
    assert samples_of(context, *parts) == samples_of(context, receipt)
    assert endpoint.payloads == []


def test_a_damaged_kept_answer_is_asked_for_again(context: Context, endpoint: OpenAiApi) -> None:
    expected = samples_of(context, ask_endpoint(context, endpoint, prompts=PROMPTS[:1]))
    first, second, _ = sorted(context.store.list("replay/"))
    kept = json.loads(context.store.get_bytes(first))
    context.store.put_bytes(first, b"{")
    context.store.put_bytes(second, json.dumps({**kept, "text": "another answer"}).encode())
    endpoint.payloads.clear()
    receipt = ask_endpoint(
        context, endpoint, prompts=PROMPTS[:1], max_new_tokens=12, shards=1, top_k=3
    )
    assert samples_of(context, receipt) == expected
    assert len(endpoint.payloads) == 2


def told(error: RatchetError) -> None:
    """A message fits one line, says where, and shows no secret."""
    text = str(error)
    assert "\n" not in text
    assert "generate.endpoint http://127.0.0.1:" in text
    assert KEY not in text


def test_engine_and_endpoint_belong_together() -> None:
    base = {
        "name": "x",
        "data": {"sources": [{"uri": "file:///d"}]},
        "decide": {"goal": {"threshold": 0.5}},
    }
    for section in (
        {"engine": "openai"},
        {"endpoint": {"model": "m"}},
        {"engine": "vllm", "endpoint": {"model": "m"}},
    ):
        with pytest.raises(UserError, match="give both or neither"):
            parse_recipe({**base, "generate": section})
