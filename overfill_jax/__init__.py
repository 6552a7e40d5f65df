"""OverFill in JAX: a full model reads the prompt, its width-pruned copy writes the answer."""
