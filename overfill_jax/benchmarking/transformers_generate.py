"""The same weights and prompts with transformers, where it is installed: the pace to beat."""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging

from overfill_jax.model.transformer import Model
from overfill_jax.weights.hugging_face_export import export_model

EAGER, STATIC = "transformers, eager", "transformers, static cache, compiled"

Answer = Callable[[Sequence[Sequence[int]], int], tuple[float, float]]


def load(full: Model) -> dict[str, Answer]:
    """The full model in transformers, by the way that it runs; nothing where that is missing.

    An answer for which the device has no room raises MemoryError.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        logging.info("transformers: not installed, left out")
        return {}
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        export_model(full, Path(folder) / "hf", None, 2**33)
        model = AutoModelForCausalLM.from_pretrained(
            Path(folder) / "hf", dtype=getattr(torch, full.config.dtype)
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()

    def answer(prompts, tokens, **settings):
        prompt = torch.tensor(prompts, device=device)

        def seconds(new):
            start = time.perf_counter()
            with torch.no_grad():
                found = model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                    max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **settings,
                )  # fmt: skip
            found.cpu()
            return time.perf_counter() - start

        try:
            return seconds(1), seconds(tokens)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def compiled(prompts, tokens):
        return answer(prompts, tokens, cache_implementation="static")

    # On a GPU a static cache makes transformers compile its forward pass; on a CPU it does not.
    return {EAGER: answer} | ({STATIC: compiled} if device == "cuda" else {})
