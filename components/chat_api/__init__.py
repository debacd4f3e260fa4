"""A client of models behind endpoints that speak OpenAI's chat completions, as many servers do."""
