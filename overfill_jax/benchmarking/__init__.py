"""Measurements of this machine, with random weights of true shapes: no checkpoints needed."""
