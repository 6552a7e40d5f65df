"""What the public names do beyond their examples, on a model of our own."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overfill_jax
from overfill_jax.data import procedural
from overfill_jax.data.tokenizer_training import train_tokenizer
from overfill_jax.model.quantised import Scheme, quantise_model
from overfill_jax.model.transformer import hidden_states, unembed
from overfill_jax.pruning import samples
from overfill_jax.weights.folders import save_model
from tests.builders import make_model, texts_of


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rows = procedural.splits({"train": 60}, seed=0)["train"]
    train_tokenizer(texts_of(rows), 256, folder / "tokenizer")
    shape = {"vocab_size": 256, "qkv_bias": False, "max_position": 256}
    save_model(folder / "full", make_model(**shape), folder / "tokenizer")
    return overfill_jax.load(folder / "full")


@pytest.fixture(scope="module")
def importance(full):
    return overfill_jax.calibrate(full, ["Ann has 3.", "Bob has 4 and wins 5."])


@pytest.fixture(scope="module")
def decoder(full, importance):
    return overfill_jax.prune(full, importance, hidden=0.5, intermediate=20)


def test_a_model_is_shown_without_its_weights(full):
    shown = repr(full)
    assert "hidden_size=" in shown
    assert "params" not in shown
    assert "\n" not in shown


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
    assert room + 6 <= decoder.config.max_position
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


def test_fewer_heads_and_layers_take_the_same_ways(full, importance, tmp_path):
    decoder = overfill_jax.prune(
        full, importance, 0.5, 20, heads=0.5, kv_heads=1, depth=2, layers=[0, 2]
    )
    assert decoder.config.handoff.layers == (0, 2)
    pair = overfill_jax.TwoStage(full, decoder)
    _, cache = pair.prefill(np.array([[5, 6, 7]]), np.array([3]))
    assert cache.key.shape[0] == 2 and cache.key.shape[3] == 1
    _, after = pair.extend(np.array([[8, 9]]), cache)
    assert after.key.shape == cache.key.shape
    expected = pair.generate(["how many has Ann?"], max_new_tokens=6)
    overfill_jax.save(decoder, tmp_path / "ours")
    overfill_jax.export(decoder, tmp_path / "hf", allow_illegal_widths=True)
    for folder in ("ours", "hf"):
        again = overfill_jax.TwoStage(full, overfill_jax.load(tmp_path / folder))
        assert again.generate(["how many has Ann?"], max_new_tokens=6) == expected
    alone = overfill_jax.TwoStage(decoder, decoder)
    assert len(alone.generate(["how many has Ann?"], max_new_tokens=2)) == 1
    beyond = dataclasses.replace(decoder.config.handoff, layers=(0, 7))
    config = dataclasses.replace(decoder.config, handoff=beyond)
    model = dataclasses.replace(decoder.model, config=config)
    with pytest.raises(overfill_jax.InputError, match=r"names layer 7, expected 0\.\.2"):
        overfill_jax.TwoStage(full, dataclasses.replace(decoder, model=model))


def test_weights_in_integers_answer_and_do_nothing_else(full, importance, decoder, tmp_path):
    quantised = dataclasses.replace(decoder, model=quantise_model(decoder.model, Scheme(8, 0)))
    overfill_jax.save(quantised, tmp_path / "int8")
    loaded = overfill_jax.load(tmp_path / "int8", mesh=jax.make_mesh((1, 1), ("data", "tensor")))
    assert loaded.fingerprint == decoder.fingerprint
    assert all(leaf.sharding.mesh.axis_names for leaf in jax.tree.leaves(loaded.params))
    with pytest.raises(overfill_jax.InputError, match="mesh"):
        overfill_jax.load(tmp_path / "int8", mesh=jax.make_mesh((1,), ("rows",)))
    for one, other in zip(*map(jax.tree.leaves, (loaded.params, quantised.params)), strict=True):
        np.testing.assert_array_equal(one, other)
    pair, same = (overfill_jax.TwoStage(full, model) for model in (loaded, quantised))
    assert pair.generate(["Hello!"], 8) == same.generate(["Hello!"], 8)

    prompt = np.array([[5, 6, 7]]), np.array([3])
    _, cache = pair.prefill(*prompt)
    for name, use in {
        "calibrate": lambda: overfill_jax.calibrate(loaded, ["Ann has 3."]),
        "prune": lambda: overfill_jax.prune(loaded, None, selection="first"),
        "export": lambda: overfill_jax.export(loaded, tmp_path / "hf"),
        "prefill": lambda: overfill_jax.TwoStage(loaded, loaded).prefill(*prompt),
        "extend": lambda: pair.extend(np.array([[8]]), cache),
    }.items():
        with pytest.raises(overfill_jax.InputError, match=f"{name}: .*int8 holds quantised"):
            use()


def test_norms_are_corrected_by_what_importance_says_of_them(full, decoder, importance):
    other = overfill_jax.prune(full, importance, 0.5, 20, norm_correction=True)
    scales = [one.params["final_norm"]["scale"] for one in (other, decoder)]
    kept = np.isin(full.params["embed"]["embedding"], decoder.params["embed"]["embedding"]).all(0)
    factor = np.sqrt(importance.energy[-1, kept].mean())
    np.testing.assert_allclose(scales[0], factor * scales[1], rtol=1e-5)
    without = dataclasses.replace(importance, energy=None)
    with pytest.raises(overfill_jax.InputError, match="run calibrate again"):
        overfill_jax.prune(full, without, 0.5, 20, norm_correction=True)


def test_importance_of_another_model_is_refused(decoder, importance):
    with pytest.raises(overfill_jax.InputError, match="measured on another model"):
        overfill_jax.prune(decoder, importance)


def test_text_is_read_as_it_is_needed(full, monkeypatch):
    drawn = []
    lines = (drawn.append(number) or f"Ann has {number}." for number in range(6))

    def measure(model, batches, *_):
        assert drawn == [0]  # the first, to see what it is
        assert [int(batch.valid[:, 0].sum()) for batch in batches] == [4, 2]
        return overfill_jax.Importance(np.ones(24), np.ones((3, 40)), {})

    monkeypatch.setattr(overfill_jax.api.pruning, "measure_importance", measure)
    overfill_jax.calibrate(full, lines, batch_size=4)
    assert drawn == list(range(6))


def test_streamed_texts_have_no_progress_bar_each(full, monkeypatch):
    """In a notebook each would be a widget, and one that waits for its batch is shown."""
    monkeypatch.setattr(samples, "tqdm", lambda *_, **__: pytest.fail("a bar"))
    assert overfill_jax.calibrate(full, ["Ann has 3.", ""]).provenance["samples"] == 1


def test_one_array_of_tokens_is_one_batch(full):
    tokens = np.array([[5, 6, 7], [8, 9, 10]])
    one = overfill_jax.calibrate(full, tokens)
    listed = overfill_jax.calibrate(full, [jnp.asarray(tokens)])
    np.testing.assert_array_equal(one.hidden, listed.hidden)
    assert one.provenance["samples"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ann has 3.", "text is one string, expected a list of strings"),
        ([np.array([5, 6])], r"batch 0 has shape \(2,\) and dtype int64, expected tokens"),
        ([np.ones((1, 2))], "batch 0 has shape .* dtype float64, expected tokens"),
        ([np.array([[5, 256]])], r"batch 0 has tokens 5\.\.256, expected 0\.\.255"),
        ([np.array([[5]]), np.array([[-1]])], r"batch 1 has tokens -1\.\.-1, expected"),
        ([], "no sample"),
        (["", "  "], "no sample"),
        (np.zeros((0, 5), int), r"batch 0 has shape \(0, 5\) and dtype int64, expected tokens"),
        ([np.array([[5]]), np.zeros((2, 0), int)], r"batch 1 has shape \(2, 0\)"),
        ([[[5, 6], [7]]], r"batch 0 has shape \(\) and dtype object, expected tokens"),
        (["Ann has 3.", np.array([[5]])], "sample 1 is ndarray, expected text as the first is"),
        ([np.array([[5]]), "Ann has 3."], r"batch 1 has shape \(\) and dtype <U10"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_calibrated_on_is_refused(full, text, message):
    calibrate = inspect.unwrap(overfill_jax.calibrate)
    with pytest.raises(overfill_jax.InputError, match=message):
        calibrate(full, text)


def test_prompts_are_a_list(full, decoder):
    pair = overfill_jax.TwoStage(full, decoder)
    generate = inspect.unwrap(overfill_jax.TwoStage.generate)  # without its check of types
    message = {"role": "user", "content": "hello"}
    tokens = np.array([5, 6])
    for prompts in ("hello", [message], [5, 6], tokens, jnp.asarray(tokens), list(tokens)):
        with pytest.raises(overfill_jax.InputError, match=r"prompts is .*, expected a list"):
            generate(pair, prompts)
    for prompts in (np.array(5), jnp.int32(5), np.array("hello"), 5, None, {"a": 1}):
        with pytest.raises(overfill_jax.InputError, match=r"prompts is .*, expected a list"):
            generate(pair, prompts)
    assert len(generate(pair, np.array([[5, 6], [7, 8]]), max_new_tokens=1)) == 2


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "'prompt' is empty"),
        (" \n", "'prompt' is empty"),
        ([user("hello"), user("  ")], "message 2: 'content' is empty"),
        ([{"role": "user"}], "message 1: no 'content'"),
        ([user(3)], "message 1: 'content' is int, expected text"),
        ([user("hello"), "you"], "'messages' is not a list of objects"),
        ([{"role": "system", "content": "Be brief."}], "empty prompt: no message of a user"),
        ([], "found no tokens"),
        (["hello", "you"], "found list of str, expected text, messages or a row of tokens"),
        ([5, "you"], "found list of int, str, expected"),
        ([5.0, 6.0], "found list of float, expected"),
        ([[5], [6, 7]], "found list of list, expected"),
        (np.array([[5]]), r"found an array of shape \(1, 1\) and dtype int64, expected"),
        (user("hello"), "found dict, expected"),
        (None, "found NoneType, expected"),
        ([5, 256], "found token 256, expected 0 to 255"),
    ],
)
def test_a_prompt_that_is_none_is_named_by_its_row(full, decoder, monkeypatch, prompt, message):
    pair = overfill_jax.TwoStage(full, decoder)
    unchecked = inspect.unwrap(overfill_jax.TwoStage.encode)
    monkeypatch.setattr(overfill_jax.TwoStage, "encode", unchecked)
    generate = inspect.unwrap(overfill_jax.TwoStage.generate)
    with pytest.raises(overfill_jax.InputError, match=f"^prompt 1: {message}"):
        generate(pair, ["hello", prompt], max_new_tokens=1)


def test_an_answer_that_a_conversation_has_is_left_out(full, decoder):
    pair = overfill_jax.TwoStage(full, decoder)
    answered = [user("hello"), {"role": "assistant", "content": "no"}]
    assert pair.encode(answered) == pair.encode("hello")


ROWS = np.array([[5, 6, 7], [8, 9, 0]])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        (ROWS + 250, [3, 2], r"tokens: found 250..259, expected 0..255"),
        (ROWS - 1, [3, 2], r"tokens: found -1..8, expected 0..255"),
        (ROWS, [4, 2], r"lengths: found 2..4, expected 1..3"),
        (ROWS, [3, 0], r"lengths: found 0..3, expected 1..3"),
        (ROWS, [3], "found 1 lengths, expected one for each of 2 rows"),
        (ROWS, 3, r"lengths: found shape \(\) and dtype int\d\d, expected whole numbers \[B\]"),
        (ROWS[0], [3], r"tokens: found shape \(3,\) and dtype int\d\d, expected .* \[B, P\]"),
        (ROWS[:0], [3], r"tokens: found shape \(0, 3\)"),
        (ROWS * 1.0, [3, 2], r"tokens: found shape \(2, 3\) and dtype float"),
        (np.ones((1, 260), int), [257], r"lengths: found 257..257, expected 1..256"),
    ],
)
def test_what_prefill_cannot_read_is_refused(full, decoder, array, tokens, lengths, message):
    pair = overfill_jax.TwoStage(full, decoder)
    prefill = inspect.unwrap(overfill_jax.TwoStage.prefill)
    with pytest.raises(overfill_jax.InputError, match=f"^prefill: {message}"):
        prefill(pair, array(tokens), array(lengths))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[5], [256]], r"tokens: found 5..256, expected 0..255"),
        ([[5], [-1]], r"tokens: found -1..5, expected 0..255"),
        ([5, 6], r"tokens: found shape \(2,\)"),
        ([[5], [6, 7]], r"tokens: found shape \(\) and dtype object"),
        ([[5]], "found 1 rows of tokens, expected 2 as in the cache"),
        (np.ones((2, 254), int), r"254 tokens behind rows of: found 2..3, expected 0..2"),
    ],
)
def test_what_extend_cannot_read_is_refused(full, decoder, tokens, message):
    pair = overfill_jax.TwoStage(full, decoder)
    _, cache = pair.prefill(ROWS, np.array([3, 2]))
    with pytest.raises(overfill_jax.InputError, match=f"^extend: {message}"):
        inspect.unwrap(overfill_jax.TwoStage.extend)(pair, tokens, cache)


@pytest.mark.parametrize("first_token", ["full", "decoder"])
def test_a_pair_can_be_traced(full, decoder, first_token):
    pair = overfill_jax.TwoStage(full, decoder, first_token)

    def both(tokens, lengths, more):
        logits, cache = pair.prefill(tokens, lengths)
        return logits, pair.extend(more, cache)[0]

    given = ROWS, np.array([3, 2]), np.array([[4, 5], [6, 7]])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        jax.jit(both)(*given),
        both(*given),
    )


def test_calibration_computes_in_float32_whatever_the_weights_are(full):
    text, half = ["Ann has 3.", "Bob has 4 and wins 5."], overfill_jax.load(full.folder, "bfloat16")
    whole = dataclasses.replace(half.config, dtype="float32")
    expected = overfill_jax.calibrate(
        dataclasses.replace(half, model=dataclasses.replace(half.model, config=whole)), text
    )
    found = overfill_jax.calibrate(half, text)
    np.testing.assert_array_equal(found.hidden, expected.hidden)
    assert found.provenance["dtype"] == "float32"
    coarse = overfill_jax.calibrate(half, text, dtype="bfloat16")
    assert coarse.provenance["dtype"] == "bfloat16"
    assert np.any(coarse.hidden != found.hidden)
    with pytest.raises(overfill_jax.InputError, match="calibrate: dtype is 'fp32', expected one"):
        overfill_jax.calibrate(full, text, dtype="fp32")


def test_a_selection_without_importance_needs_none(full):
    decoder = overfill_jax.prune(full, None, hidden=0.5, intermediate=20, selection="first")
    kernel = full.params["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(
        decoder.params["layers"]["mlp"]["up"]["kernel"], kernel[:, :12, :20]
    )


def test_a_decoder_of_another_model_or_training_is_refused(full, decoder, tmp_path):
    origin = dataclasses.replace(decoder.origin, first_token="decoder")
    overfill_jax.save(dataclasses.replace(decoder, origin=origin), tmp_path / "decoder")
    trained = overfill_jax.load(tmp_path / "decoder")
    assert overfill_jax.TwoStage(full, trained, "decoder").first_token == "decoder"
    with pytest.raises(overfill_jax.InputError, match="trained with first_token 'decoder'"):
        overfill_jax.TwoStage(full, trained)
    save_model(tmp_path / "other", make_model(7, vocab_size=256, qkv_bias=False), full.folder)
    other = overfill_jax.load(tmp_path / "other")
    with pytest.raises(overfill_jax.InputError, match="made from another full model"):
        overfill_jax.TwoStage(other, decoder)
    assert overfill_jax.TwoStage(trained, overfill_jax.load(tmp_path / "decoder"))


def test_the_source_is_never_overwritten(full, decoder):
    for write in (overfill_jax.save, overfill_jax.export):
        with pytest.raises(overfill_jax.InputError, match="holds the source"):
            write(dataclasses.replace(decoder, folder=full.folder), full.folder)
    assert overfill_jax.load(full.folder).fingerprint == full.fingerprint


def test_models_that_do_not_fit_are_refused(full, tmp_path):
    other = make_model(vocab_size=256, qkv_bias=False, num_layers=2)
    save_model(tmp_path / "other", other, full.folder)
    with pytest.raises(overfill_jax.InputError, match="num_layers is 2"):
        overfill_jax.TwoStage(full, overfill_jax.load(tmp_path / "other"))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_is_refused(full):
    with pytest.raises(overfill_jax.InputError, match="TwoStage: decoder is a str, expected a mod"):
        overfill_jax.TwoStage(full, "runs/3b/decoder")
