"""The card of a champion, released or not, in the form of Hugging Face's model cards."""

from __future__ import annotations

import re
import textwrap

from components.contracts.recipe import Goal, Metric, Recipe, SelectSection
from components.contracts.state import ModelRecord, RoundRecord, State
from components.contracts.summaries import PublishSummary
from components.contracts.summaries.publish import Rival
from components.runtime.campaign import Campaign
from components.runtime.receipts import Receipt

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"[\\`*\[\]!]")
"""Characters that begin code, emphasis, links and images. An underline within a word begins none."""
_HUB_MODEL = re.compile(r"hf://(?!datasets/)([\w.-]+/[\w.-]+)@")
METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy of greedy answers",
    "perplexity": "perplexity per token",
    "brier": "Brier score of the classes",
    "mean_score": "mean score of greedy answers",
    "macro_f1": "macro-F1 of the likeliest classes",
}
_HUB_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)@")


def model_card(campaign: Campaign, champion: Receipt, summary: PublishSummary) -> str:
    """Return the Markdown of a model card: origin, scores, rounds, data and limits.

    Args:
        campaign: The campaign.
        champion: Receipt that holds its champion: of train, or of prepare for the base.
        summary: Summary of its publication.
    """
    from huggingface_hub import ModelCard

    metadata = _metadata(campaign.recipe, summary)
    text = _text(campaign, champion, summary)
    # The block between the dashes is what model hubs read.
    return str(ModelCard(f"---\n{metadata}\n---\n{text}"))


def _metadata(recipe: Recipe, summary: PublishSummary) -> str:
    """Return the YAML that model hubs read."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if summary.scores is not None:
        result = EvalResult(
            task_type="text-generation",
            # Not a data set of the hub: the prompts are the campaign's own.
            dataset_type=f"{recipe.name}-{summary.split}",
            dataset_name=f"{summary.split} prompts of campaign {recipe.name}",
            dataset_split=summary.split,
            metric_type=summary.metric,
            metric_name=METRIC_NAMES[summary.metric],
            metric_value=round(summary.scores.value, 4),
        )
        results.append(result)
    # The hub takes names of its own models and data sets alone; others are in the text.
    base_model = _HUB_MODEL.match(recipe.model.source)
    datasets = {
        match[1]
        for source in recipe.data.sources
        if (match := _HUB_DATASET.match(source.uri))
    }
    data = ModelCardData(
        base_model=base_model[1] if base_model else None,
        license=recipe.publish.license or None,
        datasets=sorted(datasets) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["ratchet", "self-improvement"],
        model_name=summary.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _text(campaign: Campaign, champion: Receipt, summary: PublishSummary) -> str:
    recipe = campaign.recipe
    state = campaign.state
    return f"""# {summary.name} {summary.version or "(not released)"}

{_release(summary)}

Made by campaign `{state.run_id}` from base model `{recipe.model.source}`. {_origin(campaign)}
Its weights are {summary.dtype}.
{_system_prompt(recipe.model.system_prompt)}
| measure | value |
|---|---|
{_scores(campaign, summary)}
{_comparison(summary)}
## Rounds

| round | validation | test | accepted / generated | verdict | why |
|---|---|---|---|---|---|
{_rounds(state)}

## Data

{_data(campaign)}
Receipt `{champion.ref}`, digest `{champion.digest}`.

## Limits

