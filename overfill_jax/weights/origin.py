"""What a decoder belongs to: the full model whose cache it reads, and who gives the first token."""

import dataclasses

from overfill_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a pruned model came about.

    Attributes:
      full: fingerprint of the full model that it was cut from, or trained behind.
      first_token: who gave the first answer token in training, `full` or `decoder`; None for a
        model that was cut and not yet trained.
    """

    full: str
    first_token: str | None


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
    if full is not None and full != origin.full:
        made = "cut from" if origin.first_token is None else "trained behind"
        raise InputError(
            f"{name}: {made} another full model: fingerprint {origin.full}, found {full}; prune "
            "and train anew"
        )
    if origin.first_token not in (None, first_token):
        raise InputError(
            f"{name}: trained with first_token {origin.first_token!r}, found {first_token!r}, "
            "expected the same"
        )
