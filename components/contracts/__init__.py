"""What steps say to each other: recipe, rows, state."""
