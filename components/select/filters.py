"""Filters over samples: each gives back what it keeps and what it drops, with a reason.

All have one signature, so the order they work in is one tuple (FILTERS) and what goes in comes out: kept or dropped.
A filter reads the prompt's reference only through its verifier; what is kept is always the model's own text.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.common.errors import Corrupt
from components.common.recipe import SelectSection
from components.common.records import Dropped, Prompt, Sample, prompt_id
from components.common.verifiers import answer_key, verify
from components.select.dedup import near_duplicates

RowKey = tuple[str, str]
"""Prompt id and normalised completion: equal keys teach the same thing."""


@dataclass(frozen=True)
class Candidate:
    """A sample with its prompt and the vote of the prompt's other samples."""

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

    @property
    def slice(self) -> tuple[str, str]:
        """Task and length, where the prompt is tagged with them."""
        return self.prompt.tags.get("task", ""), self.prompt.tags.get("length", "")


@dataclass(frozen=True)
class Rules:
    """What filters judge by."""

    section: SelectSection
    evaluation_ids: frozenset[str] = frozenset()
    """Ids of the validation and test prompts: none of them may be trained on."""
    human_keys: frozenset[RowKey] = frozenset()
    """Rows that people wrote: a sample that repeats one adds nothing."""


Outcome = tuple[list[Candidate], list[Dropped]]
Filter = Callable[[Sequence[Candidate], Rules], Outcome]


def normalised(text: str) -> str:
    """A text with every run of white space made one space: what exact duplicates are compared by."""
    return " ".join(text.split())


def row_key(prompt_text: str, completion: str) -> RowKey:
    """Identity of a row for duplicates, within a round and across rounds."""
    return prompt_id(prompt_text), normalised(completion)


def make_candidates(prompts: Mapping[str, Prompt], samples: Iterable[Sample]) -> list[Candidate]:
    """Join samples with their prompts and count votes, ordered by prompt and sample index.

    Unfinished and empty answers do not vote but count as samples: a prompt that is mostly not answered has no
    majority to speak of. Of equally frequent answers the one that was sampled first wins. Raises Corrupt for a sample
    without a prompt or one that comes twice.
    """
    groups: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.prompt_id not in prompts:
            raise Corrupt(f"sample {sample.index} answers prompt {sample.prompt_id}, which is not in prompts.jsonl")
        if sample.index in groups[sample.prompt_id]:
            raise Corrupt(f"sample {sample.index} of prompt {sample.prompt_id} comes twice")
        groups[sample.prompt_id][sample.index] = sample
    candidates = []
    for identity in sorted(groups):
        own = [groups[identity][index] for index in sorted(groups[identity])]
        answers = [answer_key(prompts[identity], sample.text) for sample in own]
        votes = Counter(answer for answer, sample in zip(answers, own, strict=True) if answer and sample.finished)
        majority, count = votes.most_common(1)[0] if votes else ("", 0)
        candidates += [
            Candidate(prompts[identity], sample, sample.text.strip(), answer, majority, count / len(own))
            for sample, answer in zip(own, answers, strict=True)
        ]
    return candidates


