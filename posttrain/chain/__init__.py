"""The chain: recipe in, artifacts out. Knows order and identity; knows no model and no torch."""
