"""Orbax behind one door: trees of arrays on disk, and the checkpoints of a training run.

Whatever is read is compared leaf by leaf with what was asked for, and lands on whatever mesh was
asked for. No other module knows which version of Orbax this is.
"""

import contextlib
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
        try:
            self._checkpointer = ocp.training.Checkpointer(
                folder.absolute(),
                context=_context(),
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from error

    @property
    def latest(self) -> int | None:
        """The newest step; None if there is none."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    @property
    def best(self) -> int | None:
        """The step with the smallest validation loss, the newest of equals; or None."""
        found = [c for c in self._checkpointer.checkpoints if c.metrics]
        ranked = [(c.metrics[BEST_METRIC], -c.step) for c in found]
        return -min(ranked)[1] if ranked else None

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

    def restore_newest(self, abstract: PyTree) -> PyTree | None:
        """The state of the newest step that can be read; None where no step was ever saved.

        A damaged step is said so and moved aside, for it would be in the way of the run that
        goes on before it; nothing is deleted.

        Raises:
          InputError: every step is damaged, or one is that of another kind of run.
        """
        self.wait()
        while self.latest is not None:
            step = self._folder / str(self.latest)
            try:
                return load_tree(step, abstract)
            except DamagedError as error:
                damaged = f"{error}; it is now {step.name}.damaged"
            if distributed.is_main():
                step.rename(step.with_name(f"{step.name}.damaged"))
            distributed.barrier("damaged checkpoint moved aside")
            self._checkpointer.reload()
            if self.latest is None:
                raise InputError(f"{damaged}, and there is none before it")
            logging.warning("%s. Going on from step %d", damaged, self.latest)
        return None

    def wait(self) -> None:
        """Until all saves are on disk.

        Raises:
          InputError: one could not be written.
        """
        with self._disk_errors():
            self._checkpointer.wait()

    def restore(self, step: int, abstract: PyTree, partial: bool = False) -> PyTree:
        """The state of one step; see `load_tree`."""
        self.wait()
        return load_tree(self._folder / str(step), abstract, partial)

    def restore_best(self, abstract: PyTree, partial: bool = False) -> PyTree:
        """The state of the best step by validation loss.

        Raises:
          InputError: no step was saved with a validation loss, or see `load_tree`.
        """
        if self.best is None:
            raise InputError(f"{self._folder}: no checkpoint has a validation loss, expected one")
        return self.restore(self.best, abstract, partial)

    def close(self) -> None:
        """Waits for the saves on their way.

        Raises:
          InputError: one could not be written.
        """
        with self._disk_errors():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise what they like
            raise InputError(
                f"{self._folder}: a checkpoint cannot be written ({_first_line(error)}); those "
                "before it are kept"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def save_tree(folder: Path, tree: PyTree) -> None:
    """Writes arrays to a new folder."""
    with _context():
        ocp.save(folder.absolute(), tree)


def load_tree(folder: Path, abstract: PyTree, partial: bool = False) -> PyTree:
    """Reads the arrays that `abstract` asks for, in its dtypes and onto its devices.

    Args:
      folder: of `save_tree`, or one step of `Checkpoints`.
      abstract: a tree of `jax.ShapeDtypeStruct`. Without a sharding an array goes to the first
        device of this process, whatever mesh it was saved from.
      partial: the folder may hold more than is asked for.

    Raises:
      InputError: names the array that is missing, not asked for or of another shape, or the
        folder that is no checkpoint or a damaged one.
    """
    found = _compare(folder, abstract, partial)
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or alone), abstract
    )
    context = _context()
    context.pytree.loading.partial_load = partial
    # One array at a time beside those already there; the limit itself counts as too much.
    sizes = [x.size * x.dtype.itemsize for x in (*found.values(), *jax.tree.leaves(abstract))]
    context.memory.read_concurrent_bytes = 1 + max(sizes)
    with context:
        try:
            return ocp.load(folder.absolute(), placed)
        except Exception as error:  # Orbax and TensorStore raise what they like
            raise DamagedError(f"{folder}: damaged checkpoint ({_first_line(error)})") from error


def stored_arrays(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes in a folder of `save_tree` by path, such as `layers/mlp/up/kernel`.

    Raises:
      InputError: the folder is missing, half-written or no checkpoint.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a checkpoint")
    try:
        tree = ocp.metadata(folder.absolute()).metadata
    except Exception as error:  # Orbax and TensorStore raise what they like
        raise DamagedError(f"{folder}: not a checkpoint ({_first_line(error)})") from error
    if tree is None:  # what Orbax makes of a description that is cut short
        raise DamagedError(f"{folder}: not a checkpoint (its description cannot be read)")
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
    return context


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
