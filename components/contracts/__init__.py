"""What steps say to each other: recipe, rows, state, summaries, names of files."""
