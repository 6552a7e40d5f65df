"""The evaluate stage: every system of the workdir on one task; results/ and report/."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Float
from tqdm import tqdm

from overfill_jax import files
from overfill_jax.data.batches import evaluation_batches
from overfill_jax.data.instructions import Rejected
from overfill_jax.evaluation import report, results, table
from overfill_jax.evaluation.accuracy import accuracy_by_family, mean_accuracy
from overfill_jax.evaluation.answer_loss import answer_loss
from overfill_jax.evaluation.lengths import lengths_of
from overfill_jax.evaluation.results import Result, Verdict
from overfill_jax.evaluation.systems import (
    System,
    choose_fitting,
    find_systems,
    missing_folders,
    swap_models,
)
from overfill_jax.evaluation.task import Task, load_task
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.generation import Generator, check_prompt
from overfill_jax.inference.placement import mesh_of, serving_mesh
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.size import decode_bytes, decode_parameters, dimensions, parameters
from overfill_jax.model.transformer import Model
from overfill_jax.training.objective import answer_log_likelihoods
from overfill_jax.weights.folders import load_config

# Answer slots of a row whose logits exist at a time.
LOSS_CHUNK = 64

# Of the module, so that systems of the same shapes share one compilation.
_log_likelihoods = jax.jit(answer_log_likelihoods, static_argnames=("first_token", "chunk"))


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates every system in `workdir`; writes results/, report/ and a table to the console."""
    c = config.evaluate
    present, missing = find_systems(workdir)
    present = choose_fitting(present, workdir, c.first_token)
    for system in present:
        files.check_writable(*results.paths(system, workdir / "results"))
    files.check_writable(*report.paths(workdir).values())
    task, rejected = load_task(config, workdir)
    check_prompts(task, present, c.source, workdir)
    for system in missing:
        lacking = ", ".join(missing_folders(system, workdir))
        logging.info("%s: skipped, the workdir has no %s", system.title, lacking)
    described = settings(config, task, rejected)
    found: list[Result] = []
    models: dict[str, Model] = {}
    mesh = serving_mesh(config.mesh, c.batch_size)
    for number, system in enumerate(present, 1):
        start = time.monotonic()
        swap_models(models, system, workdir, c.dtype, mesh)
        loading = time.monotonic() - start
        result = evaluate_system(system, models[system.reader], models[system.writer], task)
        result = dataclasses.replace(result, seconds={"loading": loading} | result.seconds)
        results.save(result, described, workdir / "results")
        logging.info(
            "%s (%d of %d): accuracy %.3f, loss %.3f, %.1f s",
            system.title, number, len(present), result.accuracy.share, result.loss.total.loss,
            sum(result.seconds.values()),
        )  # fmt: skip
        found.append(result)
    path = report.write(found, described, rejected, c.samples, workdir)
    closing = filter(None, [table.gap_sentence(found), f"Report: {path}"])
    print(f"\n{table.as_text(table.comparison(found))}\n", *closing, sep="\n")


def check_prompts(task: Task, systems: Sequence[System], source: str, workdir: Path) -> None:
    """Refuses a prompt that one of the systems cannot answer, before any of them is loaded.

    Raises:
      InputError: names the source, the line and the system's folder.
    """
    for folder in dict.fromkeys(folder for system in systems for folder in system.folders):
        shape = load_config(workdir / folder)
        for example in task.examples:
            name = f"{source}, line {example.row}, for {folder}"
            check_prompt(example.prompt, task.max_new_tokens, shape, name)


def settings(config: ml_collections.ConfigDict, task: Task, rejected: Sequence[Rejected]) -> dict:
    """What the results depend on, as it is stored with them."""
    names = ("source", "split", "match", "first_token", "max_new_tokens", "dtype")
    counts = {"rows": len(task.examples), "rejected": len(rejected)}
    return {name: config.evaluate[name] for name in names} | counts


def evaluate_system(system: System, reader: Model, writer: Model, task: Task) -> Result:
    """One system on the whole task: its loss on the reference answers, and its own answers."""
    families = [example.family for example in task.examples]
    start = time.monotonic()
    lengths = np.array([len(example.answer) for example in task.examples])
    likelihoods = log_likelihoods(system.title, reader, writer, task)
    middle = time.monotonic()
    verdicts = judge(generate(reader, writer, task), task)
    end = time.monotonic()
    accuracy = accuracy_by_family(families, [verdict.correct for verdict in verdicts])
    return Result(
        system=system,
        shapes={"reader": dimensions(reader.config), "writer": dimensions(writer.config)},
        parameters=parameters(writer.config),
        decode_parameters=decode_parameters(writer.config),
        decode_bytes=decode_bytes(writer.config, writer.config.dtype, context=0),
        families=accuracy,
        accuracy=mean_accuracy(accuracy),
        lengths=lengths_of(
            [verdict.tokens for verdict in verdicts],
            [verdict.answer for verdict in verdicts],
            [verdict.reason for verdict in verdicts],
        ),
        loss=answer_loss(likelihoods, lengths, families),
        verdicts=verdicts,
        seconds={"loss": middle - start, "answers": end - middle},
    )


def log_likelihoods(
    title: str, reader: Model, writer: Model, task: Task
) -> Float[np.ndarray, "rows R"]:
    """Log-probability of every reference token, in the order of the examples."""
    batches = evaluation_batches(task.examples, task.batch_size)
    total = -(-len(task.examples) // task.batch_size)
    with jax.set_mesh(mesh_of(reader.params)):
        rows = [
            np.asarray(
                _log_likelihoods(
                    reader, writer, batch, first_token=task.first_token, chunk=LOSS_CHUNK
                )
            )
            for batch in tqdm(batches, f"{title}: loss", total, leave=False, unit=" batches")
        ]
    return np.concatenate(rows)[: len(task.examples)]


def generate(reader: Model, writer: Model, task: Task) -> list[Answer]:
    """The greedy answers of a pair."""
    generator = Generator(
        reader,
        writer,
        task.first_token,
        task.tokenizer.stop_ids,
        task.tokenizer.pad_id,
        task.tokenizer,
    )
    prompts = [example.prompt.tolist() for example in task.examples]
    return generator.generate(
        prompts, GREEDY, task.max_new_tokens, task.batch_size, show_progress=True
    )


def judge(answers: Sequence[Answer], task: Task) -> list[Verdict]:
    """Every answer beside its prompt and reference, with the verdict."""
    return [
        Verdict(
            row=example.row,
            family=example.family,
            prompt=task.tokenizer.decode(example.prompt.tolist()),
            reference=example.reference,
            answer=answer.text,
            tokens=len(answer.tokens),
            reason=answer.reason,
            correct=task.match(answer.text, example.reference),
        )
        for example, answer in zip(task.examples, answers, strict=True)
    ]
