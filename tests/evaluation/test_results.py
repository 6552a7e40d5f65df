import json

from overfill_jax.evaluation import results as results_module


def test_saved_result_holds_numbers_and_every_answer(results, tmp_path):
    results_module.save(results[1], {"rows": 4}, tmp_path)
    found = json.loads((tmp_path / "two_stage.json").read_text())
    assert found["system"] == {
        "name": "two_stage",
        "title": "two-stage",
        "reader": "full",
        "writer": "decoder",
    }
    assert (found["parameters"], found["decode_parameters"]) == (350_100, 350_000)
    assert found["decode_bytes"] == 1_400_000
    assert found["families"]["sort"]["share"] == 0.5
    assert found["accuracy"]["share"] == 0.75
    assert found["lengths"] == {"mean": 6.5, "median": 2.5, "most": 20, "empty": 0, "cut": 1}
    assert found["loss"]["total"]["tokens"] == 9
    assert [place["tokens"] for place in found["loss"]["positions"]] == [4, 3, 2]
    assert found["settings"] == {"rows": 4}
    lines = (tmp_path / "two_stage.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [True, True, True, False]
    assert json.loads(lines[3]) == {
        "row": 4,
        "family": "sort",
        "prompt": "prompt 4",
        "reference": "right 4",
        "answer": "<|*x",
        "tokens": 20,
        "reason": "length",
        "correct": False,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two_stage.json", "two_stage.jsonl"]
