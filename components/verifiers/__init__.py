"""Verifiers: checks of one answer against its prompt, by the name in `Prompt.verifier`.

`verify` says right or wrong; `vote_keys` says which answers of a prompt are the same. Neither
raises on what a model wrote, and neither runs it in this process. They take time in proportion to
its length; `math` gives up on a comparison after 5 seconds. An answer is right by

- `exact`, if it is the reference, but for white space and Unicode forms (composed or not, with or
  without zero-width characters);
- `numeric`, if the number it ends with is the reference's, or within the source's tolerance, in
  whatever notation: `1,450`,
  `10{,}000`, `\\frac12`, `1.5e3`, `2^{10}`, `50%`, "2 million". An expression that is no plain
  number (`3\\sqrt{2}`, `14:30`, "3 or 4") is no answer, and no number is read from a piece of it;
- `choice`, if it names the reference's option by letter, however wrapped (`**B**`, "Option B"), or
  says its text. "A and B" and "I don't know" name none;
- `math`, if it ends with an expression that is equal as mathematics;
- `regex`, if all of it matches the reference, a regular expression;
- `sql`, if the query in it gives the rows that the reference gives, in SQLite;
- `json_schema`, if it is JSON, alone or in a fenced block, that the row's JSON schema accepts;
- `code`, if the Python program in it passes the row's tests, in a confined process;
- `chrf`, `bleu`, `rouge_l`, `wer` or `cer`, if it is near enough to one of its references: a score
  of at least the source's `threshold` (`text_metrics`);
- `task/reverse`, `task/copy`, `task/addition`, if it answers the prompt of the built-in task;
- `reasoning_gym`, if the task's own scorer gives it the full score;
- `my_checker.py:check` or `module:function`, if this function of the user's gives it a score of at
  least the source's `threshold` (`own_checker`).

The final answer of `numeric`, `choice` and `math` stands between `<answer>` tags, else behind
`####`, else in the last `\\boxed{}`, else behind "answer is"; think blocks do not count.
A text without any of these ends with its last number (`numeric`) or is the answer as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from components.contracts.rows import Prompt
from components.contracts.verifier_names import TEXT_METRICS, own_name
from components.errors import UserError
from components.sandbox.verdict import Verdict
from components.verifiers import (
    choice,
    code,
    exact,
    json_schema,
    mathematics,
    numeric,
    own_checker,
    reasoning_gym,
    regex,
    sql,
    text_metrics,
)
from components.verifiers.builtin_tasks import BUILTIN_TASKS
from components.verifiers.final_answer import MAX_ANSWER_CHARACTERS
from components.verifiers.number_tokens import MAX_DIGITS
from components.verifiers.numeric import final_number
from components.verifiers.reasoning_gym import require_gym, scorer_is_safe
from components.verifiers.references import reference_text
from components.verifiers.regex import pattern_problem
from components.verifiers.text_metrics import require_metric

__all__ = [
    "BUILTIN_TASKS",
    "MAX_ANSWER_CHARACTERS",
    "MAX_DIGITS",
    "ONE_BY_ONE",
    "Room",
    "Verdict",
    "answer_key",
    "final_number",
    "pattern_problem",
    "prompt_problem",
    "reference_answer",
    "require_gym",
    "require_metric",
    "scorer_is_safe",
    "verdict_of",
    "verdicts_of",
    "verify",
    "verify_all",
    "vote_keys",
]


@dataclass(frozen=True)
class Verifier:
    """Functions behind a name in `Prompt.verifier`."""

    accepts: Callable[[Prompt, str], bool | Verdict]
    """(prompt, text) → True, or a score with a reason, if the text answers the prompt. Never raises
    on any text."""
    answer_key: Callable[[str], str] = exact.answer_key
    """The normalised final answer of a text; empty if it holds none."""
    group_keys: Callable[[Sequence[str]], list[str]] | None = None
    """Keys of several texts, equal where the verifier holds the answers for equal; None where the
    results of `answer_key` are so already."""
    stated_answer: Callable[[Prompt], str] = lambda prompt: reference_text(
        prompt
    ).strip()
    """The right answer of a prompt in words, without the way to it; empty if there is none."""
    problem: Callable[[Prompt], str] = lambda prompt: ""
    """Why no answer to a prompt can be checked, "" if answers can be."""
    num_processes: int = 0
    """Processes that a check starts for itself alone. Checks by such a verifier can be done side by
    side."""


class Room(NamedTuple):
    """Cores and memory for checks that are done side by side."""

    cores: int = 1
    memory_bytes: int = 0

    def num_checks(self, num_processes: int, memory_mb: int) -> int:
        """Return how many checks fit beside each other, at least 1.

        Args:
            num_processes: of a check; one of them computes at a time.
            memory_mb: that each of them may use.
        """
        check_bytes = num_processes * memory_mb * 2**20
        return max(1, min(self.cores, self.memory_bytes // check_bytes))


def _numeric_groups(texts: Sequence[str]) -> list[str]:
    return numeric.group_keys([numeric.answer_key(text) for text in texts])


def _puzzle_answer(prompt: Prompt) -> str:
    entry = prompt.reference.get("entry")
    answer = entry.get("answer") if isinstance(entry, dict) else None
    return "" if answer is None else str(answer).strip()


_VERIFIERS = {
    "exact": Verifier(exact.accepts),
    "numeric": Verifier(
        numeric.accepts, numeric.answer_key, _numeric_groups, numeric.stated_answer
    ),
    "math": Verifier(
        mathematics.accepts,
        mathematics.answer_key,
        mathematics.group_keys,
        mathematics.stated_answer,
    ),
    "choice": Verifier(
        choice.accepts, choice.answer_key, choice.group_keys, choice.stated_answer
    ),
    "code": Verifier(
        code.verdict, code.answer_key, problem=code.tests_problem, num_processes=2
    ),
    "sql": Verifier(sql.verdict, sql.answer_key, num_processes=1),
    "json_schema": Verifier(
        json_schema.verdict, json_schema.answer_key, problem=json_schema.schema_problem
    ),
    # A regular expression is no answer.
    "regex": Verifier(regex.accepts, stated_answer=lambda prompt: ""),
    **dict.fromkeys(
        TEXT_METRICS,
        Verifier(
            text_metrics.verdict,
            text_metrics.answer_key,
            problem=text_metrics.references_problem,
        ),
    ),
    **{
        f"task/{name}": Verifier(task.accepts, stated_answer=task.stated_answer)
        for name, task in BUILTIN_TASKS.items()
    },
    "reasoning_gym": Verifier(
        reasoning_gym.accepts, reasoning_gym.answer_key, stated_answer=_puzzle_answer
    ),
}
_OWN = Verifier(own_checker.verdict)
_UNKNOWN = Verifier(lambda prompt, text: False)


ONE_BY_ONE = Room()
"""Room for one check at a time."""


def verify(prompt: Prompt, text: str) -> bool:
    """Return whether `text` answers the prompt: its score reaches the prompt's threshold.

    Raises:
        UserError: The prompt names no known verifier, or one that cannot work here. No text makes
            it raise.
    """
    return verdict_of(prompt, text).score >= prompt.check.threshold


def verdict_of(prompt: Prompt, text: str) -> Verdict:
    """Return the score of `text`, from 0 to 1, and the verifier's reason if it gives one.

    Raises:
        UserError: As `verify` does.
    """
    verifier = _verifier(prompt)
    if verifier is _UNKNOWN:
        names = ", ".join(_VERIFIERS)
        raise UserError(
            f"prompt {prompt.id}: unknown verifier {prompt.verifier!r} (known: {names})"
        )
    # Longer texts are wrong unread, so that the time of every verifier stays bounded.
    if len(text) > MAX_ANSWER_CHARACTERS:
        return Verdict(0.0, f"longer than {MAX_ANSWER_CHARACTERS} characters")
    result = verifier.accepts(prompt, text)
    return result if isinstance(result, Verdict) else Verdict(float(result))


def verdicts_of(asked: Sequence[tuple[Prompt, str]], room: Room) -> list[Verdict]:
    """Return the verdict on each (prompt, text), in order.

    Checks that start processes of their own are done side by side, as many as there is room for.

    Raises:
        UserError: As `verify` does.
    """
    verdicts: dict[int, Verdict] = {}
    slow: dict[int, int] = {}
    for index, (prompt, text) in enumerate(asked):
        num_processes = _verifier(prompt).num_processes
        if num_processes:
            slow[index] = room.num_checks(num_processes, prompt.check.memory_mb)
        else:
            verdicts[index] = verdict_of(prompt, text)
    if slow:
        # The largest check decides: no mixture of them may use more memory than there is.
        with ThreadPoolExecutor(min(slow.values())) as pool:
            results = pool.map(lambda index: verdict_of(*asked[index]), slow)
            verdicts.update(zip(slow, results, strict=True))
    return [verdicts[index] for index in range(len(asked))]


def verify_all(asked: Sequence[tuple[Prompt, str]], room: Room) -> list[bool]:
    """Return, for each (prompt, text), whether the text answers the prompt; see `verdicts_of`."""
    verdicts = verdicts_of(asked, room)
    return [
        verdict.score >= prompt.check.threshold
        for (prompt, _), verdict in zip(asked, verdicts, strict=True)
    ]


def answer_key(prompt: Prompt, text: str) -> str:
    """Return the normalised final answer of `text`, empty if it holds none.

    Equal keys are the same answer; to count votes use `vote_keys`.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return ""
    return _verifier(prompt).answer_key(text)


def vote_keys(prompt: Prompt, texts: Sequence[str]) -> list[str]:
    """Return a key for each answer, equal where `verify` holds two answers for equal.

    A key is the normalised final answer of one of the texts, empty for a text without an answer.
    The keys do not depend on the order of the texts. Where equality is not transitive (50% equals
    50 and 0.5), an answer goes to the larger group.
    """
    verifier = _verifier(prompt)
    # Too long texts are wrong, so they vote for nothing.
    short = [text if len(text) <= MAX_ANSWER_CHARACTERS else "" for text in texts]
    if verifier.group_keys is not None:
        return verifier.group_keys(short)
    return [verifier.answer_key(text) for text in short]


def reference_answer(prompt: Prompt) -> str:
    """Return the right answer of a prompt, without the way to it; empty if there is none."""
    return _verifier(prompt).stated_answer(prompt)


def prompt_problem(prompt: Prompt) -> str:
    """Return why no answer to a prompt can be checked, whatever it says; "" if answers can be."""
    return _verifier(prompt).problem(prompt)


def _verifier(prompt: Prompt) -> Verifier:
    if own_name(prompt.verifier) is not None:
        return _OWN
    return _VERIFIERS.get(prompt.verifier, _UNKNOWN)
