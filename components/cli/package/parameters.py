"""The parameters of the compiled pipeline, in words."""

from __future__ import annotations

PARAMETERS = {
    "store": "where results go, s3://bucket/prefix, where finished work is not done again",
    "recipe": "the whole recipe; change a setting here or in its own field, not to two values",
    "resume_from": "URI of a state to go on from, empty to begin with the base model",
    "seed": "seed of data, training and sampling",
    "threshold": "validation accuracy, 0 to 1, that ends the campaign (decide.goal.threshold)",
    "max_rounds": "rounds at most, of those compiled (decide.max_rounds)",
    "patience": "rounds in a row without a proved gain that end the campaign (decide.patience)",
    "prompts_per_round": "prompts the champion answers a round (generate.prompts_per_round)",
    "samples_per_prompt": "answers to each prompt (generate.samples_per_prompt)",
    "temperature": "sampling temperature, 0 for the likeliest token (generate.temperature)",
    "learning_rate": "learning rate from round 1 on (train.rounds.learning_rate)",
    "labelled_share": "share of labelled rows in what training draws (select.labelled_share)",
}
"""Parameter → meaning, with the recipe's key where it is one."""

# The form of KFP 2.17's UI shows names, types and defaults, and no description of a parameter. The
# pipeline's own description is shown, so the table stands there.
DESCRIPTION = (
    "Makes a language model better, in rounds proved better. Fields of a run: "
    + "; ".join(f"{name} = {meaning}" for name, meaning in PARAMETERS.items())
)
"""Description of the pipeline, as the UI shows it."""
