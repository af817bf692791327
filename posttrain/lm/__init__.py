"""Models, tokens and training: torch and transformers live here, imported inside functions where the CLI passes."""
