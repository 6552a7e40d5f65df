"""Tiny models with random weights, and tokenizers that need no files."""

from collections.abc import Iterator

import jax
import pytest

from overfill_jax.inference import engine_steps
from overfill_jax.inference.engine_steps import read_first
from overfill_jax.model.transformer import Model
from tests.builders import CONFIG, random_model
from tests.inference.doubles import Spelled


@pytest.fixture(scope="session")
def full() -> Model:
    return random_model(0, num_layers=2)


@pytest.fixture(scope="session")
def decoder() -> Model:
    return random_model(1, num_layers=2, hidden_size=14, intermediate_size=20)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The programs that were compiled since, by name."""
    found = []

    def note(event: str, seconds: float, fun_name: str = "", **others) -> None:
        if "backend_compile" in event:
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def pairs() -> Spelled:
    """Every token is two letters, so that a string may begin in the middle of one."""
    return Spelled(lambda ids: "".join(chr(97 + i % 26) + chr(65 + i // 26) for i in ids))


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Ragged, and more than one bucket long."""
    lengths = (5, 23, 1, 14, 20, 9)
    return [
        [(7 * i + 3 * row + i * i) % CONFIG.vocab_size for i in range(n)]
        for row, n in enumerate(lengths)
    ]


@pytest.fixture
def read_at_once(monkeypatch):
    """How many prompts each call reads, and their slots."""
    calls = []

    def noted(reader, tokens, counts, slots):
        calls.append(tokens.shape)
        return read_first(reader, tokens, counts, slots=slots)

    monkeypatch.setattr(engine_steps, "read_first", noted)
    return calls
