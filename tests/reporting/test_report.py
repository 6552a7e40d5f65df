import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from configs.default import get_config
from overfill_jax import record
from overfill_jax.errors import InputError
from overfill_jax.evaluation import report as evaluation_report
from overfill_jax.evaluation.results import save as save_result
from overfill_jax.experiments import report as experiment_report
from overfill_jax.reporting import report
from overfill_jax.reporting.decode_time import points_of
from overfill_jax.reporting.section import from_document
from tests.evaluation.conftest import SHAPES
from tests.evaluation.conftest import results as made_results

results = made_results  # the fixture: full, two-stage and pruned tuned, with made-up verdicts
NASTY = "<script>alert(1)</script>\n![x](http://e.vil/x.png) [y](javascript:f) <b>|</b> `$a_b$`"


class Page(HTMLParser):
    """What a page consists of: its tags with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.within = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.within)))
        if tag not in ("meta", "img", "br"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        while self.within.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes, _ in self.tags if name in attributes]


@pytest.fixture
def workdir(results, tmp_path):
    """What `evaluate`, `score` and `benchmark` leave."""
    settings = {"source": "rows.jsonl"}
    evaluation_report.write(results, settings, [], samples=1, workdir=tmp_path)
    for result in results:
        save_result(result, settings, tmp_path / "results")
    task = tmp_path / "scores" / "gsm8k"
    task.mkdir(parents=True)
    (task / "scores.md").write_text("# gsm8k\n\n| system | accuracy |\n|---|---:|\n| full | 1 |\n")
    row = {"id": "q1", "prompt": "1 + 1?", "gold": "2", "answer": "2", "marks": {"exact": 1.0}}
    (task / "full.jsonl").write_text(json.dumps(row) + "\n")
    nasty = {**row, "answer": NASTY, "marks": {"exact": 0.0}}
    (task / "two_stage.jsonl").write_text(json.dumps(nasty) + "\n")
    record.write_config(tmp_path / "configs" / "evaluate.yaml", get_config())
    return tmp_path


def measure(workdir):
    """As the benchmark stage would have, at two sizes."""
    answers = [
        {"system": name, "batch": batch, "prompt": 8, "answer": 4, "step": batch * step}
        for batch in (8, 1)
        for name, step in (("full", 0.02), ("decoder alone", 0.0075), ("two-stage", 0.008))
    ]
    (workdir / "benchmark").mkdir()
    settings = {"benchmark.precision": 0, "generate.cache": "", "generate.refresh": "none"}
    found = {"title": "Answers of 1B", "models": SHAPES, "settings": settings, "answers": answers}
    (workdir / "benchmark" / "inference.json").write_text(json.dumps(found))


def made(workdir):
    report.run(get_config(), workdir)
    return Page((workdir / "report.html").read_text()), (workdir / "report.md").read_text()


def test_page_needs_no_other_file(workdir):
    page, _ = made(workdir)
    sources, links = page.attributes("src"), page.attributes("href")
    assert len(sources) == 2  # accuracy and loss
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    targets = set(page.attributes("id"))
    assert links and all(link.startswith("#") and link[1:] in targets for link in links)
    assert not {"script", "link", "iframe"} & {tag for tag, _, _ in page.tags}


def test_page_and_document_tell_the_same(workdir):
    measure(workdir)
    page, document = made(workdir)
    titles = re.findall(r"^## (.+)$", document, re.MULTILINE)
    assert titles[:3] == ["Evaluation of 3 systems", "gsm8k", "Answers: gsm8k"]
    assert titles[3:] == [
        "Accuracy against decode time",
        "Configs and versions",
        "Settings of evaluate",
    ]
    for title in titles:
        assert title in page.text
    assert "Two-stage closes 66.7% of the gap" in page.text
    for image in re.findall(r"!\[.+\]\((.+)\)", document):
        assert (workdir / image).is_file(), image


def test_of_an_experiment_the_first_cells_answers_are_shown(workdir):
    experiment = workdir / "experiments" / "sizes"
    for cell in ("a", "b"):
        (experiment / "cells" / cell / "scores").mkdir(parents=True)
        for task in ("gsm8k", "nq_open"):
            shutil.copytree(
                workdir / "scores" / "gsm8k", experiment / "cells" / cell / "scores" / task
            )
    shutil.rmtree(workdir / "scores")
    (experiment / "report.md").write_text("# Sizes\n\nAll cells.\n")
    _, document = made(workdir)
    titles = [title for title in re.findall(r"^## (.+)$", document, re.M) if "cell" in title]
    assert titles == ["Answers: gsm8k, cell a", "Answers: nq_open, cell a"]
    assert "| full | 2 | ✓ |" in document


def test_what_models_write_is_text(workdir):
    page, document = made(workdir)
    for piece in NASTY.splitlines():
        assert piece in page.text
    assert "http://e.vil/x.png" not in page.attributes("src")
    answers = document[document.index("## Answers") :]
    assert "\n| full | 2 | ✓ |\n| two-stage | \\<script\\>" in answers


def test_tables_and_figures_scroll_and_the_page_does_not(workdir):
    page, _ = made(workdir)
    figures = [within[-1] for tag, _, within in page.tags if tag == "img"]
    assert figures == ["span"] * 2
    assert [a["class"] for tag, a, _ in page.tags if tag == "span"] == ["wide"] * 2
    tables = [within for tag, _, within in page.tags if tag == "table"]
    assert len(tables) > 3 and all(within[-1] == "div" for within in tables)
    assert [a["class"] for tag, a, _ in page.tags if tag == "div"] == ["wide"] * len(tables)


def test_systems_take_the_time_of_what_they_write_with(workdir, results):
    measure(workdir)
    _, document = made(workdir)
    assert "| full | 20.00 | 1.000 |" in document
    assert "| two-stage | 8.00 | 0.750 |" in document
    assert "| pruned, tuned | 7.50 | 0.250 |" in document
    assert "Batch 1, 8 tokens in, 4 out." in document
    found = [json.loads((workdir / f"results/{r.system.name}.json").read_text()) for r in results]
    steps = {"full": 20.0, "decoder alone": 7.5, "two-stage": 8.0}
    best = points_of(found[::-1], steps, SHAPES)[0]
    assert (best.title, best.milliseconds, best.accuracy) == ("full", 20.0, 1.0)
    without = points_of(found, {"full": 20.0, "two-stage": 8.0}, SHAPES)
    assert {point.title for point in without} == {"full", "two-stage"}


def test_a_system_that_the_last_evaluation_left_out_is_not_drawn(workdir, results):
    measure(workdir)
    evaluation_report.write(results[:2], {"source": "rows.jsonl"}, [], 1, workdir)
    _, document = made(workdir)
    assert "| two-stage | 8.00 | 0.750 |" in document
    assert (workdir / "results/pruned_tuned.json").exists()
    assert "pruned, tuned" not in document.partition("## Accuracy against decode time")[2]


def test_a_time_that_nobody_measured_is_not_shown(workdir):
    _, document = made(workdir)
    assert "Not measured: `benchmark" in document
    assert "ms/token" not in document


def test_times_of_other_shapes_are_not_drawn(workdir):
    measure(workdir)
    path = workdir / "benchmark" / "inference.json"
    found = json.loads(path.read_text())
    found["models"] = {**SHAPES, "decoder": {"hidden_size": 16}}
    path.write_text(json.dumps(found))
    _, document = made(workdir)
    assert "Not drawn: `benchmark` timed other shapes" in document
    assert "| timed: decoder | 16 |" in document
    assert "| evaluated: two-stage, writer | 32 |" in document
    assert "| evaluated: pruned, tuned, reader | 32 |" in document
    assert "evaluated: full" not in document
    assert "ms/token" not in document and not (workdir / "report" / "decode_time.png").exists()


def test_times_of_another_way_to_answer_are_not_drawn(workdir):
    measure(workdir)
    path = workdir / "benchmark" / "inference.json"
    found = json.loads(path.read_text())
    found["settings"]["generate.refresh"] = "every"
    path.write_text(json.dumps(found))
    _, document = made(workdir)
    assert "Not drawn: `benchmark` timed with `generate.refresh=every`, which" in document
    assert "ms/token" not in document


@pytest.mark.parametrize(
    ("name", "key"), [("benchmark/inference", "models"), ("results/two_stage", "shapes")]
)
def test_times_or_results_of_unknown_shapes_are_not_drawn(workdir, name, key):
    measure(workdir)
    path = workdir / f"{name}.json"
    found = json.loads(path.read_text())
    del found[key]
    path.write_text(json.dumps(found))
    _, document = made(workdir)
    assert "do not say of which shapes they are" in document
    assert "ms/token" not in document


def test_settings_are_shown_with_their_versions(workdir):
    page, _ = made(workdir)
    text = (workdir / "configs" / "evaluate.yaml").read_text()
    assert f"jax {np.__version__}" not in text and f"numpy {np.__version__}" in text
    assert text.startswith("# 20") and "overfill_jax" in text.splitlines()[1]
    when, versions, _ = text.split("\n", 2)
    shown = page.text[page.text.index(f"{when}\n{versions}\n") :]
    assert yaml.safe_load(shown) == json.loads(get_config().to_json())
    assert [tag for tag, _, _ in page.tags].count("details") == 1


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="nothing to report; expected what `prune`"):
        report.run(get_config(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_answer_that_is_not_judged_yet_has_no_mark(workdir):
    log = workdir / "scores/gsm8k/full.jsonl"
    row = json.loads(log.read_text())
    log.write_text(json.dumps({key: row[key] for key in row if key != "marks"}) + "\n")
    _, document = made(workdir)
    assert "\n| full | 2 |  |\n| two-stage " in document


def test_answers_to_another_question_are_not_set_beside(workdir):
    """As of a system that was asked another file, whose lines have the same numbers."""
    log = workdir / "scores/gsm8k/two_stage.jsonl"
    log.write_text(json.dumps(json.loads(log.read_text()) | {"prompt": "3 + 3?"}) + "\n")
    _, document = made(workdir)
    answers = document[document.index("## Answers") : document.index("## Configs")]
    assert "| full | 2 |" in answers
    assert "two-stage" not in answers


def test_the_first_questions_are_those_of_the_file(workdir):
    log = workdir / "scores/gsm8k/full.jsonl"
    row = json.loads(log.read_text())
    ended = ("12", "7", "104", "2", "31")
    log.write_text("".join(json.dumps({**row, "id": name}) + "\n" for name in ended))
    _, document = made(workdir)
    assert re.findall(r"### Question (\d+)", document) == ["2", "7", "12"]


@pytest.mark.parametrize("line", ['{"id": "q2", "pro', '{"id": "q2", "prompt": "2 + 2?"}'])
def test_broken_answers_are_named(workdir, line):
    with (workdir / "scores/gsm8k/full.jsonl").open("a") as log:
        log.write(f"{line}\n")
    with pytest.raises(InputError, match=r"full\.jsonl:2: found no answer's line"):
        report.run(get_config(), workdir)
    assert not (workdir / "report.html").exists()


def test_a_half_written_answer_is_left_out(workdir):
    before, _ = made(workdir)
    with (workdir / "scores/gsm8k/full.jsonl").open("a") as log:
        log.write('{"id": "q2", "pro')
    after, _ = made(workdir)
    assert after.text == before.text


def test_a_figure_that_is_gone_is_named(workdir):
    (workdir / "report" / "loss.png").unlink()
    with pytest.raises(InputError, match=r"loss\.png: no such figure"):
        report.run(get_config(), workdir)


def test_figures_outside_of_the_workdir_are_not_shown(workdir):
    (workdir / "benchmark").mkdir()
    (workdir / "benchmark" / "x.md").write_text("# x\n\n![x](../../secret.png)\n")
    with pytest.raises(InputError, match=r"x\.md: .+secret\.png"):
        report.run(get_config(), workdir)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "found '', expected a heading first"),
        (b"no heading", "found 'no heading', expected a heading first"),
        (b"# \xff", "not readable as text"),
    ],
)
def test_a_document_that_is_none_is_named(workdir, text, message):
    (workdir / "benchmark").mkdir()
    (workdir / "benchmark" / "x.md").write_bytes(text)
    with pytest.raises(InputError, match=rf"benchmark/x\.md: {message}"):
        report.run(get_config(), workdir)


@pytest.mark.parametrize("name", ["größe", "two words", "a (b)", "50%20"])
def test_experiments_may_have_any_name_and_title(workdir, name):
    folder = workdir / "experiments" / name
    folder.mkdir(parents=True)
    (workdir / "report/loss.png").rename(folder / "loss.png")
    (workdir / "report/report.md").unlink()
    title = "Loss [nats] of <any> *cut*"
    cell = {"row": "", "series": "", "seed": 0, "status": "done", "error": "", "folder": "cells/0"}
    found = {"name": name, "title": title, "x": "", "cells": [cell], "tables": [], "undefined": []}
    found["figures"] = [{"file": "loss.png", "title": title}]
    experiment_report.write(found, folder)
    page, _ = made(workdir)
    assert page.attributes("alt") == [title]
    assert page.attributes("src")[0].startswith("data:image/png;base64,")


def test_what_a_cell_failed_with_is_text(workdir):
    folder = workdir / "experiments" / "sizes"
    error = "line 3: found '![x](../../../secret.png)'\n# and <b>more</b> " + 999 * "x"
    cell = {"row": "a", "series": "", "seed": 0, "status": "failed", "error": error}
    found = {"name": "sizes", "title": "Sizes", "x": "", "cells": [cell | {"folder": "cells/0"}]}
    folder.mkdir(parents=True)
    experiment_report.write(found | {"figures": [], "tables": [], "undefined": []}, folder)
    page, document = made(workdir)
    assert "a, seed 0: line 3: found '![x](../../../secret.png)'" in page.text
    assert "<b>more</b>" in page.text
    assert 500 * "x" not in document


def test_headings_go_one_step_down(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "r.md").write_text("# Title\n\n## Part\n\n![one](b/one.png)\n")
    section = from_document(tmp_path / "a" / "r.md", tmp_path)
    assert section.title == "Title"
    assert section.body == "### Part\n\n![one](a/b/one.png)"
