"""Ratchet's steps: one folder per box of the graph, `common` for what they share."""
