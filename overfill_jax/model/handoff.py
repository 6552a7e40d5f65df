"""What of the full model's cache crosses to a decoder with fewer layers or kv heads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Handoff:
    """Which layers and kv heads of the full model's cache are the decoder's.

    Part of the decoder's shape, so that it goes wherever that goes. Of plain numbers, so that it is
    known when compiling.

    >>> shallow = overfill_jax.prune(full, importance, depth=2, layers="last", kv_heads=1)
    >>> shallow.config.handoff.layers, [len(heads) for heads in shallow.config.handoff.kv_heads]
    ((2, 3), [1, 1])

    Attributes:
      layers: [L'], the full model's layers that the decoder's are copies of.
      kv_heads: [L', K'], the kv heads of each of these layers.
    """

    layers: tuple[int, ...]
    kv_heads: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, layers: Sequence, kv_heads: Sequence) -> "Handoff":
        """The same from lists, as JSON has them.

        Raises:
          TypeError: they are no lists of whole numbers.
        """
        rows = [layers, *kv_heads]
        if any(type(number) is not int for row in rows for number in row):
            raise TypeError(f"found {rows}, expected whole numbers")
        return cls(tuple(layers), tuple(map(tuple, kv_heads)))


def as_fields(handoff: Handoff | None) -> dict[str, Any]:
    """What a config.json says of it: nothing where the whole cache crosses."""
    return {} if handoff is None else {"handoff": dataclasses.asdict(handoff)}


def from_fields(source: Mapping[str, Any]) -> Handoff | None:
    """What `as_fields` has put into a config.json.

    Raises:
      TypeError: it is not understood.
    """
    found = source.get("handoff")
    try:
        return None if found is None else Handoff.of(**found)
    except TypeError as error:
        raise TypeError(f"handoff is not understood: {error}") from error
