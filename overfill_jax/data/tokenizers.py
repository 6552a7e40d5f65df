"""Owns the way between text and token ids, behind one small interface.

Two kinds of tokenizer exist: sentencepiece (`tokenizer.model`) and Hugging Face
(`tokenizer.json`). The JSON files beside them name the special tokens and those that end an answer.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
import tokenizers

from overfill_jax.errors import InputError
from overfill_jax.files import read_json

# Chat models end a turn with these, and not every tokenizer_config.json names them as its eos.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>")
NAMING = ("special_tokens_map.json", "tokenizer_config.json")  # the later one wins
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")

Ids = Sequence[int] | np.ndarray


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the package knows of a tokenizer."""

    vocab_size: int  # one more than the highest id
    bos_id: int | None
    pad_id: int  # 0 where the tokenizer has none
    unk_id: int | None  # what it puts for what it cannot spell, if there is any
    stop_ids: tuple[int, ...]  # each of them ends an answer; the tokenizer's own eos comes first

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`: nothing is added, a special token's spelling is its id."""
        ...

    def decode(self, ids: Ids) -> str:
        """Returns the text of `ids` without special tokens and ids outside the vocabulary."""
        ...


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads the tokenizer of a model folder, or of a .model or .json file.

    Raises:
      InputError: there is no tokenizer, it cannot be read, or it lacks a token its config names.
    """
    file = _tokenizer_file(path)
    return HuggingFaceTokenizer(file) if file.suffix == ".json" else SentencePieceTokenizer(file)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, where: str) -> None:
    """Refuses a tokenizer with ids beyond an embedding of `vocab_size` rows (fewer is padding).

    Raises:
      InputError: names `where` and both sizes.
    """
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"{where}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, "
            f"but the embedding has only {vocab_size} rows"
        )


def check_stop(tokenizer: Tokenizer, where: str) -> None:
    """Refuses a tokenizer without a stop token, from whose answers no model learns to end its own.

    Raises:
      InputError: names `where`, and the files that could name one.
    """
    if not tokenizer.stop_ids:
        raise InputError(
            f"{where}: the tokenizer names no token that ends an answer, expected eos_token in "
            "tokenizer_config.json or eos_token_id in generation_config.json"
        )


def special_tokens(path: Path) -> dict[str, str]:
    """Returns the spellings of the tokens of ROLES, as far as the files at `path` name them."""
    file = _tokenizer_file(path)
    named = _named_tokens(file.parent)
    if file.suffix == ".json":
        return named
    pieces = _load_pieces(file)
    own = {"bos_token": pieces.bos_id(), "eos_token": pieces.eos_id(), "pad_token": pieces.pad_id()}
    return {role: pieces.id_to_piece(i) for role, i in own.items() if i >= 0} | named


def optional_json(file: Path) -> dict:
    """Reads one of the JSON files beside a tokenizer, which may all be missing.

    Raises:
      InputError: the file holds anything but a JSON object.
    """
    if not file.exists():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: found {type(content).__name__}, expected an object")
    return content


class SentencePieceTokenizer:
    """A sentencepiece model, in which special tokens keep their spelling as in transformers.

    Sentencepiece itself never turns text into a control piece, so the text is cut at the special
    spellings, and each part between them is encoded as the model file says (its dummy prefix
    included, as Meta's Llama 2 code does).
    """

    def __init__(self, file: Path):
        self._pieces = _load_pieces(file)
        self._size = self._pieces.vocab_size()
        own = [
            i for i in range(self._size) if self._pieces.is_control(i) or self._pieces.is_unknown(i)
        ]
        added, added_specials = _added_tokens(file.parent)
        self._added = {self._pieces.id_to_piece(i): i for i in own} | added
        self._spellings = {i: spelling for spelling, i in self._added.items()}
        self._specials = frozenset(own) | added_specials
        longest_first = sorted(self._added, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

        role_ids = _role_ids(file.parent, self._id)
        self.vocab_size = max(self._size, 1 + max(self._spellings))
        self.bos_id = role_ids.get("bos_token", _existing(self._pieces.bos_id()))
        self.pad_id = role_ids.get("pad_token", max(self._pieces.pad_id(), 0))
        self.unk_id = self._pieces.unk_id()
        eos_ids = [role_ids.get("eos_token"), *_eos_ids(file.parent), self._pieces.eos_id()]
        self.stop_ids = _unique(eos_ids, self._end_of_turn_ids())

    def encode(self, text: str) -> list[int]:
        ids = []
        for i, part in enumerate(self._cut.split(text)):
            if i % 2:  # re.split puts what it cut at between the parts
                ids.append(self._added[part])
            elif part:
                ids += self._pieces.encode(part)
        return ids

    def decode(self, ids: Ids) -> str:
        kept = [int(i) for i in ids if int(i) not in self._specials]
        text = []
        for is_added, group in itertools.groupby(kept, key=lambda i: i >= self._size):
            if is_added:
                text += [self._spellings.get(i, "") for i in group]
            else:
                text.append(self._pieces.decode(list(group)))
        return "".join(text)

    def _id(self, spelling: str) -> int | None:
        i = self._added.get(spelling, self._pieces.piece_to_id(spelling))
        return None if i == self._pieces.unk_id() and spelling not in self._added else i

    def _end_of_turn_ids(self) -> list[int]:
        found = [self._added.get(spelling) for spelling in END_OF_TURN]
        return [i for i in found if i in self._specials]


class HuggingFaceTokenizer:
    """A `tokenizer.json`, used as transformers uses it on a rendered chat template."""

    def __init__(self, file: Path):
        try:
            self._tokens = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise InputError(f"{file}: not a Hugging Face tokenizer ({error})") from error
        # A file may carry the settings of somebody's last call; ids must not be cut or padded.
        self._tokens.no_truncation()
        self._tokens.no_padding()

        role_ids = _role_ids(file.parent, self._tokens.token_to_id)
        self.vocab_size = 1 + max(self._tokens.get_vocab().values())  # ids may have holes
        self.bos_id = role_ids.get("bos_token")
        self.pad_id = role_ids.get("pad_token", 0)
        unknown = getattr(self._tokens.model, "unk_token", None)  # not every kind of model has one
        self.unk_id = self._tokens.token_to_id(unknown) if unknown else None
        eos_ids = [role_ids.get("eos_token"), *_eos_ids(file.parent)]
        self.stop_ids = _unique(eos_ids, self._end_of_turn_ids())

    def encode(self, text: str) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Ids) -> str:
        return self._tokens.decode([int(i) for i in ids], skip_special_tokens=True)

    def _end_of_turn_ids(self) -> list[int]:
        added = self._tokens.get_added_tokens_decoder()
        ids = {token.content: i for i, token in added.items() if token.special}
        return [ids[spelling] for spelling in END_OF_TURN if spelling in ids]


class TextStream:
    """Turns the growing ids of one answer into pieces of text that never split a character.

    Only the ids since the last two pieces are decoded again, so a long answer costs linear time;
    the earlier of the two is context, without which a leading space would be lost.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._decode = tokenizer.decode
        self._ids: list[int] = []
        self._context = 0  # where the piece before the unsent ids begins
        self._unsent = 0

    def push(self, ids: Ids) -> str:
        """Returns the text that `ids` complete; an unfinished character waits for its bytes."""
        self._ids += map(int, ids)
        text = self._new_text()
        if not text or text.endswith("\ufffd"):
            return ""
        self._context, self._unsent = self._unsent, len(self._ids)
        return text

    def finish(self) -> str:
        """Returns what is left, with a replacement sign for bytes that are no character."""
        text = self._new_text()
        self._context = self._unsent = len(self._ids)
        return text

    def _new_text(self) -> str:
        sent = self._decode(self._ids[self._context : self._unsent])
        return self._decode(self._ids[self._context :])[len(sent) :]


def _tokenizer_file(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected a tokenizer")
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"{path}: no tokenizer, expected tokenizer.json or tokenizer.model")
    if path.suffix not in (".json", ".model"):
        raise InputError(f"{path}: not a tokenizer, expected a .json or .model file")
    return path


def _load_pieces(file: Path) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.load(str(file))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file}: not a sentencepiece model ({error})") from error
    return pieces


def _named_tokens(folder: Path) -> dict[str, str]:
    named = {}
    for name in NAMING:
        content = optional_json(folder / name)
        for role in ROLES:
            token = content.get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                named[role] = token
    return named


def _role_ids(folder: Path, find: Callable[[str], int | None]) -> dict[str, int]:
    ids = {}
    for role, spelling in _named_tokens(folder).items():
        found = find(spelling)
        if found is not None:
            ids[role] = found
        elif role in ("bos_token", "eos_token"):  # the others are often named and never used
            raise InputError(f"{folder}: {role} {spelling!r} is not in the vocabulary")
    return ids


def _added_tokens(folder: Path) -> tuple[dict[str, int], frozenset[int]]:
    file = folder / "tokenizer_config.json"
    table = optional_json(file).get("added_tokens_decoder")
    if table is None:
        return _older_added_tokens(folder)
    try:
        ids = {token["content"]: int(i) for i, token in table.items()}
        specials = frozenset(int(i) for i, token in table.items() if token.get("special"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: added_tokens_decoder is not a table of tokens") from error
    return ids, specials


def _older_added_tokens(folder: Path) -> tuple[dict[str, int], frozenset[int]]:
    """Those of folders from before 2023, whose other files tell which of them are special."""
    file = folder / "added_tokens.json"
    ids = optional_json(file)
    for spelling, i in ids.items():
        if type(i) is not int or i < 0:
            raise InputError(f"{file}: found {i!r} for {spelling!r}, expected an id")
    named = {*_named_tokens(folder).values()}
    for name in NAMING:
        more = optional_json(folder / name).get("additional_special_tokens") or []
        named.update(token["content"] if isinstance(token, dict) else token for token in more)
    return ids, frozenset(i for spelling, i in ids.items() if spelling in named)


def _eos_ids(folder: Path) -> list[int | None]:
    found = []
    for name in ("generation_config.json", "config.json"):
        ids = optional_json(folder / name).get("eos_token_id")
        ids = ids if isinstance(ids, list) else [ids]
        if not all(i is None or isinstance(i, int) for i in ids):
            raise InputError(f"{folder / name}: eos_token_id {ids}, expected whole numbers")
        found += ids
    return found


def _existing(i: int) -> int | None:
    return i if i >= 0 else None


def _unique(*groups: Iterable[int | None]) -> tuple[int, ...]:
    chained = itertools.chain(*groups)
    return tuple(dict.fromkeys(i for i in chained if i is not None and i >= 0))
