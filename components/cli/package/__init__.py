"""The compiled pipeline: profiles, compilation, and what a package must not hold."""
