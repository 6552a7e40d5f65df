"""Llama-3.1-8B to 3.19B parameters.

`paper` keeps 2334 and 8171 channels; `--config=configs/llama3_1_8b.py:aligned` nearly as
many parameters, in widths that transformers loads: multiples of what the heads and the matrix
units want.
"""

from configs._recipe import recipe

WIDTHS = {"paper": (0.43, 0.43), "aligned": (2304, 8320)}


def get_config(widths: str = "paper"):
    return recipe("Llama-3.1-8B-Instruct", "llama3_1_8b", WIDTHS, widths)