def apply_filters(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Let every filter work on what the one before it kept. No candidate is lost: kept + dropped = given."""
    kept, dropped = list(candidates), list[Dropped]()
    for one in FILTERS:
        passed, refused = one(kept, rules)
        assert len(passed) + len(refused) == len(kept), f"{one.__name__} lost candidates"
        kept = passed
        dropped += refused
    return kept, dropped


def not_in_evaluation(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop answers to validation and test prompts, by the prompt's id and by the id of its text."""
    return _split(
        candidates,
        lambda one: (
            "its prompt is in validation or test"
            if {one.prompt.id, prompt_id(one.prompt.text)} & rules.evaluation_ids
            else ""
        ),
        "in_evaluation",
    )


def finished(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop answers that were cut off, unless the recipe lets them through."""
    return _split(
        candidates,
        lambda one: (
            f"cut off after {one.sample.num_tokens} tokens"
            if rules.section.require_finished and not one.sample.finished
            else ""
        ),
        "unfinished",
    )


def not_empty(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop answers without any text."""
    return _split(candidates, lambda one: "" if one.text else "no text", "empty")


def verified(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop what the prompt's verifier refuses; keep all if the recipe goes without labels."""
    if not rules.section.verifier:
        return list(candidates), []
    return _split(
        candidates,
        lambda one: "" if verify(one.prompt, one.text) else f"{one.prompt.verifier} refused {one.answer[:200]!r}",
        "verifier",
    )


def agreed(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop minority answers, and all answers of prompts without a clear majority (2210.11610)."""
    least = rules.section.min_vote_share
    if least == 0.0:
        return list(candidates), []

    def refusal(one: Candidate) -> str:
        if not one.answer or one.answer != one.majority:
            return f"{one.answer[:100]!r}; the majority ({one.vote_share:.2f}) says {one.majority[:100]!r}"
        return "" if one.vote_share >= least else f"majority share {one.vote_share:.2f} < {least:.2f}"

    return _split(candidates, refusal, "vote")


def of_usual_length(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop answers far from the median length (characters) of their slice: errors tend to be short (2502.01612)."""
    lengths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in candidates:
        lengths[one.slice].append(len(one.text))
    medians = {name: statistics.median(own) for name, own in lengths.items()}
    low, high = rules.section.min_length_ratio, rules.section.max_length_ratio

    def refusal(one: Candidate) -> str:
        ratio = len(one.text) / max(1, medians[one.slice])
        return "" if low <= ratio <= high else f"{len(one.text)} characters, {ratio:.2f} of the median of its slice"

    return _split(candidates, refusal, "length")


def not_repeated(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop answers that repeat an earlier sample of the same prompt, or a human row."""
    seen: set[RowKey] = set()

    def refusal(one: Candidate) -> str:
        key = row_key(one.prompt.text, one.text)
        if key in rules.human_keys:
            return "repeats a human row"
        if key in seen:
            return "repeats an earlier sample of its prompt"
        seen.add(key)
        return ""

    return _split(candidates, refusal, "duplicate")


def not_nearly_repeated(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Drop near-duplicates of earlier rows, of any prompt (see `dedup`)."""
    if rules.section.minhash_threshold >= 1.0:
        return list(candidates), []
    found = near_duplicates(
        [f"{one.prompt.text}\n{one.text}" for one in candidates],
        [(one.prompt.tags.get("task", ""), one.prompt.id) for one in candidates],
        rules.section.minhash_threshold,
    )
    details: dict[tuple[str, int], str] = {}
    for place, (earlier, jaccard) in found.items():
        one, other = candidates[place], candidates[earlier].sample
        detail = f"Jaccard {jaccard:.2f} to sample {other.index} of prompt {other.prompt_id}"
        details[one.prompt.id, one.sample.index] = detail
    return _split(candidates, lambda one: details.get((one.prompt.id, one.sample.index), ""), "near_duplicate")


def few_per_prompt(candidates: Sequence[Candidate], rules: Rules) -> Outcome:
    """Keep the first answers of each prompt, up to the recipe's cap, so easy prompts do not crowd out others."""
    cap, counts = rules.section.max_per_prompt, Counter[str]()

    def refusal(one: Candidate) -> str:
        counts[one.prompt.id] += 1
        return "" if counts[one.prompt.id] <= cap else f"its prompt has {cap} kept answers already"

    return _split(candidates, refusal, "cap")


FILTERS: tuple[Filter, ...] = (
    not_in_evaluation,
    finished,
    not_empty,
    verified,
    agreed,
    of_usual_length,
    not_repeated,
    not_nearly_repeated,
    few_per_prompt,
)
"""In the order they work: cheap and certain ones first; those that compare rows see only rows worth keeping."""


def _split(candidates: Sequence[Candidate], refusal: Callable[[Candidate], str], reason: str) -> Outcome:
    """Part candidates by what `refusal` says of each: empty keeps it, anything else is the detail of the drop."""
    kept, dropped = list[Candidate](), list[Dropped]()
    for one in candidates:
        detail = refusal(one)
        if detail:
            row = {"prompt": one.prompt.text, "tags": one.prompt.tags, **one.sample.model_dump(mode="json")}
            dropped.append(Dropped(reason=reason, detail=detail, row=row))
        else:
            kept.append(one)
    return kept, dropped
