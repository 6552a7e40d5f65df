import matplotlib.image
import numpy as np
import pytest

from configs.default import get_config
from overfill_jax.errors import InputError
from overfill_jax.pruning import prune
from overfill_jax.pruning.importance import Importance, save_importance
from overfill_jax.reporting.pruned import COLOURS, pruned_section
from overfill_jax.weights.folders import load_fingerprint, save_model
from tests.builders import CONFIG, make_model


@pytest.fixture
def workdir(tmp_path):
    """A full model, its importance and a cut to a half."""
    save_model(tmp_path / "full", make_model(), None)
    rng = np.random.default_rng(0)
    importance = Importance(
        hidden=rng.uniform(0.1, 1, CONFIG.hidden_size).astype(np.float32),
        intermediate=rng.uniform(
            0.1, 1, (CONFIG.num_layers, CONFIG.intermediate_size)
        ).astype(np.float32),
        provenance={"model": load_fingerprint(tmp_path / "full")},
    )  # fmt: skip
    save_importance(tmp_path / "importance.npz", importance)
    config = get_config()
    config.prune.hidden = config.prune.intermediate = 0.5
    prune.run(config, tmp_path)
    return tmp_path


def test_sizes_before_and_after(workdir):
    section = pruned_section(workdir, workdir / "report")
    half = CONFIG.hidden_size // 2
    assert f"| hidden size | {CONFIG.hidden_size} | {half} | 50.0% |" in section.body
    assert f"| num layers | {CONFIG.num_layers} | {CONFIG.num_layers} | 100.0% |" in section.body
    assert "| total | " in section.body


def test_importance_shows_what_stays(workdir):
    section = pruned_section(workdir, workdir / "report")
    assert section.body.endswith("(report/importance.png)")
    picture = matplotlib.image.imread(workdir / "report" / "importance.png")[..., :3]
    for colour in COLOURS.values():
        rgb = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (np.abs(picture - rgb).max(axis=-1) < 0.02).sum() > 50


def test_importance_of_another_model_is_refused(workdir):
    save_model(workdir / "full", make_model(seed=1), None)
    with pytest.raises(InputError, match=r"importance\.npz: importance of another model"):
        pruned_section(workdir, workdir / "report")


def test_nothing_pruned(tmp_path):
    assert pruned_section(tmp_path, tmp_path) is None
