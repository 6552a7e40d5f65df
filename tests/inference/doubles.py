"""Stand-ins for what inference takes from other rooms."""

from collections.abc import Callable

from tests.builders import CONFIG


class Spelled:
    """A tokenizer that only decodes, by the function it is given."""

    vocab_size = CONFIG.vocab_size
    bos_id = None
    pad_id = 0
    unk_id = None
    stop_ids = ()

    def __init__(self, decode: Callable):
        self.decode = decode

    def encode(self, text):
        raise NotImplementedError
