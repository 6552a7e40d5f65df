"""The public names do what their examples say, on a model of our own."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overfill_jax
from configs import default
from overfill_jax.data import procedural
from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.weights.folders import save_model
from tests.builders import make_model


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rows = procedural.splits({"train": 60}, seed=0)["train"]
    procedural.train_tokenizer(rows, 256, folder / "tokenizer")
    save_model(folder / "full", make_model(vocab_size=256, qkv_bias=False), folder / "tokenizer")
    return overfill_jax.load(folder / "full")


@pytest.fixture(scope="module")
def importance(full):
    return overfill_jax.calibrate(full, ["Ann has 3.", "Bob has 4 and wins 5."])


@pytest.fixture(scope="module")
def decoder(full, importance):
    return overfill_jax.prune(full, importance, hidden=0.5, intermediate=20)


def test_the_names_are_about_a_dozen_and_documented():
    assert 10 <= len(overfill_jax.__all__) <= 14
    for name in ("load", "calibrate", "prune", "TwoStage", "save", "export"):
        assert (
            f">>> {'overfill_jax.' if name == 'save' else ''}"
            in getattr(overfill_jax, name).__doc__
        )


def test_defaults_are_those_of_the_config():
    config = default.get_config()
    declared = {
        overfill_jax.calibrate: config.calibrate,
        overfill_jax.prune: config.prune,
        overfill_jax.TwoStage.generate: config.generate,
        overfill_jax.TwoStage.stream: config.generate,
        overfill_jax.export: config.export,
    }
    for function, section in declared.items():
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not inspect.Parameter.empty and name in section:
                assert parameter.default == section[name], (function, name)


def test_prune_keeps_the_widths_asked_for(full, decoder):
    assert (decoder.config.hidden_size, decoder.config.intermediate_size) == (12, 20)
    assert full.config.hidden_size == 24


def test_token_batches_calibrate_as_texts_do(full):
    text = "Ann has 3."
    by_text = overfill_jax.calibrate(full, [text])
    by_tokens = overfill_jax.calibrate(full, [np.array([full.tokenizer.encode(text)])])
    np.testing.assert_allclose(by_text.hidden, by_tokens.hidden, rtol=1e-6)
    assert by_text.provenance == by_tokens.provenance


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_prefill_and_extend_agree_with_the_model_alone(full, first_token):
    pair = overfill_jax.TwoStage(full, full, first_token)
    tokens = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
    lengths = np.array([4, 2])
    logits, cache = pair.prefill(tokens, lengths)
    more = np.array([[11, 12, 13], [14, 15, 16]])
    rest, after = pair.extend(more, cache)
    for b, length in enumerate(lengths):
        row = jnp.asarray(np.concatenate([tokens[b, :length], more[b]]))[None]
        hidden, _, _ = hidden_states(
            full.model, row, jnp.arange(row.shape[1])[None], jnp.ones_like(row)
        )
        expected = unembed(full.model, hidden)[0]
        np.testing.assert_allclose(logits[b], expected[length - 1], atol=2e-5)
        np.testing.assert_allclose(rest[b], expected[length:], atol=2e-5)
    assert int(after.cursor) == int(cache.cursor) + 3


def test_extend_makes_room_as_it_goes(full, decoder):
    pair = overfill_jax.TwoStage(full, decoder)
    _, cache = pair.prefill(np.array([[5, 6, 7]]), np.array([3]))
    room = cache.capacity - int(cache.cursor)
    tokens = np.arange(room + 3)[None] % 200
    at_once, _ = pair.extend(tokens, cache)
    first, cache = pair.extend(tokens[:, :room], cache)
    rest, cache = pair.extend(tokens[:, room:], cache)
    together = np.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(together, at_once, atol=3e-5)


def test_texts_conversations_and_tokens_are_answered_alike(full, decoder):
    pair = overfill_jax.TwoStage(full, decoder)
    question = "how many has Ann?"
    message = [{"role": "user", "content": question}]
    texts = pair.generate([question, message], max_new_tokens=6)
    assert texts[0] == texts[1]
    (tokens,) = pair.generate([pair.encode(question)], max_new_tokens=6)
    assert full.tokenizer.decode(tokens.tolist()) == texts[0]
    assert "".join(pair.stream(question, max_new_tokens=6)) == texts[0]


def test_save_load_and_export(full, decoder, tmp_path):
    overfill_jax.save(decoder, tmp_path / "ours")
    overfill_jax.export(decoder, tmp_path / "hf", allow_illegal_widths=True)
    for folder in ("ours", "hf"):
        again = overfill_jax.load(tmp_path / folder)
        jax.tree.map(np.testing.assert_array_equal, again.params, decoder.params)
        assert again.tokenizer.encode("Ann has 3.") == decoder.tokenizer.encode("Ann has 3.")


def test_importance_of_another_model_is_refused(decoder, importance):
    with pytest.raises(overfill_jax.InputError, match="measured on another model"):
        overfill_jax.prune(decoder, importance)


def test_models_that_do_not_fit_are_refused(full, tmp_path):
    other = make_model(vocab_size=256, qkv_bias=False, num_layers=2)
    save_model(tmp_path / "other", other, full.folder)
    with pytest.raises(overfill_jax.InputError, match="num_layers is 2"):
        overfill_jax.TwoStage(full, overfill_jax.load(tmp_path / "other"))
