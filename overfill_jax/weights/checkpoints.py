"""Orbax behind one door: trees of arrays on disk, and the checkpoints of a training run.

Whatever is read is compared leaf by leaf with what was asked for, and lands on whatever mesh was
asked for. No other module knows which version of Orbax this is.
"""

import contextlib
import itertools
import logging as standard_logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from overfill_jax import distributed
from overfill_jax.errors import InputError

PyTree = Any
BEST_METRIC = "validation_loss"
FORMER = ".former"  # behind the number of a step that is being replaced


class DamagedError(InputError):
    """A checkpoint that was finished once and cannot be read any more."""


class Checkpoints:
    """The checkpoints of one run: the latest few, and the best by validation loss.

    Saving returns as soon as the arrays have left the device; a save that was killed on the way
    leaves only what the next start removes. Use it as a context manager.
    """

    def __init__(self, folder: Path, keep_last: int):
        policies = ocp.training.preservation_policies
        keep = [
            policies.LatestN(keep_last),
            policies.BestN(
                get_metric_fn=lambda metrics: metrics[BEST_METRIC],
                reverse=True,  # the smallest is the best
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._folder = folder
        _put_back(folder)
        try:
            self._checkpointer = ocp.training.Checkpointer(
                folder.absolute(),
                context=_context(),
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
        self._failures = _SaveFailures(folder)
        logging.get_absl_logger().addFilter(self._failures)

    @property
    def latest(self) -> int | None:
        """The newest step; None if there is none."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    def has_loss(self, step: int) -> bool:
        """Whether a step was saved with its validation loss."""
        return step in self._ranked()

    def save(self, step: int, state: PyTree, metrics: Mapping[str, float] | None) -> None:
        """Saves `state`, in the background.

        Args:
          step: a number that was not saved before.
          state: arrays in nested containers.
          metrics: with `validation_loss`; None keeps the step out of the contest for the best.
        """
        metrics = None if metrics is None else dict(metrics)
        with self._disk_errors():
            self._checkpointer.save_async(step, state, metrics=metrics, force=True)

    def replace(self, step: int, state: PyTree, metrics: Mapping[str, float]) -> None:
        """Saves a step once more, and waits; until the new one is on disk the former one is kept.

        Args:
          step: that was saved before.
          state, metrics: as of `save`.
        """
        self.wait()
        former = self._folder / f"{step}{FORMER}"
        if distributed.is_main():
            former.with_suffix("").rename(former)
        distributed.barrier("former checkpoint moved aside")
        self._checkpointer.reload()
        self.save(step, state, metrics)
        self.wait()
        if distributed.is_main():
            shutil.rmtree(former)

    def restore_newest(self, abstract: PyTree) -> PyTree | None:
        """The state of the newest step that can be read; None where no step was ever saved.

        A damaged step is said so and moved aside, for it would be in the way of the run that
        goes on before it; nothing is deleted. The last one left stays in its place.

        Raises:
          InputError: every step is damaged, or one is that of another kind of run.
        """
        self.wait()
        while self.latest is not None:
            step = self._folder / str(self.latest)
            state, damage = self._read(step, abstract, partial=False)
            if not damage:
                return state
            if len(self._checkpointer.checkpoints) == 1:
                # Moved aside, too, it would be as if nothing was saved: the next start began anew.
                raise InputError(f"{damage}, and there is none before it")
            aside = step.with_name(distributed.broadcast(_free_name(step)))
            if distributed.is_main():
                step.rename(aside)
            distributed.barrier("damaged checkpoint moved aside")
            self._checkpointer.reload()
            told = "%s; it is now %s. Going on from step %d"
            logging.warning(told, damage, aside.name, self.latest)
        return None

    def wait(self) -> None:
        """Until all saves are on disk.

        Raises:
          InputError: one could not be written.
        """
        with self._disk_errors():
            self._checkpointer.wait()

    def restore_best(self, abstract: PyTree, partial: bool = False) -> PyTree:
        """The state of the best step by validation loss that can be read.

        Where all of these are damaged, that of the newest other step.

        Raises:
          InputError: no step was saved with a validation loss, all are damaged, or see
            `load_tree`.
        """
        self.wait()
        ranked = self._ranked()
        if not ranked:
            raise InputError(f"{self._folder}: no checkpoint has a validation loss, expected one")
        others = {c.step for c in self._checkpointer.checkpoints} - set(ranked)
        damages = []
        for step in (*ranked, *sorted(others, reverse=True)):
            state, damage = self._read(self._folder / str(step), abstract, partial)
            if not damage:
                for one in damages:
                    logging.warning("%s. Taking step %d in its place", one, step)
                return state
            damages.append(damage)
        raise InputError(f"{damages[0]}, and no other can be read")

    def close(self) -> None:
        """Waits for the saves on their way.

        Raises:
          InputError: one could not be written.
        """
        with self._disk_errors():
            self._checkpointer.close()
        logging.get_absl_logger().removeFilter(self._failures)

    def _ranked(self) -> list[int]:
        """Steps with a validation loss: the best first, of equals the newest."""
        found = [c for c in self._checkpointer.checkpoints if c.metrics]
        return [c.step for c in sorted(found, key=lambda c: (c.metrics[BEST_METRIC], -c.step))]

    def _read(self, step: Path, abstract: PyTree, partial: bool) -> tuple[PyTree | None, str]:
        """A step's state, or None and the damage that any process has found in its part of it."""
        try:
            state, damage = load_tree(step, abstract, partial), ""
        except DamagedError as error:
            state, damage = None, str(error)
        # Who has read its part must not go on with it while others go back to an older step.
        found = [said for said in distributed.gather(damage, distributed.WORK_TIMEOUT) if said]
        return (None, found[0]) if found else (state, "")

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise what they like
            raise InputError(_unsaved(self._folder, error)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, _) -> None:
        if error is None:
            self.close()
        elif distributed.process_count() == 1:
            with contextlib.suppress(InputError):  # it would hide the one that came first
                self.close()
        # Of several processes, the others need not come to where a save waits for all of them.


class _SaveFailures(standard_logging.Filter):
    """Ends the job as soon as this process fails to write its part of a checkpoint.

    Orbax raises the error only behind barriers that this process then never comes to, and the
    others wait there for twenty minutes. But it logs it at once.
    """

    THREAD = "async_save"  # in which Orbax finishes a save, and knows that it failed

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def filter(self, record: standard_logging.LogRecord) -> bool:
        """Looks on, and holds nothing back."""
        failed = record.exc_info and record.threadName == self.THREAD
        if failed and distributed.process_count() > 1:
            distributed.fail(2, _unsaved(self._folder, record.exc_info[1]))
        return True


def save_tree(folder: Path, tree: PyTree) -> None:
    """Writes arrays to a new folder.

    Raises:
      InputError: it cannot be written.
    """
    with _context():
        try:
            ocp.save(folder.absolute(), tree)
        except Exception as error:  # Orbax and TensorStore raise what they like
            raise InputError(f"{folder}: cannot be written ({_reason(error)})") from error


def load_tree(folder: Path, abstract: PyTree, partial: bool = False) -> PyTree:
    """Reads the arrays that `abstract` asks for, in its dtypes and onto its devices.

    Args:
      folder: of `save_tree`, or one step of `Checkpoints`.
      abstract: a tree of `jax.ShapeDtypeStruct`. Without a sharding an array goes to the first
        device of this process, whatever mesh it was saved from.
      partial: the folder may hold more than is asked for.

    Raises:
      InputError: names the array that is missing, not asked for or of another shape, or the
        folder that is no checkpoint, a damaged one or one that there is no room for.
    """
    found = _compare(folder, abstract, partial)
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or alone), abstract
    )
    context = _context()
    # Each process reads for itself: where one fails, no other waits for it.
    context.multiprocessing.active_processes = {distributed.process_index()}
    context.multiprocessing.primary_host = distributed.process_index()
    context.pytree.loading.partial_load = partial
    # One array at a time beside those already there; the limit itself counts as too much.
    sizes = [x.size * x.dtype.itemsize for x in (*found.values(), *jax.tree.leaves(abstract))]
    context.memory.read_concurrent_bytes = 1 + max(sizes)
    with context:
        try:
            return ocp.load(folder.absolute(), placed)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:  # no room: the files may be fine
            raise InputError(f"{folder}: cannot be loaded ({_reason(error)})") from error
        except Exception as error:  # Orbax and TensorStore raise what they like
            raise DamagedError(f"{folder}: damaged checkpoint ({_reason(error)})") from error


def stored_arrays(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes in a folder of `save_tree` by path, such as `layers/mlp/up/kernel`.

    Raises:
      InputError: the folder is missing, half-written or no checkpoint.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a checkpoint")
    try:
        with _muted():
            tree = ocp.metadata(folder.absolute()).metadata
    except Exception as error:  # Orbax and TensorStore raise what they like
        raise DamagedError(f"{folder}: not a checkpoint ({_reason(error)})") from error
    if tree is None:  # what Orbax makes of a description that is cut short
        raise DamagedError(f"{folder}: damaged checkpoint (its description cannot be read)")
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _by_name(tree).items()}


def _compare(folder: Path, abstract: PyTree, partial: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Raises at the first difference; returns what the folder holds."""
    # Asked for part of a tree, Orbax returns an array that it does not find as its bare shape.
    found, wanted = stored_arrays(folder), _by_name(abstract)
    for name, leaf in wanted.items():
        if name not in found:
            raise InputError(f"{folder}: array {name} is missing, expected {leaf.shape}")
        if found[name].shape != leaf.shape:
            raise InputError(
                f"{folder}: array {name} has shape {found[name].shape}, expected {leaf.shape}"
            )
    for name in () if partial else sorted(found.keys() - wanted.keys()):
        raise InputError(f"{folder}: unexpected array {name}, expected none of that name")
    return found


def _by_name(tree: PyTree) -> dict[str, Any]:
    # Orbax stores named tuples and dataclasses as dicts, so that only the names compare.
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_compression = False  # ten times faster, and weights hardly shrink
    # A folder that cannot be made is told at once; in the background it is waited for in vain.
    context.asynchronous.create_directories_asynchronously = False
    return context


def _put_back(folder: Path) -> None:
    """What `Checkpoints.replace` has left where it was killed: a step, or what has replaced it."""
    if distributed.is_main():
        for former in folder.glob(f"*{FORMER}"):
            step = former.with_suffix("")
            if step.exists():
                shutil.rmtree(former)
            else:
                former.rename(step)
    distributed.barrier("former checkpoints put back")


def _free_name(step: Path) -> str:
    """For a damaged step; one of that number may have been damaged before."""
    name = f"{step.name}.damaged"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not step.with_name(name).exists())


def _unsaved(folder: Path, error: BaseException) -> str:
    return f"{folder}: a checkpoint cannot be written ({_reason(error)}); those before it are kept"


def _reason(error: Exception) -> str:
    """In a few words: Orbax wraps TensorStore's message, which ends in what was wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" [source locations=")[0].rpartition('": ')[2]


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    # A description that is cut short is a warning of many lines to Orbax, and a refusal to us.
    logger = logging.get_absl_logger()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)
