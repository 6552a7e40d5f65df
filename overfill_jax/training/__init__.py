"""Training of the decoder behind the frozen full model, and of the baselines on the same path."""
