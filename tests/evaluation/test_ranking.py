import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overfill_jax import two_stage
from overfill_jax.evaluation.exam import Asked
from overfill_jax.evaluation.ranking import rank
from overfill_jax.evaluation.tasks.question import Question
from overfill_jax.inference.generation import Generator
from tests.builders import CONFIG, make_model


def make_asked() -> list[Asked]:
    """Five questions of three or four choices, of different lengths."""
    rng = np.random.default_rng(0)

    def draw(length: int) -> list[int]:
        return rng.integers(1, CONFIG.vocab_size, length).tolist()

    # Few lengths, for each is compiled for.
    prompts, choices = (6, 21, 6, 21, 6), (1, 3, 3, 1)
    return [
        Asked(Question(f"{n}", [], 0), "", draw(prompt), [*map(draw, choices[: 3 + n % 2])])
        for n, prompt in enumerate(prompts)
    ]


def pair(reader, writer, first_token: str) -> Generator:
    return Generator(reader, writer, first_token, stop_ids=(), pad_id=0)


@jax.jit
def by_hand(reader, writer, prompt, choice):
    """One choice alone, without padding, by the functions of the paper."""
    lengths = jnp.array([prompt.shape[0]])
    first, cache = two_stage.prefill(reader, prompt[None], lengths, choice.shape[0])
    more, _ = two_stage.extend(writer, choice[None], cache)
    likelihoods = jax.nn.log_softmax(jnp.concatenate([first, more[0, :-1]]))
    return jnp.take_along_axis(likelihoods, choice[:, None], axis=1).sum()


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.long), 8])
def test_likelihoods_are_those_of_each_choice_alone(batch_size):
    reader, writer = make_model(0), make_model(1, hidden_size=16)
    asked = make_asked()
    ranked = list(rank(pair(reader, writer, "full"), asked, batch_size))
    assert sorted(one.question.id for one, _ in ranked) == [one.question.id for one in asked]
    for one, found in ranked:
        expected = [
            by_hand(reader, writer, jnp.array(one.tokens), jnp.array(c)) for c in one.choices
        ]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pair_differs_from_its_full_model_behind_the_first_token():
    reader, writer = make_model(0), make_model(1, hidden_size=16)
    together = list(rank(pair(reader, writer, "full"), make_asked(), 8))
    alone = list(rank(pair(reader, reader, "full"), make_asked(), 8))
    for (one, two_stage_found), (_, full_found) in zip(together, alone, strict=True):
        for choice, mine, other in zip(one.choices, two_stage_found, full_found, strict=True):
            assert (len(choice) == 1) == (abs(mine - other) < 1e-5)


def test_the_decoder_scores_every_token_if_it_gives_the_first():
    reader, writer = make_model(0), make_model(1, hidden_size=16)
    together = list(rank(pair(reader, writer, "decoder"), make_asked(), 8))
    alone = list(rank(pair(reader, reader, "decoder"), make_asked(), 8))
    for (_, two_stage_found), (_, full_found) in zip(together, alone, strict=True):
        assert not np.isclose(two_stage_found, full_found, atol=1e-3).any()
