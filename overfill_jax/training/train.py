"""The train stage: full/, pruned/ and instruction data into decoder/ or one of the baselines."""

import dataclasses
import zlib
from pathlib import Path

import jax
import ml_collections
from absl import logging

from overfill_jax import files
from overfill_jax.data.batches import Batches, evaluation_batches
from overfill_jax.data.chat import load_template
from overfill_jax.data.instructions import Example, load_examples, read_options
from overfill_jax.data.tokenizers import check_vocabulary, load_tokenizer
from overfill_jax.errors import InputError
from overfill_jax.model.transformer import REMAT_POLICIES, Model, Params, init
from overfill_jax.training.curves import plot_curves
from overfill_jax.training.loop import Intervals, fit, state_tree
from overfill_jax.training.methods import Method, choose_method
from overfill_jax.training.metrics import MetricsWriter
from overfill_jax.training.objective import Objective
from overfill_jax.training.step import Setup, TrainState, init_state, make_optimizer, make_schedule
from overfill_jax.two_stage import FIRST_TOKEN, check_handoff
from overfill_jax.weights.checkpoints import Checkpoints
from overfill_jax.weights.folders import fingerprint, load_model, save_model


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains by `config.train.method` and saves the best state by validation loss."""
    c = config.train
    check_choices(c)
    method = choose_method(c.method, c.freeze, c.kl_weight)
    models = load_models(config, method, workdir)
    examples, held_out = load_data(config, models, workdir)
    batches = Batches(examples, c.batch_size, config.seed, c.cutoff)
    steps = c.steps or max(1, c.epochs * len(examples) // c.batch_size)
    setup = make_setup(c, method, models, steps)
    frozen = {name: m.params for name, m in models.items() if name not in method.trained}
    state = init_state(setup, {name: models[name] for name in method.trained})
    metrics = workdir / "metrics" / method.name
    logging.info(
        "training %s on %d rows: %d steps of %d", method.name, len(examples), steps, c.batch_size
    )
    with Checkpoints(workdir / "checkpoints" / method.name, c.keep_last) as checkpoints:
        settings = run_settings(config, models, steps, [*examples, *held_out])
        check_same_run(metrics / "run.json", settings, checkpoints.latest)
        state = resume(checkpoints, state)
        writer = MetricsWriter(metrics, steps, int(state.step))
        intervals = Intervals(c.log_every, c.validate_every, c.checkpoint_every)
        validation = evaluation_batches(held_out, c.batch_size)
        try:
            state = fit(
                setup, state, frozen, batches.at, validation, steps, intervals, checkpoints, writer
            )
        finally:
            writer.close()
        best = checkpoints.restore_best(abstract_tree(state))
    plot_curves(metrics, method.name)
    save_outputs(method, models, best["params"], workdir)


def check_choices(c: ml_collections.ConfigDict) -> None:
    """Refuses train settings that no code path takes.

    Raises:
      InputError: names the key, its value and what was expected.
    """
    choices = {"first_token": FIRST_TOKEN, "remat": ("none", *REMAT_POLICIES)}
    for key, known in choices.items():
        if c[key] not in known:
            raise InputError(f"train.{key}: found {c[key]!r}, expected one of {known}")
    at_least_one = ("batch_size", "accumulation", "validation_rows", "keep_last")
    for key in (*at_least_one, "log_every", "validate_every", "checkpoint_every"):
        if c[key] < 1:
            raise InputError(f"train.{key}: found {c[key]}, expected at least 1")
    if c.batch_size % c.accumulation:
        raise InputError(
            f"train.accumulation: found {c.accumulation}, expected a divisor of the batch of "
            f"{c.batch_size} rows"
        )
    if c.cross_entropy_weight <= 0 and c.kl_weight <= 0:
        raise InputError("train: cross_entropy_weight and kl_weight are both 0; nothing to learn")


def load_models(
    config: ml_collections.ConfigDict, method: Method, workdir: Path
) -> dict[str, Model]:
    """The models that the method needs, by name, computing in `train.dtype`."""
    c = config.train
    names = {method.reader, method.writer} | ({"full"} if c.kl_weight else set())
    models = {}
    if "full" in names:
        models["full"] = load_model(workdir / "full")
    if "decoder" in names:
        decoder = load_model(workdir / "pruned")
        if c.method == "scratch":
            fresh = init(decoder.config, jax.random.key(config.seed))
            decoder = dataclasses.replace(fresh, params=_cast_like(fresh.params, decoder.params))
        models["decoder"] = decoder
    if len(models) == 2:
        check_handoff(models["full"].config, models["decoder"].config)
    return {
        name: dataclasses.replace(m, config=dataclasses.replace(m.config, dtype=c.dtype))
        for name, m in models.items()
    }


def load_data(
    config: ml_collections.ConfigDict, models: dict[str, Model], workdir: Path
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; without `train.validation` the last rows are held out."""
    c = config.train
    tokenizer_folder = workdir / ("full" if "full" in models else "pruned")
    tokenizer = load_tokenizer(tokenizer_folder)
    vocab_size = next(iter(models.values())).config.vocab_size
    check_vocabulary(tokenizer, vocab_size, str(tokenizer_folder))
    template = load_template(tokenizer_folder)
    options = read_options(config.text)
    examples, _ = load_examples(c.source, c.split, tokenizer, template, options)
    if not c.validation:
        if len(examples) <= c.validation_rows:
            raise InputError(
                f"{c.source}: {len(examples)} usable rows, expected more than the "
                f"{c.validation_rows} that train.validation_rows holds out"
            )
        cut = len(examples) - c.validation_rows
        return examples[:cut], examples[cut:]
    held_out, _ = load_examples(c.validation, c.validation_split, tokenizer, template, options)
    return examples, held_out[: c.validation_rows]


