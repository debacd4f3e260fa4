"""Ratchet's steps, one folder per box of the graph, and what they share: `contracts`, `storage`,
`runtime`, `modeling` and the modules beside them."""
