"""Run configurations: `default.py` declares every key once, the others are short differences."""
