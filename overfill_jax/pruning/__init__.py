"""From a full model to its width-pruned copy: which channels matter, which stay, and the cut."""
