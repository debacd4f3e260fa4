"""Engines that answer prompts: a sampling loop over transformers, vLLM, or an endpoint."""
