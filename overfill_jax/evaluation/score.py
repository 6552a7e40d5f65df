"""The score stage: a published benchmark, asked of the systems in the workdir; scores/TASK/."""

import collections
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging
from tqdm.auto import tqdm

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.evaluation.answer_log import AnswerLog
from overfill_jax.evaluation.exam import Asked, Exam, check_prompts, choose_systems, load_exam
from overfill_jax.evaluation.marks import mark
from overfill_jax.evaluation.ranking import rank
from overfill_jax.evaluation.score_files import gather, save
from overfill_jax.evaluation.scores import Score, as_lines, as_report, score_of
from overfill_jax.evaluation.systems import System, swap_models
from overfill_jax.inference.answers import Answer
from overfill_jax.inference.engine import Engine, Room
from overfill_jax.inference.generation import Generator
from overfill_jax.inference.placement import serving_mesh
from overfill_jax.inference.request import Request
from overfill_jax.inference.sampling import GREEDY
from overfill_jax.model.transformer import Model

# Prompt tokens that are read between two steps of the answers.
PROMPT_CHUNK = 512


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Asks every system what it has not answered yet; writes the answers, scores and a table.

    The table has the scores of former runs as well, of other systems in the same exam.
    """
    c = config.score
    exam = load_exam(config, workdir)
    systems = choose_systems(c.systems, workdir, exam.first_token)
    check_prompts(exam, systems, c.source, workdir)
    folder = workdir / "scores" / exam.benchmark.name
    files.check_writable(folder / "scores.md")
    logs = {system: open_log(system, exam, folder, workdir) for system in systems}
    models: dict[str, Model] = {}
    mesh = serving_mesh(config.mesh, exam.batch_size)
    for system, log in logs.items():
        left = [asked for asked in exam.asked if asked.question.id not in log.rows]
        if left:
            swap_models(models, system, workdir, exam.dtype, mesh)
            ask = rank_all if left[0].question.choices else answer_all
            ask(system, models, exam, left, log)
        save(sum_up(system, exam, log), exam.described(system, workdir), folder)
    scores = gather(exam, folder, workdir)
    settings = exam.described(systems[0], workdir)
    files.write_text(folder / "scores.md", as_report(scores, settings))
    print(f"\n{as_lines(scores)}\n\nAnswers: {folder}")


def open_log(system: System, exam: Exam, folder: Path, workdir: Path) -> AnswerLog:
    """What former runs have answered.

    Raises:
      InputError: as `AnswerLog`; or choices were ranked that are not those of the question now.
    """
    path = folder / f"{system.name}.jsonl"
    prompts = {asked.question.id: asked.text for asked in exam.asked}
    log = AnswerLog(path, exam.settings(system, workdir), prompts)
    for asked in exam.asked:  # whose choices a prompt need not list
        name, choices = asked.question.id, list(asked.question.choices)
        if log.rows.get(name, {}).get("choices", choices) != choices:
            raise InputError(
                f"{path}: found other choices of question {name} than the task has now; expected "
                "the same questions, or the file to be moved away"
            )
    return log


def answer_all(
    system: System, models: dict[str, Model], exam: Exam, left: Sequence[Asked], log: AnswerLog
) -> None:
    """Answers the questions that are left; each goes to the log as soon as its answer ends."""
    slots = min(exam.batch_size, len(left))
    length = max(len(asked.tokens) for asked in left) + exam.max_new_tokens
    engine = Engine(
        models[system.reader],
        models[system.writer],
        exam.first_token,
        exam.tokenizer.stop_ids,
        exam.tokenizer,
        "",
        Room(slots, length, queue=2 * slots, chunk=PROMPT_CHUNK),
    )
    waiting = collections.deque(left)
    under_way: dict[Request, Asked] = {}
    start, tokens = time.monotonic(), 0
    title = f"{exam.benchmark.name}, {system.title}"
    with tqdm(total=len(left), desc=title, unit=" answers") as bar:
        while waiting or under_way:
            while waiting and len(under_way) < 2 * slots:
                asked = waiting.popleft()
                request = engine.submit(
                    asked.tokens, GREEDY, exam.max_new_tokens, exam.benchmark.stop
                )
                under_way[request] = asked
            engine.step()
            for request in [request for request in under_way if request.is_over]:
                answer = request.answer()
                log.append(row_of(under_way.pop(request), answer, exam))
                tokens += len(answer.tokens)
                rate = tokens / (time.monotonic() - start)
                bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
                bar.update()
    seconds = time.monotonic() - start
    logging.info(
        "%s: %d answers, %d tokens in %.1f s (%.0f a second, compilation included)",
        title, len(left), tokens, seconds, tokens / seconds,
    )  # fmt: skip


def rank_all(
    system: System, models: dict[str, Model], exam: Exam, left: Sequence[Asked], log: AnswerLog
) -> None:
    """The likelihoods of the choices of the questions that are left."""
    reader, writer, tokenizer = models[system.reader], models[system.writer], exam.tokenizer
    generator = Generator(
        reader, writer, exam.first_token, tokenizer.stop_ids, tokenizer.pad_id, tokenizer
    )
    ranked = rank(generator, left, exam.batch_size)
    title = f"{exam.benchmark.name}, {system.title}"
    for asked, likelihoods in tqdm(ranked, title, len(left), unit=" questions"):
        log.append(row_of(asked, likelihoods, exam))


def row_of(asked: Asked, answer: Answer | list[float], exam: Exam) -> dict[str, Any]:
    """The line of an answer, or of the log-likelihoods of a question's choices, without marks."""
    question = asked.question
    found: dict[str, Any] = {"choices": list(question.choices), "answer": answer}
    if isinstance(answer, Answer):
        tokens = len(answer.tokens)
        found = {"answer": answer.text, "tokens": tokens, "ended": answer.reason}
    return {
        "id": question.id,
        "group": question.group,
        "prompt": asked.text,
        "gold": question.gold,
        **found,
    }


def sum_up(system: System, exam: Exam, log: AnswerLog) -> Score:
    """The score of all answers; those that are not marked yet are."""
    questions = [asked.question for asked in exam.asked]
    mark(exam.benchmark, questions, log, f"{exam.benchmark.name}, {system.title}")
    rows = log.chosen([question.id for question in questions])
    found = score_of(system, exam.benchmark, questions, rows)
    if found.lengths and found.lengths.empty == found.questions:
        logging.warning("%s: all %d answers are empty", system.title, found.questions)
    return found
