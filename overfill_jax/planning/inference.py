"""How long answers take: the full model alone, two-stage, the decoder alone; and what must fit.

Paper, sections 1 and 3: reading is limited by arithmetic, writing by memory. The full model is in
bfloat16, weights and cache; all rows of a batch are of the same lengths; the reader gives the first
token, with the prompt's last logits.
"""

import dataclasses
import difflib
import functools
from collections.abc import Iterable

import ml_collections
import numpy as np

from overfill_jax.chips import Chip
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.quantised import Scheme, check_scheme
from overfill_jax.planning.efficiency import REACHED
from overfill_jax.planning.passes import BYTES, Loaded, Machine, Number, load, pass_seconds

# Bits that weights are quantised to, by what they are stored in; 0 for those that are not.
BITS = {"bfloat16": 0, "int8": 8, "int4": 4}
CACHE = ("bfloat16", "int8")
# The names of the systems, everywhere.
FULL, TWO_STAGE, ALONE = "full alone", "two-stage", "decoder alone"


@dataclasses.dataclass(frozen=True)
class Request:
    """So many prompts at once, of so many tokens each, and tokens of each answer."""

    batch: int
    prompt: int
    answer: int


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of an answer, by what they are spent on."""

    prefill: Number
    handoff: Number
    decode: Number
    refresh: Number

    @property
    def first_token(self) -> Number:
        """Until the first token is there, and the writer can go on from it."""
        return self.prefill + self.handoff

    @property
    def total(self) -> Number:
        """Until the last token is there."""
        return self.prefill + self.handoff + self.decode + self.refresh


@dataclasses.dataclass(frozen=True)
class System:
    """Who reads and who writes; a model alone is both.

    Attributes:
      reader, writer: loaded on the same chips.
      refresh: R, answer tokens from one refresh to the next, 0 for none. The writer drafts R - 1,
        the reader reads the block in one pass and gives the next token; the last block is not cut
        short (inference/refresh.py). Every draft stands: a policy that decides by entropy costs as
        much as one with its mean distance.
    """

    reader: Loaded
    writer: Loaded
    refresh: int

    @property
    def shares_cache(self) -> bool:
        """Whether the writer goes on in the reader's cache, all of it and as it is stored."""
        return self.reader.cached == self.writer.cached

    def times(self, machine: Machine, batch: int, prompt: Number, answer: Number) -> Times:
        """Seconds of an answer; of many at once where lengths are arrays."""
        seconds = functools.partial(pass_seconds, machine=machine, batch=batch)
        # Never read again, an answer is one block, of which the reader has given the first token.
        interval = self.refresh or answer
        blocks = -(-(answer - 1) // interval)
        # A pass's time grows linearly with its context: the mean context has the mean time.
        drafting, reading = (prompt + interval * n / 2 for n in (blocks, blocks + 1))
        again = seconds(self.reader, tokens=interval, context=reading, answers=True)
        again = again + self._handoff(machine, batch * interval)
        return Times(
            prefill=seconds(self.reader, tokens=prompt, context=prompt, answers=True),
            handoff=self._handoff(machine, batch * prompt),
            decode=blocks * (interval - 1) * self.step(machine, batch, drafting),
            refresh=blocks * again if self.refresh else 0.0,
        )

    def step(self, machine: Machine, batch: int, context: Number) -> Number:
        """Seconds from one token to the next, of which the second sees `context` tokens."""
        return pass_seconds(self.writer, machine, batch, 1, context, answers=True)

    def _handoff(self, machine: Machine, tokens: Number) -> Number:
        """Seconds in which their cache is read and written; none where both read the one cache."""
        if self.shares_cache:
            return 0.0 * tokens
        moved = tokens * (self.reader.cached + self.writer.cached)
        return moved / (machine.chip.bandwidth * machine.reached.cache)


@dataclasses.dataclass(frozen=True)
class InferencePlan:
    """A request, and the systems that may answer it.

    Attributes:
      machine: that each runs on.
      request: as the config has it.
      longest: tokens of prompt and answer that the models were made for.
      systems: by name.
    """

    machine: Machine
    request: Request
    longest: int
    systems: dict[str, System]

    @functools.cached_property
    def times(self) -> dict[str, Times]:
        """Of the request, by system."""
        return {
            name: self._times(name, self.request.prompt, self.request.answer)
            for name in self.systems
        }

    def step(self, system: str, machine: Machine) -> Number:
        """Seconds of a token in the middle of the answer, on this machine."""
        request = self.request
        context = request.prompt + request.answer / 2
        return self.systems[system].step(machine, request.batch, context)

    def speed_up(self, prompt: Number, answer: Number, over: str) -> Number:
        """How many times as fast as another system two-stage is, from prompt to last token."""
        return (
            self._times(over, prompt, answer).total / self._times(TWO_STAGE, prompt, answer).total
        )

    def _times(self, system: str, prompt: Number, answer: Number) -> Times:
        return self.systems[system].times(self.machine, self.request.batch, prompt, answer)

    @property
    def limit(self) -> float:
        """Bytes that a token reads of the full model's weights for one of the decoder's."""
        full, decoder = (self.systems[name].writer for name in (FULL, TWO_STAGE))
        return (full.layers + full.table) / (decoder.layers + decoder.table)

    @property
    def least(self) -> int:
        """Tokens of the shortest answer that is written: none is shorter than a block."""
        return max(2, self.systems[TWO_STAGE].refresh)

    def shortest_answer(self) -> int | None:
        """Tokens from which on every answer to the prompt is faster two-stage; None if none is."""
        answers = np.arange(self.least, self.longest - self.request.prompt + 1)
        pays = self.speed_up(self.request.prompt, answers, FULL) > 1
        slower = np.flatnonzero(~pays)
        if not slower.size:
            return self.least
        return int(answers[slower[-1] + 1]) if pays[-1] else None

    def longest_prompt(self, speed_up: float) -> int | None:
        """Tokens of the longest prompt whose answer is that much faster; None if there is none."""
        prompts = np.arange(1, self.longest - self.request.answer + 1)
        reached = np.flatnonzero(self.speed_up(prompts, self.request.answer, FULL) >= speed_up)
        return int(prompts[reached[-1]]) if reached.size else None

    def memory(self) -> dict[str, float]:
        """Bytes on a chip by part, two-stage; their sum is the peak."""
        request, system = self.request, self.systems[TWO_STAGE]
        full, decoder = system.reader, system.writer
        # An MLP's input and output, and between them gate, up and their product.
        widest = 2 * full.part.hidden_size + 3 * full.part.intermediate_size
        tokens = request.prompt + request.answer
        # The reader gives its cache up at the handoff, or keeps it to read the answer in.
        own = 0.0 if system.shares_cache else full.cached
        kept, handed = (own, 0.0) if system.refresh else (0.0, own)
        reading = max(BYTES["bfloat16"] * widest, handed)
        return {
            "full weights": full.stored,
            "decoder weights": decoder.stored,
            "cache": request.batch * tokens * decoder.cached,
            "full model's own cache": request.batch * tokens * kept,
            "while reading": request.batch * request.prompt * reading,
        }


def plan_inference(
    plan: ml_collections.ConfigDict,
    full: ModelConfig,
    decoder: ModelConfig,
    chip: Chip,
    group: int = 0,
) -> InferencePlan:
    """What the config asks for, with these two shapes; `group` is that of `quantise`.

    Raises:
      InputError: names the key that is at fault.
    """
    _check(plan, full)
    if bits := BITS[plan.weights]:
        check_scheme(decoder, Scheme(bits, group))
    machine = Machine(chip, plan.chips, REACHED[chip.name])
    reader = load(full, "bfloat16", "bfloat16", plan.chips)
    writer = load(decoder, plan.weights, plan.cache, plan.chips, group)
    return InferencePlan(
        machine=machine,
        request=Request(plan.batch, plan.prompt, plan.answer),
        longest=full.max_position,
        systems={
            FULL: System(reader, reader, refresh=0),
            TWO_STAGE: System(reader, writer, plan.refresh),
            ALONE: System(writer, writer, refresh=0),
        },
    )


def _check(plan: ml_collections.ConfigDict, full: ModelConfig) -> None:
    # The first token is the reader's: a shorter answer leaves nothing to write.
    least = {"batch": (plan.batch, 1), "prompt": (plan.prompt, 1), "answer": (plan.answer, 2)}
    for key, (found, expected) in least.items():
        if found < expected:
            raise InputError(f"plan.{key}: found {found}, expected at least {expected}")
    if plan.prompt + plan.answer > full.max_position:
        raise InputError(
            f"plan.prompt, plan.answer: found {plan.prompt} and {plan.answer} tokens, expected at "
            f"most {full.max_position} together, which the model was made for"
        )
    if not 0 <= plan.refresh <= plan.answer:
        raise InputError(
            f"plan.refresh: found {plan.refresh}, expected 0 (none) or a number of tokens up to "
            f"plan.answer, {plan.answer}"
        )
    if plan.chips < 1 or full.num_kv_heads % plan.chips:
        raise InputError(
            f"plan.chips: found {plan.chips}, expected a divisor of the model's "
            f"{full.num_kv_heads} kv heads"
        )
    _check_known("plan.weights", plan.weights, BITS)
    _check_known("plan.cache", plan.cache, CACHE)


def _check_known(key: str, found: str, known: Iterable[str]) -> None:
    if found not in known:
        near = difflib.get_close_matches(found.lower(), known, n=1, cutoff=0.0)
        raise InputError(
            f"{key}: found {found!r}, did you mean {near[0]!r}? Expected one of {', '.join(known)}"
        )
