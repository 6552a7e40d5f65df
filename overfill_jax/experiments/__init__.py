"""Experiments: the stages again and again, each time with other settings, and what came of it."""
