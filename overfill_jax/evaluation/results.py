"""What the evaluation of one system found, as it is shown and as it is stored."""

import dataclasses
import json
from pathlib import Path

from overfill_jax import files
from overfill_jax.evaluation.accuracy import Proportion
from overfill_jax.evaluation.answer_loss import AnswerLoss
from overfill_jax.evaluation.lengths import Lengths
from overfill_jax.evaluation.systems import System


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One generated answer beside its reference.

    Attributes:
      row: line in the source, from 1.
      tokens: of the answer.
      reason: what ended the answer, a `stop` token or its `length`.
    """

    row: int
    family: str
    prompt: str
    reference: str
    answer: str
    tokens: int
    reason: str
    correct: bool


@dataclasses.dataclass(frozen=True)
class Result:
    """One system on all rows.

    Attributes:
      shapes: dimensions of the `reader` and the `writer`.
      parameters: of the writer.
      decode_parameters: of the writer, as many as one decoded token reads.
      decode_bytes: the bytes of these, in the dtype of the evaluation.
      families: accuracy of each family.
      accuracy: mean over the families.
      lengths: of the answers.
      loss: on the reference answers.
      seconds: taken by `loading`, `loss` and `answers`.
    """

    system: System
    shapes: dict[str, dict[str, int]]
    parameters: int
    decode_parameters: int
    decode_bytes: int
    families: dict[str, Proportion]
    accuracy: Proportion
    lengths: Lengths
    loss: AnswerLoss
    verdicts: list[Verdict]
    seconds: dict[str, float]


def paths(system: System, folder: Path) -> tuple[Path, Path]:
    """Where `save` writes every prompt with its answer, and the rest."""
    return folder / f"{system.name}.jsonl", folder / f"{system.name}.json"


def save(result: Result, settings: dict, folder: Path) -> None:
    """Writes `<system>.jsonl`, every prompt with its answer, and then `<system>.json`, the rest."""
    answers, rest = paths(result.system, folder)
    lines = [json.dumps(dataclasses.asdict(v), ensure_ascii=False) for v in result.verdicts]
    files.write_text(answers, "".join(line + "\n" for line in lines))
    summary = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name != "verdicts"
    }
    plain = {key: _plain(value) for key, value in summary.items()}
    files.write_json(rest, plain | {"settings": settings})


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value
