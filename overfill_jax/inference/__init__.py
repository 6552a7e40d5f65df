"""Answers from a pair of models: sampling, the compiled loops, and the stages that use them."""
