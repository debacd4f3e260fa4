"""Samples with their prompt, their scores and the vote of the prompt's other samples, and the
signature of a filter."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from components.canonical import normalised_text
from components.contracts.rows import Dropped, Prompt, Sample, prompt_id
from components.errors import Corrupt
from components.verifiers import vote_keys

SampleKey = tuple[str, int]
"""Prompt id and sample index: which sample it is."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """A sample with its prompt, its scores and the vote of the prompt's other samples."""

    prompt: Prompt
    sample: Sample
    text: str
    """The model's answer without surrounding white space: what would be trained on."""
    answer: str
    """Normalised final answer; empty if the text holds none."""
    majority: str
    """The answer most samples of this prompt gave."""
    vote_share: float
    """Share of all samples of this prompt that gave the majority's answer (2210.11610)."""
    is_tied: bool
    """Another answer was given as often: the majority is then the one that was sampled first."""
    num_samples: int
    """Samples drawn for this prompt, unfinished ones too."""
    pass_rate: float | None = None
    """Share of them that the verifier accepted; None before it was asked."""
    weight: float = 1.0
    """How often it is to be drawn, relative to the other accepted rows of its round."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What scorers said: `judge`, `reward`, `influence`, …"""
    hinted: bool = False
    """The model was given the answer as a hint. Such samples of a prompt are a group of their own:
    they vote among themselves and count for no pass rate."""

    @property
    def key(self) -> SampleKey:
        """Which sample it is."""
        return self.prompt.id, self.sample.index

    @property
    def slice(self) -> tuple[str, str]:
        """Task and length, where the prompt is tagged with them."""
        return self.prompt.tags.get("task", ""), self.prompt.tags.get("length", "")


Block = Sequence[ScoredSample]
"""Scored samples in order of prompt id and sample index (which is higher with a hint); all of one
prompt that are still there are in one block."""
BLOCK_SAMPLES = 2048
"""A block is closed at the first prompt after so many samples."""
Outcome = tuple[list[ScoredSample], list[Dropped]]
Filter = Callable[[Block], Outcome]
"""What every filter is: a block in, what it keeps and what it drops with the reason out, no
sample lost."""
Remaining = Callable[[], Iterator[Block]]
"""Begins a pass over all samples that are left when a filter's pass begins."""


def row_key(prompt_text: str, completion: str) -> int:
    """Identity of a row for duplicates, within a round and across rounds: equal keys teach the same
    thing.

    64 bits of a hash: a set of a million of them is 60 MB, and one in 40 million such sets has a
    false match.
    """
    text = f"{prompt_id(prompt_text)}\0{normalised_text(completion)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def make_scored_samples(
    prompts: Mapping[str, Prompt], samples: Iterable[Sample]
) -> list[ScoredSample]:
    """Join samples with their prompts and count votes, ordered by prompt and sample index.

    Answers are counted as one where the prompt's verifier holds them for equal. Unfinished and
    empty answers do not vote but count as samples: a prompt that is mostly not answered has no
    majority to speak of. Of equally frequent answers the majority is the one that was sampled first,
    and the candidates say that it is tied. Raises Corrupt for a sample without a prompt or one that
    comes twice.
    """
    groups: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.prompt_id not in prompts:
            raise Corrupt(
                f"sample {sample.index} answers prompt {sample.prompt_id}, which is not in prompts.jsonl"
            )
        if sample.index in groups[sample.prompt_id]:
            raise Corrupt(f"sample {sample.index} of prompt {sample.prompt_id} comes twice")
        groups[sample.prompt_id][sample.index] = sample
    scored_samples = []
    for identity in sorted(groups):
        own = [groups[identity][index] for index in sorted(groups[identity])]
        answers = vote_keys(prompts[identity], [sample.text for sample in own])
        votes = Counter(
            answer
            for answer, sample in zip(answers, own, strict=True)
            if answer and sample.finished
        )
        majority, count = votes.most_common(1)[0] if votes else ("", 0)
        share = count / len(own)
        is_tied = list(votes.values()).count(count) > 1
        scored_samples += [
            ScoredSample(
                prompt=prompts[identity],
                sample=sample,
                text=sample.text,
                answer=answer,
                majority=majority,
                vote_share=share,
                is_tied=is_tied,
                num_samples=len(own),
            )
            for sample, answer in zip(own, answers, strict=True)
        ]
    return scored_samples


def drop(one: ScoredSample, reason: str, detail: str) -> Dropped:
    """A rejected sample, as it is kept beside the accepted; without the reference answer."""
    row = {"prompt": one.prompt.text, "tags": one.prompt.tags, **one.sample.model_dump(mode="json")}
    if one.hinted:
        row["hinted"] = True
    if one.scores:
        row["scores"] = dict(one.scores)
    return Dropped(reason=reason, detail=detail, row=row)


def split(block: Block, refusal: Callable[[ScoredSample], str], reason: str) -> Outcome:
    """Part samples by what `refusal` says of each: empty keeps it, anything else is the detail
    of the drop."""
    kept, dropped = list[ScoredSample](), list[Dropped]()
    for one in block:
        if detail := refusal(one):
            dropped.append(drop(one, reason, detail))
        else:
            kept.append(one)
    return kept, dropped


def with_score(one: ScoredSample, name: str, score: float) -> ScoredSample:
    """The sample with one more score."""
    return replace(one, scores={**one.scores, name: score})


def by_prompt(block: Block) -> Iterator[list[ScoredSample]]:
    """The samples of a block, prompt by prompt; those with a hint apart, after the others."""
    own: list[ScoredSample] = []
    for one in block:
        if own and (own[0].prompt.id != one.prompt.id or own[0].hinted != one.hinted):
            yield own
            own = []
        own.append(one)
    if own:
        yield own
