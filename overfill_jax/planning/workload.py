"""What a run is about to do, read from its config: two shapes, a batch, a mesh."""

import dataclasses
from pathlib import Path

import ml_collections
from jax.sharding import AbstractMesh

from overfill_jax import files
from overfill_jax.errors import InputError
from overfill_jax.model.config import ModelConfig
from overfill_jax.model.mesh import AXES, mesh_sizes
from overfill_jax.pruning.choose import choose
from overfill_jax.pruning.cut import pruned_config
from overfill_jax.pruning.sizes import kept_sizes
from overfill_jax.training.flops import StepFlops, step_flops
from overfill_jax.training.methods import METHODS
from overfill_jax.training.placement import check_batch
from overfill_jax.training.settings import check_settings
from overfill_jax.training.setup import make_setup
from overfill_jax.training.step import Setup
from overfill_jax.weights.hugging_face_config import from_hugging_face

# Prompt and answer slots of a row are whole blocks of the attention kernels.
BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Workload:
    """One train step, as far as its cost goes.

    Attributes:
      setup: what the run's steps share; the decoder alone is trained.
      rows: of the global batch, of all micro-batches together.
      prompt_slots, answer_slots: P and R of every row.
      frozen_dtype: that the full model's weights are stored in.
      mesh: sizes of the axes; holds no devices.
    """

    setup: Setup
    rows: int
    prompt_slots: int
    answer_slots: int
    frozen_dtype: str
    mesh: AbstractMesh

    @property
    def full(self) -> ModelConfig:
        """The full model's shape."""
        return dict(self.setup.configs)["full"]

    @property
    def decoder(self) -> ModelConfig:
        """The decoder's shape."""
        return dict(self.setup.configs)["decoder"]

    @property
    def slots(self) -> tuple[int, int]:
        """P and R."""
        return self.prompt_slots, self.answer_slots

    @property
    def row_slots(self) -> int:
        """P + R."""
        return self.prompt_slots + self.answer_slots

    @property
    def flops(self) -> StepFlops:
        """Of the step."""
        return step_flops(self.setup, self.rows, self.slots)


def read_workload(config: ml_collections.ConfigDict, chips: int) -> Workload:
    """The step that `config` describes, on so many chips.

    Raises:
      InputError: names the key that is at fault.
    """
    train = config.train
    if train.method != "two_stage" or train.freeze != "full":
        raise InputError(
            f"train.method: found {train.method!r} with freeze {train.freeze!r}; plan knows "
            "'two_stage' with freeze 'full'"
        )
    if train.handoffs:
        raise InputError("train.handoffs: found True; plan knows one handoff for each answer")
    if train.lora_rank:
        raise InputError(
            f"train.lora_rank: found {train.lora_rank}, expected 0; plan knows decoders whose "
            "weights are trained"
        )
    full = dataclasses.replace(
        read_shape(config.plan.model), dtype=train.dtype, attention=config.attention
    )
    m = config.mesh
    sizes = mesh_sizes(m.data, m.fsdp, m.tensor, chips, f"the {chips} chips of the plan")
    mesh = AbstractMesh(sizes, AXES)
    check_settings(train)
    check_batch(train.batch_size, train.accumulation, mesh)
    configs = {"decoder": pruned_shape(full, config.prune), "full": full}
    return Workload(
        # The length of the run does not change what a step costs.
        setup=make_setup(train, METHODS["two_stage"], configs, max(train.steps, 1)),
        rows=train.batch_size,
        **_slots(train, config.plan.prompt_share),
        frozen_dtype=config.convert.dtype,
        mesh=mesh,
    )


def read_shape(source: str) -> ModelConfig:
    """The shape in a `config.json`, or in the folder that holds one.

    Raises:
      InputError: no such file, no JSON object in it, or a shape that is not understood.
    """
    if not source:
        raise InputError("plan.model: found nothing, expected a config.json or its folder")
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    return from_hugging_face(files.read_object(path), str(path))


def pruned_shape(full: ModelConfig, prune: ml_collections.ConfigDict) -> ModelConfig:
    """The decoder that `prune` would cut out of this full model; which parts costs the same."""
    widths = prune.hidden, prune.intermediate, prune.multiple_of
    sizes = kept_sizes(full, *widths, prune.heads, prune.kv_heads, prune.depth, prune.layers)
    return pruned_config(full, choose(full, None, sizes, "first", "first", seed=0))


def _slots(train: ml_collections.ConfigDict, prompt_share: float) -> dict[str, int]:
    """Prompt and answer slots of a row."""
    if not 0 < prompt_share < 1:
        raise InputError(f"plan.prompt_share: found {prompt_share:g}, expected one in (0, 1)")
    length = train.sequence_length
    prompt = train.prompt_slots or max(1, round(prompt_share * length / BLOCK)) * BLOCK
    if not 0 < prompt < length:
        raise InputError(
            f"train.sequence_length: found {length}, of which {prompt} for prompts; expected "
            "some for answers, too"
        )
    return {"prompt_slots": prompt, "answer_slots": length - prompt}
