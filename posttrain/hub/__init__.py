"""The Hugging Face Hub: what a recipe names there is fetched here."""
