"""Llama-3.2-3B to 1.243B parameters.

`paper` keeps 1689 and 4505 channels; `--config=configs/llama3_2_3b.py:aligned` nearly as
many parameters, in widths that transformers loads: multiples of what the heads and the matrix
units want.
"""

from configs._recipe import recipe

WIDTHS = {"paper": (0.45, 0.45), "aligned": (1536, 5376)}


def get_config(widths: str = "paper"):
    return recipe("Llama-3.2-3B-Instruct", "llama3_2_3b", WIDTHS, widths)
