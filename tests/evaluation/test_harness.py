"""What the harness stage refuses; what it does is tested where lm-eval is, in test_lm_eval."""

import pytest

from configs.default import get_config
from overfill_jax.errors import InputError
from overfill_jax.evaluation import harness, optional


@pytest.fixture
def config():
    return get_config()


def test_a_missing_package_is_named(config, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"stage harness: found no lm-eval.*\[harness\]"):
        harness.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names, first_token, kinds, told",
    [
        (["full", "decoder"], "full", {"multiple_choice", "generate_until"}, True),
        (["full", "decoder"], "full", {"loglikelihood"}, True),
        (["full", "decoder"], "full", {"generate_until", "loglikelihood_rolling"}, False),
        (["full", "decoder"], "decoder", {"multiple_choice"}, False),
        (["full"], "full", {"multiple_choice"}, False),
    ],
)
def test_the_report_says_whose_the_first_token_of_a_choice_is(names, first_token, kinds, told):
    text = harness.as_report(names, {"generate.first_token": first_token}, "| a |", kinds)
    assert text.startswith(f"# lm-eval: {', '.join(names)}\n\n| a |\n\nWith `generate.first_token=")
    sentence = (
        "\n\nThe first token of every choice is scored by the full model (`first_token=full`)"
    )
    assert (sentence in text) == told


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("shots", -1, "harness.shots: found -1, expected at least 0"),
        ("limit", -1, "harness.limit: found -1"),
        ("batch_size", 0, "harness.batch_size: found 0, expected at least 1"),
        ("tasks", (), "harness.tasks: found none"),
        ("folder", "nowhere", "harness.folder: found no folder nowhere"),
    ],
)
def test_settings_out_of_range_are_named(config, key, value, message):
    config.harness[key] = value
    with pytest.raises(InputError, match=message):
        harness.load_tasks(config.harness)


def test_an_unknown_task_is_named_with_the_nearest(config):
    pytest.importorskip("lm_eval")
    config.harness.tasks = ("gsm8k_cot_lama",)
    with pytest.raises(InputError, match=r"no task 'gsm8k_cot_lama'; did you mean 'gsm8k_cot_lla"):
        harness.load_tasks(config.harness)
