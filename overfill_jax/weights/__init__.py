"""Weights in and out: Hugging Face folders, folders of our own, training checkpoints, indices."""
