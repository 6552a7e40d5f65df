"""The harness stage: tasks of the package lm-eval, asked of the pair of `config.generate`."""

import difflib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from overfill_jax import distributed, files
from overfill_jax.errors import InputError
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.evaluation.optional import require
from overfill_jax.evaluation.scores import ONE_TOKEN
from overfill_jax.inference.settings import load_assistant
from overfill_jax.weights.folders import load_fingerprint

_PACKAGE = "lm-eval", "harness", "stage harness"


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes harness/<pair>/: results.json, harness.md, and every request with its answer by task.

    The answers are kept as they come, in answers.jsonl, from which the same command goes on. Of a
    job of many processes each holds the pair and answers its share of the requests; all know all
    answers and judge them, and the first writes.

    Raises:
      InputError: the folder has answers of other settings; or as `load_tasks`, `load_assistant`.
    """
    c = config.harness
    # Not imported above: it is a subclass of what may not be installed.
    ours = require("overfill_jax.evaluation.lm_eval", *_PACKAGE)
    names = list(dict.fromkeys((config.generate.full, config.generate.decoder)))
    folder = workdir / "harness" / "-".join(names).replace("/", "_")
    files.check_writable(folder / "results.json")
    settings = settings_of(config, workdir)
    log = open_log(folder / "answers.jsonl", settings)
    tasks = load_tasks(c)
    found = require("lm_eval.evaluator", *_PACKAGE).simple_evaluate(
        ours.OverfillLM(load_assistant(config, workdir, c.batch_size), c.batch_size, log),
        tasks=list(c.tasks),
        num_fewshot=c.shots,
        limit=c.limit or None,
        apply_chat_template=c.chat,
        fewshot_as_multiturn=c.chat,
        task_manager=tasks,
        random_seed=config.seed,
        numpy_random_seed=config.seed,
        fewshot_random_seed=config.seed,
    )
    if not distributed.is_main():
        return
    found = _plain(found)
    for task, samples in found.pop("samples").items():
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        files.write_text(folder / f"{task}.jsonl", lines)
    files.write_json(folder / "results.json", found | {"settings": settings})
    tables = as_tables(found)
    kinds = {task["output_type"] for task in found["configs"].values()}
    files.write_text(folder / "harness.md", as_report(names, settings, tables, kinds))
    print(f"\n{tables}\n\nAnswers: {folder}")


def open_log(path: Path, settings: dict[str, Any]) -> AnswerLog:
    """The answers of former runs, the same in all processes.

    Raises:
      InputError: as `AnswerLog`.
    """
    # The first process may mend the file, which the others read after it.
    for first in (True, False):
        if distributed.is_main() == first:
            log = AnswerLog(path, settings, prompts={})
        distributed.barrier("harness answers")
    return log


def settings_of(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any]:
    """What the results depend on: what is asked, and how the models answer.

    Raises:
      InputError: a model's config.json is missing or broken.
    """
    pair, asked = config.generate, ("folder", "shots", "chat", "limit")
    how = ["first_token", "dtype", "cache", "refresh"]
    if pair.refresh != "none":
        how += ["refresh_interval", "refresh_entropy", "refresh_strictness"]
    return {
        "harness.tasks": list(config.harness.tasks),
        **{f"harness.{key}": config.harness[key] for key in asked},
        "seed": config.seed,
        **{f"generate.{key}": pair[key] for key in how},
        "reader": load_fingerprint(workdir / pair.full),
        "writer": load_fingerprint(workdir / pair.decoder),
    }


def load_tasks(c: ml_collections.ConfigDict) -> Any:
    """lm-eval's own tasks and those of `harness.folder`.

    Raises:
      InputError: a setting is out of range; no task is given, or one that does not exist.
    """
    for key, least in (("shots", 0), ("limit", 0), ("batch_size", 1)):
        if c[key] < least:
            raise InputError(f"harness.{key}: found {c[key]}, expected at least {least}")
    if not c.tasks:
        raise InputError("harness.tasks: found none, expected names of tasks of lm-eval")
    if c.folder and not Path(c.folder).is_dir():
        raise InputError(f"harness.folder: found no folder {c.folder}, expected YAML files in it")
    tasks = require("lm_eval.tasks", *_PACKAGE).TaskManager(include_path=c.folder or None)
    for name in c.tasks:
        if name not in tasks.all_tasks:
            near = difflib.get_close_matches(name, tasks.all_tasks, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"harness.tasks: lm-eval has no task {name!r}{hint}")
    return tasks


def as_tables(found: dict) -> str:
    """lm-eval's tables in Markdown: of all tasks, and of their groups where there are some."""
    utilities = require("lm_eval.utils", *_PACKAGE)
    kinds = ["results"] + ["groups"] * bool(found.get("groups"))
    return "\n\n".join(utilities.make_table(found, kind).strip() for kind in kinds)


def as_report(
    names: Sequence[str], settings: dict[str, Any], tables: str, kinds: Collection[str]
) -> str:
    """The tables under a heading that says whose they are, and what they were made with.

    Args:
      names: of the pair's models, or of the one that is alone.
      settings: as `settings_of`.
      tables: in Markdown.
      kinds: of the tasks, as lm-eval calls their output: `generate_until`, `multiple_choice`, ...
    """
    told = ", ".join(f"`{key}={value!r}`" for key, value in settings.items())
    ranks = bool({"multiple_choice", "loglikelihood"}.intersection(kinds))
    partly_the_full_models = ranks and len(names) > 1 and settings["generate.first_token"] == "full"
    parts = [f"# lm-eval: {', '.join(names)}", tables, f"With {told}."]
    return "\n\n".join([*parts, *[ONE_TOKEN] * partly_the_full_models]) + "\n"


def _plain(found: dict) -> dict:
    """As JSON reads it again."""
    utilities = require("lm_eval.utils", *_PACKAGE)
    return json.loads(json.dumps(found, default=utilities.handle_non_serializable))
