"""Where an answer ends, and which text is certain while it grows."""

import pytest

from overfill_jax.inference.answers import Answer, Draft
from tests.inference.doubles import Spelled

# Single bytes as tokens: characters beyond ASCII take several.
BYTES = Spelled(lambda ids: bytes(ids).decode(errors="replace"))


def grow(draft: Draft, text: str, chunk: int) -> list[str]:
    """Adds the bytes of `text` in chunks; returns the pieces released after each."""
    ids, pieces = list(text.encode()), []
    for start in range(0, len(ids), chunk):
        draft.add(ids[start : start + chunk])
        pieces.append(draft.release())
    return pieces


def test_stop_token_ends_and_is_left_out():
    draft = Draft(6, [7, 9], (), None)
    draft.add([1, 2])
    assert not draft.ended
    draft.add([3, 9, 4])
    assert draft.ended
    draft.add([5])
    assert draft.answer() == Answer([1, 2, 3], "", "stop")


def test_stop_token_in_the_last_place_is_a_stop_and_no_room_is_a_length():
    stopped, cut = Draft(2, [9], (), None), Draft(2, [9], (), None)
    stopped.add([1, 9, 3])
    cut.add([1, 2, 9])
    assert stopped.answer() == Answer([1], "", "stop")
    assert cut.answer() == Answer([1, 2], "", "length")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_text_ends_before_the_first_stop_string_wherever_chunks_fall(chunk):
    draft = Draft(100, [], ("\nQ:", "###"), BYTES)
    pieces = grow(draft, "one\ntwo ## three\nQ: four ### five", chunk)
    assert "".join(pieces) == "one\ntwo ## three"
    assert draft.answer() == Answer(list(b"one\ntwo ## three"), "one\ntwo ## three", "stop")


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_of_stop_strings_that_overlap_the_one_that_is_complete_first_counts(chunk):
    draft = Draft(100, [], ("abcd", "bc", "c"), BYTES)
    assert "".join(grow(draft, "xyabcdz", chunk)) == "xya"
    assert draft.answer() == Answer(list(b"xya"), "xya", "stop")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_what_only_looked_like_a_stop_string_is_released_in_the_end(chunk):
    draft = Draft(len("EN ENTER EN"), [], ("END",), BYTES)
    pieces = grow(draft, "EN ENTER EN", chunk)
    assert "".join(pieces) == "EN ENTER EN"
    assert not any(piece.endswith(("E", "EN")) for piece in pieces[:-1])
    assert draft.answer().reason == "length"


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_characters_are_released_whole(chunk):
    draft = Draft(100, [], ("→!",), BYTES)
    pieces = grow(draft, "é→ü→!x", chunk)
    assert "".join(pieces) == "é→ü"
    assert not any("\ufffd" in piece for piece in pieces)
    assert bytes(draft.answer().tokens).decode() == "é→ü"


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    draft = Draft(3, [], (), BYTES)
    draft.add([104, 0xE2])
    first = draft.release()
    draft.add([0x86])
    assert first + draft.release() == draft.answer().text == "h\ufffd"


def test_stop_string_inside_a_token_cuts_the_token():
    words = Spelled(lambda ids: "".join(("ab", "cd", "ef")[i] for i in ids))
    draft = Draft(9, [], ("de",), words)
    draft.add([0, 1, 2, 0])
    assert draft.answer() == Answer([0], "abc", "stop")
