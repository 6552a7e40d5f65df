"""Owns which examples share a row: the slots of its two streams, and how examples fill them.

Works on lengths alone. A row is a box with two sizes, prompt slots and answer slots, and an
example an item that takes some of both.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from overfill_jax.errors import InputError

# Streams of long rows are whole multiples of what attention kernels and matrix units like.
LONG_MULTIPLE = 128
SHORT_MULTIPLE = 8
LONG = 1024

# Share of all tokens that a split of the row may lose more than the best one, in examples that
# fit no row: one prompt of unusual length shall not leave half of every row empty.
TOLERATED_LOSS = 0.01

# Examples are packed in windows of about so many rows. Larger ones take longer and gain nothing.
WINDOW_ROWS = 256
GRADES = 32  # of sizes, by which examples are sorted in a window


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Slots of a row, and whether it may hold several examples."""

    prompt_slots: int
    answer_slots: int
    packed: bool

    def fits(
        self, prompts: Int[np.ndarray, "N"], answers: Int[np.ndarray, "N"]
    ) -> Bool[np.ndarray, "N"]:
        """Which examples fit a row of their own."""
        return (prompts <= self.prompt_slots) & (answers <= self.answer_slots)


def choose_shape(
    prompts: Int[np.ndarray, "N"],
    answers: Int[np.ndarray, "N"],
    cutoff: bool,
    packing: bool,
    sequence_length: int,
    prompt_slots: int,
) -> RowShape:
    """The shape of rows for examples of these lengths.

    Args:
      prompts, answers: lengths.
      cutoff: parts of answers will move into their prompts.
      packing: several examples a row (`packed_shape`), or one (`longest_shape`).
      sequence_length, prompt_slots: of packed rows.

    Raises:
      InputError: as `packed_shape`.
    """
    if packing:
        return packed_shape(prompts, answers, cutoff, sequence_length, prompt_slots)
    return longest_shape(prompts, answers, cutoff)


def longest_shape(
    prompts: Int[np.ndarray, "N"], answers: Int[np.ndarray, "N"], cutoff: bool
) -> RowShape:
    """Rows of one example each, which every example fits, cut off or not."""
    moved = cutoff * np.maximum(answers - 2, 0)
    slots = (_up(int(lengths.max()), SHORT_MULTIPLE) for lengths in (prompts + moved, answers))
    return RowShape(*slots, packed=False)


def packed_shape(
    prompts: Int[np.ndarray, "N"],
    answers: Int[np.ndarray, "N"],
    cutoff: bool,
    sequence_length: int,
    prompt_slots: int,
) -> RowShape:
    """Rows of several examples, split into prompt and answer slots as the examples are.

    Of the splits that lose hardly any examples it is the one that fills rows best, given the mean
    lengths.

    Args:
      prompts, answers: lengths.
      cutoff: on average, half of an answer moves into the prompt.
      sequence_length: prompt and answer slots together.
      prompt_slots: 0 to choose them.

    Raises:
      InputError: no split is possible, or none that any example fits.
    """
    if sequence_length < 2 * SHORT_MULTIPLE:
        raise InputError(
            f"train.sequence_length: found {sequence_length}, expected at least "
            f"{2 * SHORT_MULTIPLE}"
        )
    if prompt_slots:
        if not 0 < prompt_slots < sequence_length:
            raise InputError(
                f"train.prompt_slots: found {prompt_slots}, expected 0 or a part of the "
                f"{sequence_length} of train.sequence_length"
            )
        candidates = [prompt_slots]
    else:
        multiple = LONG_MULTIPLE if sequence_length >= LONG else SHORT_MULTIPLE
        candidates = range(multiple, sequence_length, multiple)
    moved = cutoff * np.maximum(answers - 2, 0) / 2
    shapes = [RowShape(slots, sequence_length - slots, packed=True) for slots in candidates]
    kept, density = np.array([_promise(prompts, answers, moved, shape) for shape in shapes]).T
    if not kept.any():
        raise InputError(
            f"train.sequence_length: found {sequence_length}, and no example fits; the shortest "
            f"has {int((prompts + answers).min())} tokens"
        )
    density[kept < kept.max() - TOLERATED_LOSS * (prompts + answers).sum()] = 0.0
    return shapes[int(density.argmax())]


