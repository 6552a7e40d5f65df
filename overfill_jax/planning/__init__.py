"""Knowing before paying: what a training run needs, from its config alone."""
