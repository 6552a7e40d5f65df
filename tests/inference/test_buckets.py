"""Sizes for which functions are compiled."""

from overfill_jax.inference.buckets import bucket


def test_sizes_are_doublings_and_midpoints():
    assert [bucket(n, 1) for n in (1, 2, 3, 4, 5, 6, 7, 9, 13)] == [1, 2, 3, 4, 6, 6, 8, 12, 16]
    assert [bucket(n, 16) for n in (1, 16, 17, 25, 33, 100)] == [16, 16, 24, 32, 48, 128]


def test_every_size_fits_and_few_buckets_serve_all():
    buckets = {bucket(n, 16) for n in range(1, 4097)}
    assert all(bucket(n, 16) >= n for n in range(1, 4097))
    assert all(2 * n > bucket(n, 16) * 4 / 3 for n in range(16, 4097))
    assert len(buckets) == 17
