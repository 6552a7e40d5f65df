"""Qwen2.5-7B to 2.77B parameters.

`paper` keeps 1971 and 10419 channels; `--config=configs/qwen2_5_7b.py:aligned` nearly as
many parameters, in widths that transformers loads: multiples of what the heads and the matrix
units want.
"""

from configs._recipe import recipe

WIDTHS = {"paper": (0.45, 0.45), "aligned": (1792, 12032)}


def get_config(widths: str = "paper"):
    return recipe("Qwen2.5-7B-Instruct", "qwen2_5_7b", WIDTHS, widths)
