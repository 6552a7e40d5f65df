"""What a model came from: the full model, the pruned one, and who gave the first answer token."""

import dataclasses

from overfill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a model of ours came about.

    Attributes:
      full: fingerprint of the full model that it was cut or trained from, or trained behind; None
        where that is not recorded.
      first_token: who gave the first answer token in training, `full` or `decoder`; None for a
        model that was not trained behind another.
      pruned: fingerprint of the pruned model that training started from; None if from none.
    """

    full: str | None
    first_token: str | None
    pruned: str | None = None


def misfit(origin: Origin, full: str | None, pruned: str | None, first_token: str | None) -> str:
    """Why a model is not of this full and pruned model and first token; '' where it is.

    What is None, here or in `origin`, is not compared.
    """
    behind = "made from" if origin.first_token is None else "trained behind"
    for name, made, recorded, found in (
        ("full", behind, origin.full, full),
        ("pruned", "made from", origin.pruned, pruned),
    ):
        if None not in (recorded, found) and recorded != found:
            return (
                f"{made} another {name} model: fingerprint {recorded}, found {found}; "
                "prune and train anew"
            )
    if None not in (origin.first_token, first_token) and origin.first_token != first_token:
        return (
            f"trained with first_token {origin.first_token!r}, found {first_token!r}, "
            "expected the same"
        )
    return ""


def check_origin(origin: Origin, name: str, full: str | None, first_token: str) -> None:
    """Refuses a decoder that was made for another full model or another first token.

    Args:
      origin: of the decoder.
      name: what the error calls the decoder.
      full: fingerprint of the full model that is to read its prompts; None where it is not known.
      first_token: who is to give the first answer token.

    Raises:
      InputError: says what the decoder was made with, and what was found.
    """
    if reason := misfit(origin, full, None, first_token):
        raise InputError(f"{name}: {reason}")
