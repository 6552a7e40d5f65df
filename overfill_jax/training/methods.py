"""What can be trained: the decoder behind the full model, and the baselines beside it.

| method | reads the prompt | writes the answer | starts from | trained |
|---|---|---|---|---|
| two_stage | full | decoder | the pruned model | decoder (with `freeze` none: both) |
| pruned | decoder | decoder | the pruned model | decoder |
| scratch | decoder | decoder | random weights of the pruned shape | decoder |
| full | full | full | the full model | full |

With a `lora_rank`, two_stage and pruned train adapters of the decoder and none of its weights.
"""

import dataclasses

from overfill_jax.errors import InputError

FREEZE = ("full", "none")


@dataclasses.dataclass(frozen=True)
class Method:
    """Who does what in a training run.

    Attributes:
      name: of the run's folders under checkpoints/ and metrics/.
      reader, writer: "full" or "decoder".
      trained: which of them the optimiser changes.
      outputs: folder of the workdir that each trained model is saved to.
    """

    name: str
    reader: str
    writer: str
    trained: frozenset[str]
    outputs: dict[str, str]


def _alone(name: str, who: str, output: str) -> Method:
    return Method(name, who, who, frozenset({who}), {who: output})


_TWO_STAGE = Method("two_stage", "full", "decoder", frozenset({"decoder"}), {"decoder": "decoder"})
METHODS = {
    "two_stage": _TWO_STAGE,
    "pruned": _alone("pruned", "decoder", "baselines/pruned_tuned"),
    "scratch": _alone("scratch", "decoder", "baselines/scratch"),
    "full": _alone("full", "full", "baselines/full_tuned"),
}
JOINT = dataclasses.replace(
    _TWO_STAGE,
    name="joint",
    trained=frozenset({"full", "decoder"}),
    outputs={"full": "joint/full", "decoder": "joint/decoder"},
)


def choose_method(
    method: str, freeze: str, kl_weight: float, handoffs: bool, lora_rank: int
) -> Method:
    """Looks up the method and refuses settings that contradict it.

    Raises:
      InputError: names the key and what was expected.
    """
    if method not in METHODS:
        raise InputError(f"train.method: found {method!r}, expected one of {tuple(METHODS)}")
    if freeze not in FREEZE:
        raise InputError(f"train.freeze: found {freeze!r}, expected one of {FREEZE}")
    if freeze == "none" and method != "two_stage":
        raise InputError(f"train.freeze: 'none' goes with method 'two_stage', found {method!r}")
    if handoffs and method != "two_stage":
        raise InputError(f"train.handoffs: goes with method 'two_stage', found {method!r}")
    if lora_rank and (method not in ("two_stage", "pruned") or freeze == "none"):
        raise InputError(
            f"train.lora_rank: found {lora_rank} with method {method!r} and freeze {freeze!r}, "
            "expected 0; only the pruned decoder's weights have adapters, with methods "
            "'two_stage' (freeze 'full') and 'pruned'"
        )
    if method == "full" and kl_weight:
        raise InputError(
            f"train.kl_weight: found {kl_weight:g}, expected 0 with method 'full', which would "
            "be its own target"
        )
    return JOINT if freeze == "none" else METHODS[method]
