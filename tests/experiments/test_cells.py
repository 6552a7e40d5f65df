"""Cells from rows, series and seeds."""

import pytest

from configs import default
from overfill_jax.errors import InputError
from overfill_jax.experiments.cells import cells_of


def configure(**settings):
    config = default.get_config()
    config.experiment.update(settings)
    return config


def test_every_row_meets_every_series_and_seed():
    config = configure(
        rows=("a quarter: prune.hidden=0.25 prune.intermediate=0.3", "as it is: "),
        series=("KL: train.kl_weight=1.0", ""),
        seeds=(0, 7),
    )
    cells = cells_of(config)
    assert [cell.title for cell in cells[:4]] == [
        "a quarter, KL, seed 0", "a quarter, seed 0", "as it is, KL, seed 0", "as it is, seed 0",
    ]  # fmt: skip
    assert [cell.seed for cell in cells] == [0] * 4 + [7] * 4
    assert cells[4].folder == "a-quarter_KL_seed-7"
    assert len({cell.folder for cell in cells}) == 8
    first, last = cells[0].config, cells[-1].config
    assert (first.prune.hidden, first.prune.intermediate, first.train.kl_weight) == (0.25, 0.3, 1.0)
    assert (last.prune.hidden, last.train.kl_weight, last.seed) == (0.45, 0.0, 7)
    assert (config.prune.hidden, config.seed) == (0.45, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": ()}, r"experiment\.rows: found none"),
        ({"seeds": ()}, r"experiment\.seeds: found none"),
        ({"rows": ("prune.hidden=1",)}, r"experiment\.rows: found 'prune\.hidden=1', expected"),
        ({"rows": ("a: prune.hiden=1",)}, r"experiment\.rows: .*hiden"),
        ({"series": ("a: prune.hidden=wide",)}, r"experiment\.series: .*hidden"),
        ({"rows": ("a: ", "a: seed=3")}, r"two cells 'a_seed-0'"),
    ],
)
def test_what_makes_no_cells_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        cells_of(configure(**settings))
