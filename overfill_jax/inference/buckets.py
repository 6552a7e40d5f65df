"""The sizes that compiled functions are made for, so that few of them serve every input."""


def bucket(size: int, smallest: int) -> int:
    """`smallest`, doubled until it holds `size`, or a midpoint between two doublings that does.

    At most a third of a bucket is padding, and the sizes up to n share about 2 log2(n) buckets.
    """
    power = smallest
    while power < size:
        middle = power + power // 2
        if size <= middle:
            return middle
        power *= 2
    return power


def multiple(size: int, unit: int) -> int:
    """The smallest multiple of `unit` that holds `size`."""
    return -(-size // unit) * unit
