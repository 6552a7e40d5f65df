"""Parallel text: two files of as many lines, each line of one the translation of the other's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from overfill_jax.errors import InputError

LINE = "{line}"  # what stands for a line in the wording of a prompt


def read_pairs(path: Path, target: str) -> list[tuple[str, str]]:
    """The lines of `path` with those of the file beside it whose name ends in `target`.

    Raises:
      InputError: a file is missing or empty, the two have not as many lines, or one is blank.
    """
    ours, theirs = _lines(path), _lines(path.with_suffix(target))
    if len(ours) != len(theirs):
        raise InputError(
            f"{path.with_suffix(target)}: found {len(theirs)} lines, expected {len(ours)}, as "
            f"in {path.name}"
        )
    return list(zip(ours, theirs, strict=True))


def instruction_lines(
    path: Path, target: str, wording: str, columns: tuple[str, str]
) -> Iterator[tuple[int, bytes]]:
    """The same as numbered lines of instruction data.

    Args:
      path: of the lines that are asked.
      target: the ending of the file with the answers.
      wording: of a prompt, with `{line}` for the line.
      columns: what prompt and answer are called.

    Raises:
      InputError: see `read_pairs`; or the target ends no other file, or the wording has no
        place for the line.
    """
    if not re.fullmatch(r"\.[^/]+", target) or target == path.suffix:
        raise InputError(
            f"data.target: found {target!r}, expected the ending of another file than {path.name}, "
            "such as '.en'"
        )
    if LINE not in wording:
        raise InputError(f"data.wording: found {wording!r}, expected a text with {LINE} in it")
    prompt, response = columns
    for number, (line, answer) in enumerate(read_pairs(path, target), 1):
        row = {prompt: wording.replace(LINE, line), response: answer}
        yield number, json.dumps(row, ensure_ascii=False).encode()


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors put a mark first
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are not UTF-8, expected text") from error
    # Not splitlines: sentences may hold what Unicode, too, counts as a line's end.
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    for number, line in enumerate(lines, 1):
        if not line:
            raise InputError(f"{path}:{number}: found a blank line, expected a sentence")
    return lines
