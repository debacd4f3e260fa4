"""Everything a run needs of its surroundings, tried out before it begins."""
