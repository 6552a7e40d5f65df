import dataclasses

import pytest

from overfill_jax.evaluation.table import (
    as_markdown,
    as_text,
    comparison,
    escaped,
    gap_sentence,
    intervals,
    scaled,
    summary,
    without_empty,
)


def test_comparison(results):
    assert as_text(comparison(results)).splitlines() == [
        "system         decode params  bytes/token   loss    sum   sort  accuracy  tokens, mean"
        "  median  most  no text  cut off",
        "-------------------------------------------------------------------------------------"
        "---------------------------------",
        "full                  1.24 M      4.96 MB  0.100  1.000  1.000     1.000           2.5"
        "       2     4        0        0",
        "two-stage              350 k       1.4 MB  0.200  1.000  0.500     0.750           6.5"
        "       2    20        0        1",
        "pruned, tuned          350 k       1.4 MB  0.900  0.500  0.000     0.250          15.8"
        "      20    20        0        3",
    ]


def test_one_family_has_no_column_of_its_own(results):
    single = [dataclasses.replace(r, families={"": r.families["sum"]}) for r in results]
    header, *rows = comparison(single)
    assert header[:6] == [
        "system",
        "decode params",
        "bytes/token",
        "loss",
        "accuracy",
        "tokens, mean",
    ]
    assert all(len(row) == len(header) for row in rows)


def test_gap_sentence(results):
    assert gap_sentence(results) == (
        "Two-stage closes 66.7% of the gap in accuracy from 0.250 (pruned, tuned) to 1.000 (full)."
    )
    assert gap_sentence(results[:2]) == ""
    full, two_stage, tuned = results
    level = dataclasses.replace(tuned, accuracy=full.accuracy)
    assert gap_sentence([full, two_stage, level]) == ""


def test_summary(results):
    assert summary(results) == {
        "accuracy": {"full": 1.0, "two_stage": 0.75, "pruned_tuned": 0.25},
        "loss": pytest.approx({"full": 0.1, "two_stage": 0.2, "pruned_tuned": 0.9}),
        "gap_closed": pytest.approx(2 / 3),
    }
    assert summary(results[:1])["gap_closed"] is None


def test_markdown_has_one_column_per_cell(results):
    header, rule, first, *_ = as_markdown(intervals(results)).splitlines()
    assert header == "| system | sum | sort | accuracy |"
    assert rule == "|---|---:|---:|---:|"
    assert first.startswith("| full | 1.000 (0.34-1.00) |")


def test_columns_of_nothing_are_left_out():
    cells = [["", "a", "b", "c"], ["x", "", "", "1"], ["y", "", "2", ""]]
    assert without_empty(cells) == [["", "b", "c"], ["x", "", "1"], ["y", "2", ""]]


def test_no_text_can_break_a_cell():
    assert escaped("a|b") == r"a\|b"
    assert escaped("\\|") == r"\\\|"
    assert escaped("<b>*x* `y` $z$ &amp; [l]_m_") == (r"\<b\>\*x\* \`y\` \$z\$ \&amp; \[l\]\_m\_")
    assert escaped("one\ntwo\r\nthree\x0bfour\u2028five") == "one<br>two<br>three<br>four<br>five"


@pytest.mark.parametrize(
    "number, unit, text",
    [
        (0, "", "0"),
        (999, "B", "999 B"),
        (1000, "", "1 k"),
        (12345, "", "12.3 k"),
        (999_499, "", "999 k"),
        (999_501, "", "1 M"),
        (1_243_000_000, "", "1.24 G"),
        (2_486_000_000, "B", "2.49 GB"),
    ],
)
def test_scaled(number, unit, text):
    assert scaled(number, unit) == text
