"""The verb `sweep`: one campaign for every combination of some settings, and what they came to."""
