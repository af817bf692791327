"""Engines turn messages into text: the same rows give the same bytes."""
