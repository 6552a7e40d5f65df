"""Experiments: what the paper reports, lists as next and leaves open, and our own questions."""
