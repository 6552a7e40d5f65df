import re

import matplotlib.image
import pytest

from overfill_jax.data.instructions import Rejected
from overfill_jax.evaluation import report
from overfill_jax.evaluation.table import SHOWN

SETTINGS = {"source": "rows.jsonl", "rows": 4}


def test_report_shows_everything(results, tmp_path):
    curves = tmp_path / "metrics" / "two_stage" / "curves.png"
    curves.parent.mkdir(parents=True)
    curves.touch()
    rejected = [Rejected(7, "no 'prompt'"), Rejected(9, "prompt longer than 8 tokens")]
    path = report.write(results, SETTINGS, rejected, samples=2, workdir=tmp_path)
    text = path.read_text()
    assert path == tmp_path / "report" / "report.md"
    assert "- source: `rows.jsonl`" in text
    assert "| two-stage | 350 k | 1.4 MB | 0.200 | 1.000 | 0.500 | 0.750 | 6.5 |" in text
    assert "Two-stage closes 66.7% of the gap" in text
    assert "| two-stage | 0.5 | 1.0 | 2.0 |" in text
    assert "## Rows that could not be used: 2\n\n- line 7: no 'prompt'\n- line 9:" in text
    for image in re.findall(r"!\[.+\]\((.+)\)", text):
        assert (path.parent / image).is_file(), image


def test_plots_are_pictures(results, tmp_path):
    report.write(results, SETTINGS, [], samples=0, workdir=tmp_path)
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "accuracy.png",
        "loss.png",
        "report.md",
        "summary.json",
    ]
    for name in ("accuracy.png", "loss.png"):
        picture = matplotlib.image.imread(tmp_path / "report" / name)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.05  # something is drawn


def test_samples_set_the_answers_side_by_side(results, tmp_path):
    text = report.write(results, SETTINGS, [], samples=2, workdir=tmp_path).read_text()
    assert text.count("### Line ") == 2
    start = text.index("### Line 2, sort")
    assert text[start:].splitlines()[2:8] == [
        "| prompt | prompt 2 |  |",
        "|---|---|---|",
        "| reference | right 2 |  |",
        "| full | right 2 | ✓ |",
        "| two-stage | right 2 | ✓ |",
        "| pruned, tuned | \\<\\|\\*x | ✗ |",
    ]


@pytest.mark.parametrize("count, rows", [(0, []), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_samples_take_the_families_in_turn(results, count, rows):
    assert report.choose_samples(results[0], count) == rows


def test_long_answers_are_cut(results, tmp_path):
    verdict = results[0].verdicts[0]
    object.__setattr__(verdict, "answer", "x" * 1000)
    text = report.write(results, SETTINGS, [], samples=1, workdir=tmp_path).read_text()
    assert f"| {'x' * SHOWN}… |" in text


def test_of_long_prompts_the_question_at_the_end_is_shown(results, tmp_path):
    verdict = results[0].verdicts[0]
    object.__setattr__(verdict, "prompt", "shot " * 1000 + "What is 1 + 2?")
    text = report.write(results, SETTINGS, [], samples=1, workdir=tmp_path).read_text()
    (prompt,) = (line for line in text.splitlines() if line.startswith("| prompt |"))
    assert prompt.endswith("shot What is 1 + 2? |  |")
    assert prompt.startswith("| prompt | …") and len(prompt) < SHOWN + 30
