"""What can answer prompts: this project's own loop over transformers, vLLM, or an endpoint."""
