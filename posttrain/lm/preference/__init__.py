"""Training on preferences: a model learns which of two answers is the better one, by the losses of TRL."""
