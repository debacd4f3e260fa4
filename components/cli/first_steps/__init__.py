"""The verbs of the first quarter of an hour: `init`, `samples`, `try`."""
