"""What chips reach of what their vendors state, and what a pass costs beside: all that is assumed.

The predictions of inference assume nothing but what stands here; measurements correct it here.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Of one chip.

    Attributes:
      products: share of the peak FLOP/s that products of many tokens with the weights reach.
      attention: share of it that attention reaches, whose products are small.
      weights: share of the bandwidth at which weights are read, by what they are stored in;
        unpacking them costs some of it.
      cache: share of it at which keys and values are read, head by head.
      layer: seconds that every layer takes beside. Its kernels start one after the other, and each
        keeps the memory busy only some time after its start and until some time before its end.
      step: seconds that every pass takes beside: the draw of a token, the loop around it.
      reduction: seconds until a sum over several chips begins to flow.
    """

    products: float
    attention: float
    weights: Mapping[str, float]
    cache: float
    layer: float
    step: float
    reduction: float


PERFECT = Efficiency(
    products=1.0,
    attention=1.0,
    weights={"bfloat16": 1.0, "int8": 1.0, "int4": 1.0},
    cache=1.0,
    layer=0.0,
    step=0.0,
    reduction=0.0,
)
# TPUs run a pass as one program, which fetches weights ahead: 70B in int8 on 8 and 16 v5e, batch 8,
# 84 and 159 steps/s (jax-llm-examples, llama3), within 6 %; of 32 rows and more they are slower
# than predicted, on 16 chips by a fifth to two fifths.
_TPU = Efficiency(
    products=0.60,
    attention=0.35,
    weights={"bfloat16": 0.93, "int8": 0.93, "int4": 0.75},
    cache=0.70,
    layer=2e-6,
    step=20e-6,
    reduction=2e-6,
)
# GPUs run some ten kernels a layer, with a graph of them at best: 1B on an H100 in vLLM and SGLang
# at 50 % of the bandwidth at most (Hazy Research, 2025). One kernel for the whole pass, 78 % there,
# leaves 5 us a layer.
_H100 = Efficiency(
    products=0.55,
    attention=0.40,
    weights={"bfloat16": 0.88, "int8": 0.78, "int4": 0.60},
    cache=0.60,
    layer=30e-6,
    step=50e-6,
    reduction=6e-6,
)
# 8B on 1 to 8 A100, 94 to 276 steps/s, and 7B in int8 and int4 (gpt-fast, within 10 %). Of its 70B
# the integers on 8, and Llama 3.1's on 1, are predicted 11 to 17 % too fast, Llama 3.1's bfloat16
# on 2 by 40 %; the others are within 10 % (tests/planning/test_passes.py has all of them).
_A100 = dataclasses.replace(_H100, layer=60e-6)

REACHED = {
    "v5e": _TPU,
    "v5p": _TPU,
    "v6e": _TPU,
    "a100": _A100,
    "a100_40gb": _A100,
    "h100": _H100,
    "h200": _H100,
}
