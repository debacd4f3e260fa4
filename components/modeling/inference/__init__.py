"""Let a model answer: sampling token by token, with its keys and values kept."""
