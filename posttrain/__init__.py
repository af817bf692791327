"""Post-training for small language models: a recipe is a chain, and every step is closed by a judge."""

__version__ = "0.1.0"
