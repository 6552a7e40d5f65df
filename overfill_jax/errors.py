"""The one exception for everything that a user can put right."""


class InputError(ValueError):
    """Bad input: one line that names the file, key or row, what was found and what was expected.

    >>> overfill_jax.load("nowhere")
    Traceback (most recent call last):
        ...
    overfill_jax.errors.InputError: nowhere: no such file or folder, expected a tokenizer

    The command line prints it without a traceback and ends with exit status 2.
    """
