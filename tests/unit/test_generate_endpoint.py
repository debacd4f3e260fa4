"""The generate step with an endpoint that speaks OpenAI's API: its answers, and none paid twice."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

from components.contracts.recipe_file import parse_recipe
from components.contracts.summaries import GenerateSummary
from components.errors import Transient, UserError
from components.generate.step import GenerateInputs, run
from components.runtime.context import Context
from components.runtime.receipts import read_summary
from tests.doubles.openai_api import KEY, MODEL, OpenAiApi
from tests.unit.asking import ask_endpoint, stored_text
from tests.unit.generations import PROMPTS, begun, samples_of


def test_answers_come_from_the_endpoint_with_a_seed_each(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.thinks_seconds = 0.01
    receipt = ask_endpoint(context, endpoint)
    drawn = samples_of(context, receipt)
    # A request whose connection breaks is sent again, with the same seed.
    assert len(drawn) == 72
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


def test_which_parameters_are_sent_is_a_matter_of_the_recipe(
    context: Context, endpoint: OpenAiApi
) -> None:
    endpoint.completion = completion_of("5")  # type: ignore[method-assign]
    asked = {
        "max_tokens_parameter": "max_completion_tokens",
        "parameters": {
            "temperature": None,
            "seed": None,
            "reasoning_effort": "low",
            "top_p": 0.5,
        },
    }
    drawn = samples_of(
        context, ask_endpoint(context, endpoint, prompts=PROMPTS[:2], asked=asked)
    )
    assert {one.text for one in drawn.values()} == {"5"}
    for payload in endpoint.payloads:
        names = {
            "model",
            "messages",
            "max_completion_tokens",
            "reasoning_effort",
            "top_p",
        }
        assert set(payload) == names
        assert payload["max_completion_tokens"] == 12
        assert payload["top_p"] == 0.5
    for name in ("messages", "model", "stream", "n"):
        with pytest.raises(UserError, match=f"{name} is no parameter to choose"):
            ask_endpoint(context, endpoint, asked={"parameters": {name: 1}})


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
    receipt = ask_endpoint(
        context, endpoint, plan={"samples_per_prompt": 1}, asked=asked
    )
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
        endpoint={
            "model": MODEL,
            "concurrency": 4,
            "timeout_seconds": 0.4,
            "max_retries": 2,
        },
    )
    surroundings = dataclasses.replace(context, environment=endpoint.environment)
    parts = [run(GenerateInputs(state, shard), surroundings) for shard in range(2)]
    assert samples_of(context, *parts) == samples_of(context, receipt)
    assert endpoint.payloads == []


def test_a_damaged_kept_answer_is_asked_for_again(
    context: Context, endpoint: OpenAiApi
) -> None:
    expected = samples_of(context, ask_endpoint(context, endpoint, prompts=PROMPTS[:1]))
    first, second, _ = sorted(context.store.list("replay/"))
    kept = json.loads(context.store.get_bytes(first))
    context.store.put_bytes(first, b"{")
    context.store.put_bytes(
        second, json.dumps({**kept, "text": "another answer"}).encode()
    )
    endpoint.payloads.clear()
    receipt = ask_endpoint(
        context, endpoint, prompts=PROMPTS[:1], max_new_tokens=12, shards=1, top_k=3
    )
    assert samples_of(context, receipt) == expected
    assert len(endpoint.payloads) == 2


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
