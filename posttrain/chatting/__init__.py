"""Using a step's model: a conversation in the terminal, and an OpenAI-compatible server."""
