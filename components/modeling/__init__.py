"""Models and tokenizers: loading, encoding, sampling, likelihood. Imports torch; steps import it
inside functions."""