def pack(
    prompts: Int[np.ndarray, "N"], answers: Int[np.ndarray, "N"], shape: RowShape
) -> Int[np.ndarray, "N"]:
    """The row of every example, counted from 0; all rows hold something.

    In windows of consecutive examples, the largest come first, and each goes to the emptiest of
    as many rows as the window needs at least. That levels both streams of all rows, so that they
    fill up together; the few examples that find no place at the end open further rows. All
    windows are packed at the same time, an example of each in one step.

    Args:
      prompts, answers: lengths, all of which fit.
      shape: of the rows.
    """
    if not shape.packed or not len(prompts):
        return np.arange(len(prompts))
    # In units of 1 / (prompt slots x answer slots) both streams are equally long.
    room = shape.prompt_slots * shape.answer_slots
    sizes = np.stack([prompts * shape.answer_slots, answers * shape.prompt_slots]).astype(np.int64)
    windows = max(1, round(int(sizes.sum(1).max()) / room / WINDOW_ROWS))
    width = -(-len(prompts) // windows)
    sizes = np.pad(sizes, ((0, 0), (0, windows * width - len(prompts))))
    sizes = sizes.reshape(2, windows, width)
    # Among sizes that are nearly equal the given order decides, so that shuffled examples meet
    # others each time.
    largest_first = np.argsort(-(sizes.max(0) * GRADES // room), axis=1, kind="stable")
    sizes = np.take_along_axis(sizes, largest_first[None], axis=2)
    in_window = np.empty((windows, width), np.int64)
    np.put_along_axis(in_window, largest_first, _level(sizes, room), axis=1)
    rows = in_window + width * np.arange(windows)[:, None]
    return np.unique(rows.reshape(-1)[: len(prompts)], return_inverse=True)[1]


def _level(sizes: Int[np.ndarray, "2 W K"], room: int) -> Int[np.ndarray, "W K"]:
    """The row, within its window, of each of K items of every window, placed in their order."""
    windows, width = sizes.shape[1:]
    needed = -(-sizes.sum(2).max(0) // room)
    columns = int(needed.max()) + 1
    # Rows beyond those needed come after all others, the first of them first.
    handicap = room * np.maximum(np.arange(width + 1) - needed[:, None] + 1, 0)
    free = np.full((2, windows, columns), room)
    rows = np.empty((windows, width), np.int64)
    each = np.arange(windows)
    for step in range(width):
        left = (free - sizes[:, :, step, None]).min(0)
        score = np.where(left < 0, -1, left - handicap[:, :columns] + handicap.max())
        row = score.argmax(1)
        rows[:, step] = row
        free[:, each, row] -= sizes[:, :, step]
        if row.max() == columns - 1 and columns <= width:  # there is always an empty one
            free = np.concatenate([free, np.full((2, windows, 1), room)], axis=2)
            columns += 1
    return rows


def _promise(
    prompts: Int[np.ndarray, "N"],
    answers: Int[np.ndarray, "N"],
    moved: Float[np.ndarray, "N"],
    shape: RowShape,
) -> tuple[float, float]:
    """Tokens that fit, and the share of slots that they could fill if rows were filled ideally."""
    fits = shape.fits(prompts, answers)
    tokens = float((prompts + answers)[fits].sum())
    read = float((prompts + moved)[fits].sum())
    rows = max(read / shape.prompt_slots, (tokens - read) / shape.answer_slots, 1.0)
    return tokens, tokens / rows / (shape.prompt_slots + shape.answer_slots)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
