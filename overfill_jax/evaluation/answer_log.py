"""Answers as they come: one line of JSON each, behind what a run that was stopped left."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from overfill_jax import files
from overfill_jax.data import jsonl
from overfill_jax.errors import InputError


class AnswerLog:
    """The answers of one system to one benchmark, in a file that grows by lines.

    Beside it lie the settings that they were made with: others would make other answers, and the
    two must not mix.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], prompts: Mapping[str, str]):
        """Opens the file, new or half-filled; nothing is written yet.

        Args:
          path: of the lines; the settings go beside it.
          settings: what the answers depend on, beside their prompts.
          prompts: of the questions, by id. Lines of other questions stay, and do not count.

        Raises:
          InputError: the file holds answers of other settings or to other prompts, or a broken
            line; names it, and the line.
        """
        self._path = path
        self._settings = dict(settings)
        self._settings_path = path.with_suffix(".settings.json")
        files.check_writable(path, self._settings_path)
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._check_settings()
            self._read(prompts)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line, which is on its way to the disk when this returns."""
        if not self._path.exists():
            files.write_json(self._settings_path, self._settings)
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(_line(row))
        self.rows[row["id"]] = dict(row)

    def update(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Puts these lines, by id, in the place of those of the same questions."""
        self.rows |= {name: dict(row) for name, row in rows.items()}
        text = "".join(map(_line, self.rows.values()))
        if self.rows and text != self._path.read_text(encoding="utf-8"):
            files.write_text(self._path, text)

    def chosen(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The lines of these questions, in this order."""
        return [self.rows[name] for name in ids]

    def _check_settings(self) -> None:
        found = files.read_object(self._settings_path)
        for name in found | self._settings:
            old, new = found.get(name), self._settings.get(name)
            if old != new:
                raise InputError(
                    f"{self._path}: its answers were made with {name}={old!r}, now it is {new!r}; "
                    "expected the same, another workdir, or the file and what was made of it to be "
                    "moved away"
                )

    def _read(self, prompts: Mapping[str, str]) -> None:
        self._drop_torn_line()
        for number, line in jsonl.read_lines(self._path):
            try:
                row = jsonl.parse(line)
                name, prompt, _ = row["id"], row["prompt"], row["answer"]
            except (InputError, KeyError) as error:
                raise InputError(f"{self._path}:{number}: found no answer's line") from error
            if prompts.get(name, prompt) != prompt:
                raise InputError(
                    f"{self._path}:{number}: found another prompt of question {name} than the "
                    "task has now; expected the same questions, or the file to be moved away"
                )
            self.rows[name] = row

    def _drop_torn_line(self) -> None:
        """What a run that was killed while it wrote left behind the last whole line."""
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            logging.warning("%s: the last line was half-written; its question is asked again",
                            self._path)  # fmt: skip
            with self._path.open("r+b") as lines:
                lines.truncate(end)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