Measured on the recipe's own held-out splits only. Accuracy elsewhere is unknown.
"""


def _release(summary: PublishSummary) -> str:
    """Return the paragraph on the release."""
    if summary.released:
        return f"Released: {_cell(summary.why)}."
    text = f"Not released, the model that was there stays: {_cell(summary.why)}."
    if summary.new_prompts_due:
        text += f" New {summary.split} prompts are due."
    return text


def _origin(campaign: Campaign) -> str:
    """Return the sentence on the round that made the model, by its verdict."""
    state = campaign.state
    if state.champion_round is None:
        return "It is the base model itself: no round was proved better."
    return (
        f"This is the model of round {state.champion_round}, proved better than the champion before "
        "it on the same validation prompts; the first champion was the base model."
    )


def _champion_record(campaign: Campaign) -> RoundRecord | None:
    state = campaign.state
    records = (
        record for record in state.history if record.round == state.champion_round
    )
    return next(records, None)


def _data(campaign: Campaign) -> str:
    """Return the paragraph on the rows that the model was trained on, by the filters used."""
    champion_round = campaign.state.champion_round
    if champion_round is None:
        return "The campaign trained nothing of it."
    trained_rounds = [
        record
        for record in campaign.state.history
        if record.generated and record.round <= champion_round
    ]
    if not trained_rounds:
        return "Labelled rows alone: the model has learned from no answers of models."
    checks = _checks(campaign.written.select)
    accepted = sum(record.accepted for record in trained_rounds)
    return (
        f"Labelled rows, and {accepted} answers of {_answerer(campaign.written)}, accumulated over "
        f"the rounds. {checks}"
    )


def _answerer(recipe: Recipe) -> str:
    """Return who wrote the answers that were trained on."""
    section = recipe.generate
    if section.teacher is not None:
        return f"the teacher `{section.teacher.source}`"
    if section.endpoint is not None:
        return f"the model `{section.endpoint.model}` behind an endpoint"
    return "the campaign's own models"


def _checks(section: SelectSection) -> str:
    """Return the sentence on how answers were checked."""
    checks = []
    if section.verifier:
        checks.append("the verifier of its prompt accepted it")
    if section.verifier_function:
        checks.append(f"the function `{section.verifier_function}` accepted it")
    if section.min_vote_share or section.calibrate_vote:
        checks.append("the samples of its prompt agreed on it by majority")
    if section.judge is not None:
        checks.append(
            f"the judge `{section.judge.model}` graded it {section.judge.min_score} or more"
        )
    if section.reward is not None:
        checks.append(
            f"the reward model `{section.reward.source}` scored it high enough"
        )
    if not checks:
        return "Nothing checked whether they are right; filters of form and repetition alone chose them."
    sentence = f"An answer was trained on if {_listed(checks)}."
    if not section.verifier and not section.verifier_function:
        sentence += " None of this proves that it is right."
    return sentence


def _listed(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _system_prompt(text: str) -> str:
    """Return the paragraph on the system prompt; empty without one."""
    if not text:
        return ""
    # Indented, so that Markdown in the prompt stays as it was written; blank lines too, which would
    # end the block.
    block = textwrap.indent(text, "    ", lambda line: True)
    return (
        "\nTrained and measured with this system prompt, "
        f"which the chat template puts before conversations that have none:\n\n{block}\n"
    )


def _scores(campaign: Campaign, summary: PublishSummary) -> str:
    # Validation accuracy is flattered by the choice of the best round; the vault's is not.
    rows = [
        f"| validation {summary.metric} | {summary.validation_score:.4f} |",
        f"| test {summary.metric} | {summary.test_score:.4f} |",
    ]
    scores = summary.scores
    if scores is not None:
        bounds = f"[{scores.low:.4f}, {scores.high:.4f}]"
        rows.append(
            f"| {summary.split} {summary.metric} of these files (n = {scores.n}) | "
            f"{scores.value:.4f} {bounds} |"
        )
    rows += _class_rows(campaign.state.champion_record)
    record = _champion_record(campaign)
    if record is not None:
        low, high = record.interval
        outcome = "met" if summary.target_met else "not met"
        goal = _goal_text(campaign.recipe.decide.goal)
        rows.append(
            f"| goal ({goal}) | {record.score:.4f} [{low:.4f}, {high:.4f}], {outcome} |"
        )
    return "\n".join(rows)


def _class_rows(record: ModelRecord | None) -> list[str]:
    """Return the lines on classes by the likelihood of their label; none without classes."""
    if record is None or record.label_accuracy is None:
        return []
    measures = {
        "accuracy of classes by likelihood": record.label_accuracy,
        "macro-F1": record.macro_f1,
        "Brier score": record.brier,
    }
    return [
        f"| validation {name} | {value:.4f} |"
        for name, value in measures.items()
        if value is not None
    ]


def _comparison(summary: PublishSummary) -> str:
    """Return the table of the models that it was compared with; empty if there are none."""
    if not summary.rivals:
        return ""
    rows = "\n".join(_rival_row(rival) for rival in summary.rivals)
    return f"""
## Compared with

The same {summary.split} prompts, asked by the same engine.

| model | {summary.metric} | result | numbers |
|---|---|---|---|
{rows}
"""


def _rival_row(rival: Rival) -> str:
    scores = rival.scores
    score = f"{scores.value:.4f} [{scores.low:.4f}, {scores.high:.4f}]"
    return f"| {_cell(rival.name)} | {score} | {rival.verdict} | {_cell(rival.why)} |"


def _goal_text(goal: Goal) -> str:
    text = f"{goal.threshold:.3f}"
    return f"{text} on {_cell(goal.slice)}" if goal.slice else text


def _rounds(state: State) -> str:
    rows = [_round_row(record) for record in state.history]
    if state.base is not None:
        scores = f"{state.base.overall:.4f} | {state.base.test_score:.4f}"
        rows.insert(0, f"| base | {scores} | | first champion | as it was brought |")
    return "\n".join(rows)


def _round_row(record: RoundRecord) -> str:
    samples = f"{record.accepted} / {record.generated}"
    # In a weak round nothing was trained: its scores are those of the champion.
    scores = "no candidate | |"
    if not record.weak:
        scores = f"{record.overall:.4f} | {record.test_score:.4f} |"
    return f"| {record.round} | {scores} {samples} | {record.verdict} | {_cell(record.why)} |"


def _cell(text: str) -> str:
    """Return text of others for a cell of a table: one line in which nothing is Markdown or HTML."""
    visible = " ".join(_INVISIBLE.sub(" ", text).split())
    # A bar in the sentence would begin a column of its own.
    return _MARKUP.sub(r"\\\g<0>", visible.replace("|", "/").replace("<", "&lt;"))
