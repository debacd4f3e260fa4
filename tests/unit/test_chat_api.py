"""Answers and errors of endpoints, in the forms that servers give them (named at each)."""

from __future__ import annotations

from typing import Any

import pytest

from components.chat_api.replies import read_reply
from components.chat_api.server_errors import read_error


def completion(
    message: object, finish: object = "stop", **more: object
) -> dict[str, Any]:
    """A chat completion of one choice."""
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {"object": "chat.completion", "choices": [choice], **more}


def turn(content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


ENDED = [
    "stop",
    "end_turn",
    "eos",
    "eos_token",
    "stop_sequence",
    "FinishReason.STOP",
    "tool_calls",
    "something new",
    "",
    None,
    {"type": "stop", "matched": 2},
]
CUT_OFF = [
    "length",
    "max_tokens",
    "MAX_TOKENS",
    "FinishReason.MAX_TOKENS",
    "model_length",
    "max_output_tokens",
    "model_context_window_exceeded",
    {"type": "length", "length": 64},
]
BLOCKED = [
    "content_filter",
    "SAFETY",
    "RECITATION",
    "sensitive",
    "refusal",
    "guardrail-intervened",
]


def test_only_a_limit_cuts_an_answer_off() -> None:
    for finish in (*ENDED, *CUT_OFF):
        reply = read_reply(completion(turn("5"), finish))
        assert reply is not None
        assert (reply.text, reply.no_answer) == ("5", "")
        assert reply.cut_off == (finish in CUT_OFF), finish
    for finish in BLOCKED:
        reply = read_reply(completion(turn("5"), finish))
        assert reply is not None
        assert reply.text == ""
        assert reply.no_answer.startswith("refused (content policy)"), finish


def test_without_a_reason_the_count_of_tokens_tells_whether_an_answer_was_cut_off() -> (
    None
):
    for num_tokens, cut_off in ((7, False), (8, True)):
        document = completion(turn("5"), None, usage={"completion_tokens": num_tokens})
        reply = read_reply(document, max_tokens=8)
        assert reply is not None
        assert (reply.cut_off, reply.num_tokens) == (cut_off, num_tokens)


@pytest.mark.parametrize(
    "message",
    [
        turn("5"),
        turn([{"type": "text", "text": "5"}]),
        turn(["5"]),
        turn([{"type": "output_text", "text": "5"}]),
        turn({"type": "text", "text": "5"}),
        turn([{"type": "text", "text": {"value": "5", "annotations": []}}]),
        # Mistral's reasoning models.
        turn(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2+3"}]},
                {"type": "text", "text": "5"},
            ]
        ),
        turn("5", reasoning_content="2+3"),
        turn("5", tool_calls=[]),
    ],
    ids=str,
)
def test_text_is_read_from_parts_and_thoughts_are_none_of_it(
    message: dict[str, Any],
) -> None:
    reply = read_reply(completion(message))
    assert reply is not None
    assert (reply.text, reply.no_answer) == ("5", "")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            turn(None, reasoning_content="2+3"),
            "3 characters of thoughts in `reasoning_content`",
        ),
        (turn("", reasoning="2+3"), "thoughts in `reasoning`"),
        (turn("\n", thinking="2+3"), "thoughts in `thinking`"),
        (
            {"role": "assistant", "reasoning_content": "2+3"},
            "thoughts in `reasoning_content`",
        ),
        (turn([{"type": "thinking", "thinking": "2+3"}]), "no text in the parts"),
        (turn(None, tool_calls=[{"id": "1"}]), "a call of a tool"),
        (turn(None, refusal="I cannot\nhelp"), "refused: I cannot help"),
    ],
    ids=str,
)
def test_a_message_without_text_says_why(message: dict[str, Any], reason: str) -> None:
    reply = read_reply(completion(message))
    assert reply is not None
    assert reason in reply.no_answer
    # Cut off in the middle of its thoughts, it is an answer that is cut off.
    cut = read_reply(completion(message, "length"))
    assert cut is not None
    assert (cut.cut_off, cut.no_answer) == (True, "")


def test_half_a_character_and_the_older_completions_are_read() -> None:
    reply = read_reply(completion(turn("nice \ud83d")))
    assert reply is not None
    assert reply.text == "nice \ufffd"
    older = read_reply({"choices": [{"text": "5", "finish_reason": "length"}]})
    assert older is not None
    assert (older.text, older.cut_off) == ("5", True)
    # A model that says nothing has said nothing.
    silent = read_reply(completion(turn(None)))
    assert silent is not None
    assert (silent.text, silent.no_answer) == ("", "")


@pytest.mark.parametrize(
    "document",
    [
        None,
        "<html>",
        [],
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "5"}]},
        {"choices": {"0": {}}},
        {"error": "no"},
    ],
    ids=str,
)
def test_what_is_no_chat_completion_is_none(document: object) -> None:
    assert read_reply(document) is None


