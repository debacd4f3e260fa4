"""The contracts between steps: recipe, rows, state, summaries, names of files."""