def make_setup(
    c: ml_collections.ConfigDict, method: Method, models: dict[str, Model], steps: int
) -> Setup:
    """The part of the run that every step shares."""
    schedule = make_schedule(c.learning_rate, steps, c.warmup, c.final_learning_rate)
    return Setup(
        configs=tuple((name, m.config) for name, m in models.items()),
        roles=(method.reader, method.writer),
        objective=Objective(c.cross_entropy_weight, c.kl_weight, c.kl_temperature, c.first_token),
        optimizer=make_optimizer(schedule, c.beta1, c.beta2, c.weight_decay, c.clip_norm),
        schedule=schedule,
        accumulation=c.accumulation,
        remat=c.remat,
    )


def run_settings(
    config: ml_collections.ConfigDict,
    models: dict[str, Model],
    steps: int,
    examples: list[Example],
) -> dict[str, object]:
    """All that decides what the run learns, flat and as JSON knows it."""
    # How often to look or save does not change what is learnt; of data the content counts.
    free = ("log_every", "validate_every", "checkpoint_every", "keep_last", "source", "validation")
    train = {f"train.{k}": v for k, v in config.train.items() if k not in free}
    weights = {f"fingerprint of {name}": fingerprint(m) for name, m in models.items()}
    data = 0
    for example in examples:
        data = zlib.crc32(example.answer.tobytes(), zlib.crc32(example.prompt.tobytes(), data))
    return {
        "seed": config.seed,
        "steps in all": steps,
        "checksum of data": data,
        **train,
        **weights,
    }


def check_same_run(path: Path, settings: dict[str, object], latest: int | None) -> None:
    """Records the settings of a new run; a run that has checkpoints goes on only under its own.

    Raises:
      InputError: names the settings that differ from those of the run in the workdir.
    """
    if latest is None:
        files.write_json(path, settings)
        return
    before = files.read_json(path)
    differing = [k for k in sorted(settings | before) if settings.get(k) != before.get(k)]
    if differing:
        changes = ", ".join(f"{k} was {before.get(k)!r}, is {settings.get(k)!r}" for k in differing)
        raise InputError(
            f"{path.parent}: holds a run with other settings ({changes}); remove it and its "
            "checkpoints, or use another workdir"
        )


def resume(checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """The newest saved state, or the given one where nothing is saved yet."""
    if checkpoints.latest is None:
        return state
    logging.info("resuming after step %d", checkpoints.latest)
    return TrainState(**checkpoints.restore(checkpoints.latest, abstract_tree(state)))


def abstract_tree(state: TrainState) -> dict:
    """Shapes, dtypes and shardings of a state, to restore one like it."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_tree(state)
    )


def save_outputs(
    method: Method, models: dict[str, Model], best: dict[str, Params], workdir: Path
) -> None:
    """Writes the trained models in the dtype that their weights came in."""
    for name, folder in method.outputs.items():
        source = models[name]
        params = _cast_like(best[name], source.params)
        tokenizer_folder = workdir / ("full" if name == "full" else "pruned")
        save_model(workdir / folder, dataclasses.replace(source, params=params), tokenizer_folder)
        logging.info("saved %s", workdir / folder)


def _cast_like(params: Params, pattern: Params) -> Params:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), params, pattern)