TOO_LONG = {
    "OpenAI": {
        "error": {
            "message": "This model's maximum context length is 4096 tokens. However, your messages "
            "resulted in 5011 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    "vLLM": {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, your request has "
        "5000 input tokens.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    "vLLM, prompt": {
        "error": {"message": "The decoder prompt is too long: 5000", "code": 400}
    },
    "SGLang": {
        "object": "error",
        "message": "The input (5000 tokens) is longer than the model's context length (4096).",
        "code": 400,
    },
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (4476 tokens) exceeds the available context size (4096 tokens)",
            "type": "exceed_context_size_error",
            "n_ctx": 4096,
        }
    },
    "TGI": {
        "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
        "Given: 5000 `inputs` tokens and 64 `max_new_tokens`",
        "error_type": "validation",
    },
    "LiteLLM": {
        "error": {
            "message": "litellm.ContextWindowExceededError: litellm.BadRequestError: hosted_vllm",
            "type": None,
            "param": None,
            "code": "400",
        }
    },
    "Ollama": {"error": {"message": "the input length exceeds the context length"}},
    "Anthropic": {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "prompt is too long: 205000 tokens > 200000 maximum",
        },
    },
    "Bedrock gateway": {
        "detail": "ValidationException: Input is too long for requested model."
    },
    "Mistral": {
        "object": "error",
        "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context",
        "code": "3051",
    },
    "Gemini": [
        {
            "error": {
                "code": 400,
                "message": "The input token count (1200000) exceeds the maximum number of tokens.",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    "Groq": {
        "error": {"message": "Please reduce the length of the messages or completion."}
    },
    "xAI": {
        "error": "This model's maximum prompt length is 131072 but the request has 537812"
    },
    "DashScope": {"error": {"message": "Range of input length should be [1, 30720]"}},
}
AGAINST_POLICY = {
    "Azure": {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's "
            "content management policy.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    },
    "OpenAI": {
        "error": {
            "message": "Invalid prompt: your prompt was flagged as potentially violating our "
            "usage policy.",
            "code": "invalid_prompt",
        }
    },
    "LiteLLM": {
        "error": {"message": "litellm.ContentPolicyViolationError: no", "code": "400"}
    },
    "OpenRouter": {
        "error": {
            "code": 403,
            "message": "The model requires moderation. Your input was flagged",
            "metadata": {"reasons": ["violence"]},
        }
    },
    "DashScope": {
        "error": {
            "code": "data_inspection_failed",
            "message": "Input data may contain inappropriate content.",
        }
    },
    "Moonshot": {"error": {"message": "rejected because it was considered high risk"}},
    "Zhipu": {
        "error": {
            "code": "1301",
            "message": "\u53ef\u80fd\u5305\u542b\u654f\u611f\u5185",
        }
    },
    "Bedrock": {"detail": "Blocked by guardrail gr-1"},
}


def test_a_prompt_that_a_server_refuses_is_told_from_a_request_that_is_wrong() -> None:
    for server, document in TOO_LONG.items():
        error = read_error(document)
        assert error is not None, server
        for status in (400, 413, 422, 500):
            assert error.refused_prompt(status) == "refused (context length)", server
        assert error.refused_prompt(401) == error.refused_prompt(404) == ""
    for server, document in AGAINST_POLICY.items():
        error = read_error(document)
        assert error is not None, server
        for status in (400, 403):
            assert error.refused_prompt(status) == "refused (content policy)", server
    for words in (
        "temperature is too high",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "Unsupported parameter: 'max_tokens'",
        "invalid model name",
        "Unknown field: top_k",
    ):
        error = read_error({"error": {"message": words}})
        assert error is not None
        assert error.refused_prompt(400) == "", words


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        # OpenRouter.
        (
            {"error": {"code": 429, "message": "Rate limit exceeded"}},
            429,
            "Rate limit exceeded",
        ),
        (
            {
                "error": {
                    "code": 502,
                    "message": "Provider returned error",
                    "metadata": {"raw": "upstream is gone", "provider_name": "x"},
                }
            },
            502,
            "Provider returned error (upstream is gone)",
        ),
        (
            {
                "choices": [
                    {
                        "finish_reason": "error",
                        "message": {"content": "Once upon"},
                        "error": {"code": 503, "message": "No instances available"},
                    }
                ]
            },
            503,
            "No instances available",
        ),
        ({"choices": [{"finish_reason": "abort"}]}, 502, "finish_reason abort"),
        (
            {"choices": [{"finish_reason": "insufficient_system_resource"}]},
            502,
            "finish_reason insufficient_system_resource",
        ),
        (
            {"choices": None, "code": "rate_limit_daily", "message": "later"},
            502,
            "later",
        ),
        ({"choices": None}, 502, "choices is null"),
        # MiniMax.
        (
            {
                "choices": None,
                "base_resp": {"status_code": 1002, "status_msg": "rate limit"},
            },
            503,
            "rate limit",
        ),
        # TGI.
        (
            {"error": "Model is overloaded", "error_type": "overloaded"},
            503,
            "Model is overloaded",
        ),
        # llama.cpp while it loads.
        (
            {
                "error": {
                    "code": 503,
                    "message": "Loading model",
                    "type": "unavailable_error",
                }
            },
            503,
            "Loading model",
        ),
        (
            {"error": {"message": "Insufficient Balance", "code": 402}},
            402,
            "Insufficient Balance",
        ),
        ({"error": {"message": "slow", "code": "429"}}, 429, "slow"),
        (
            {"error": {"message": "litellm.Timeout: timed out"}},
            503,
            "litellm.Timeout: timed out",
        ),
        ({"error": "no"}, None, "no"),
        ({"detail": "Not Found"}, None, "Not Found"),
    ],
    ids=str,
)
def test_an_error_inside_a_200_is_told_with_the_status_that_it_means(
    document: object, status: int | None, words: str
) -> None:
    error = read_error(document)
    assert error is not None
    assert (error.implied_status, error.words) == (status, words)


def test_an_answer_is_no_error_whatever_stands_beside_it() -> None:
    for name, value in (
        ("error", None),
        ("error", {}),
        ("message", "hello"),
        ("detail", "5"),
    ):
        assert read_error({**completion(turn("5")), name: value}) is None
    documents: tuple[object, ...] = (None, "<html>", [], {}, {"choices": []}, 5)
    for document in documents:
        assert read_error(document) is None
