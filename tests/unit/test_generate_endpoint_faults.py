"""The generate step with an endpoint that fails: what passes is tried again, and what does not is
told."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.summaries import GenerateSummary
from components.errors import Transient, UserError
from components.runtime.context import Context
from components.runtime.receipts import read_summary
from tests.doubles.openai_api import KEY, MODEL, Fault, OpenAiApi, refusal
from tests.unit.asking import ask_endpoint, told
from tests.unit.generations import PROMPTS, samples_of

BUSY = refusal(429, "rate_limit_exceeded", "slow down")


@pytest.mark.parametrize(
    "fault",
    [BUSY, refusal(500, "oops", "oops"), (503, b"<html>"), "closed", "broken", "slow"],
    ids=str,
)
def test_what_passes_is_tried_again(
    context: Context, endpoint: OpenAiApi, fault: Fault
) -> None:
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
        (
            refusal(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"),
            "refuses the key",
        ),
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
        (
            refusal(400, "content_filter", "filtered due to the prompt"),
            "refused (content policy)",
        ),
        (
            refusal(400, "context_length_exceeded", "at most 4096"),
            "refused (context length)",
        ),
        (
            refusal(400, "invalid_value", "messages[0] holds a zero byte"),
            "refused: Error code: 400",
        ),
        (refusal(500, "oops", "context size exceeded"), "refused (context length)"),
        (
            (422, {"detail": "Input is too long for requested model."}),
            "refused (context length)",
        ),
        (
            (200, {"error": {"code": 403, "message": "flagged"}}),
            "refused (content policy)",
        ),
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
    receipt = ask_endpoint(
        context, endpoint, prompts=PROMPTS[:3], asked={"max_retries": 6}
    )
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
    assert len(list(context.store.list("replay/"))) == 6, (
        "a refusal is not kept for ever"
    )


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
            refusal(
                400,
                "unsupported_value",
                "'temperature' does not support 0.7 with this model",
            ),
            "set generate.endpoint.parameters.temperature to null",
        ),
        (
            (
                422,
                {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", "seed"],
                            "msg": "no",
                        }
                    ]
                },
            ),
            "seed: no); set generate.endpoint.parameters.seed to null",
        ),
        (
            (
                422,
                {
                    "object": "error",
                    "message": {
                        "detail": [
                            {
                                "loc": ["body", "top_p"],
                                "msg": "Input should be less than 1",
                            }
                        ]
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


def test_a_wrong_model_or_key_is_named(context: Context, endpoint: OpenAiApi) -> None:
    with pytest.raises(UserError, match="knows no model 'teacher-2'"):
        ask_endpoint(context, endpoint, model="teacher-2")
    with pytest.raises(UserError, match="refuses the key") as error:
        ask_endpoint(
            context, endpoint, environment={"OPENAI_API_KEY": "sk-another-secret"}
        )
    assert "sk-another-secret" not in str(error.value)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        ask_endpoint(context, endpoint, environment={"OPENAI_API_KEY": ""})


def test_a_name_and_password_in_the_address_are_not_told(
    context: Context, endpoint: OpenAiApi
) -> None:
    address = endpoint.environment["OPENAI_BASE_URL"].replace(
        "http://", "http://me:secret@"
    )
    endpoint.always = refusal(404, "none", "none")
    with pytest.raises(UserError) as error:
        ask_endpoint(context, endpoint, environment={"OPENAI_BASE_URL": address})
    assert "secret" not in str(error.value)
