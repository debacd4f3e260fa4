"""One campaign as one file, to be kept or to be taken to another store."""
