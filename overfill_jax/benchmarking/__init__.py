"""Measurements of the machine here: the train step with random weights, the loader alone."""
