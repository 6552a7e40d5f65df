"""Every key of every stage, with its default: the recipe of the paper where the paper gives one.

A stage reads its own section and `seed`. Override on the command line: `--config.prune.hidden=0.3`.
Paths are relative to the current folder; `{workdir}` in them stands for the workdir.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Every section under the name of its stage, and the seed."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.attention = "auto"  # who computes it: auto, xla, splash (TPU), cudnn (NVIDIA GPU)
    # Where compiled programs outlive the process: auto (`{workdir}/compiled`, on accelerators), a
    # folder, or nowhere ("", unless JAX_COMPILATION_CACHE_DIR says where).
    config.compilation_cache = "auto"
    config.mesh = _mesh()
    config.plan = _plan()
    config.benchmark = _benchmark()
    config.data = _data()
    config.init = _init()
    config.convert = _convert()
    config.text = _text()
    config.calibrate = _calibrate()
    config.prune = _prune()
    config.train = _train()
    config.quantise = _quantise()
    config.generate = _generate()
    config.engine = _engine()
    config.evaluate = _evaluate()
    config.score = _score()
    config.harness = _harness()
    config.export = _export()
    config.experiment = _experiment()
    config.report = _report()
    return config.lock()


def _mesh() -> ml_collections.ConfigDict:
    """Devices of a job as a block of three axes; one of the sizes may be -1, what is left."""
    mesh = ml_collections.ConfigDict()
    mesh.data = -1  # parts of the batch, each with whole copies of the weights
    mesh.fsdp = 1  # parts of the batch that split the weights' width among them as well
    mesh.tensor = 1  # parts of heads, MLP and vocabulary
    return mesh


def _plan() -> ml_collections.ConfigDict:
    """What training and answers cost, from the config alone; needs neither weights nor chips."""
    plan = ml_collections.ConfigDict()
    plan.model = ""  # the full model's config.json, or its folder
    plan.chip = "v5e"  # v5e, v5p, v6e, a100_40gb, a100, h100, h200
    plan.topology = "4x4"  # of a TPU slice; of GPUs the number, or hosts x GPUs
    plan.prompt_share = 0.5  # of a row's slots, where train.prompt_slots leaves it open
    plan.tokens = 0  # of the training data, prompts and answers; 0: only the cost of a step
    plan.compile = False  # asks the compiler as well (launch/requirements-tpu-compile.txt)
    plan.chips = 1  # of them that answer together, splitting heads, MLP and vocabulary
    plan.batch = 1  # prompts answered at once
    plan.prompt = 512  # tokens of each
    plan.answer = 1024  # tokens of each answer
    plan.weights = "bfloat16"  # the decoder's: bfloat16, int8, int4
    plan.cache = "bfloat16"  # the decoder's: bfloat16, int8
    plan.refresh = 0  # answer tokens after which the full model reads them itself; 0: never
    return plan


def _benchmark() -> ml_collections.ConfigDict:
    """Speed and memory on the machine here."""
    benchmark = ml_collections.ConfigDict()
    # The "train" step, with random weights of the shape in `plan.model`; or "load", making the
    # batches of `train.epochs` over `train.source`, with the tokenizer in `full/`; or "refresh",
    # the pair in the workdir on `evaluate.source` under every policy; or "precision", the same with
    # integers for weights and cache; or "inference", answers of full model, decoder and both, with
    # random weights of the shape in `plan.model`; or "engine", the same for many requests at once
    # against one after another.
    benchmark.subject = "train"
    benchmark.steps = 10  # timed train steps of each variant; 0: compiled only
    benchmark.batches = (1, 8, 64)  # of answers: rows, prompt tokens, answer tokens
    benchmark.prompts = (512, 2048, 8192)
    benchmark.answers = (128, 512, 1024)
    benchmark.precision = 0  # bits of the decoder's weights, 8 or 4; 0: as `generate.dtype`
    benchmark.repeats = 3  # timed answers of each system, in turn
    benchmark.requests = 32  # to the "engine", with up to so many tokens as above
    benchmark.transformers = True  # where it is installed: the same weights and prompts with it
    benchmark.intervals = (1, 2, 4, 8, 16)  # answer tokens from one refresh to the next
    benchmark.entropies = (2.0, 0.3)  # nats above which a block ends, of at most the longest
    benchmark.decoders = ("decoder",)  # folders of the workdir; precision takes the first
    benchmark.groups = (0, 128)  # input channels that share a scale; 0: all of them
    benchmark.variants = ()  # settings to try one by one, such as "train.remat=none"
    return benchmark


def _data() -> ml_collections.ConfigDict:
    """Your files into one TFDS folder, `data/`, with a split for each file that is given.

    Without any, the procedural tasks as JSONL files in `data/`.
    """
    data = ml_collections.ConfigDict()
    data.train = ""  # JSONL, or mixtures such as "a.jsonl*0.5, b.jsonl"
    data.validation = ""
    data.test = ""
    # Instead of JSONL, parallel lines of text: the ending, such as ".en", of the files beside these
    # that hold the answers, and what a prompt makes of a line.
    data.target = ""
    data.wording = "{line}"
    data.train_rows = 0  # of each family of the procedural tasks
    data.validation_rows = 0
    data.test_rows = 0
    data.joined = 1  # puzzles of such a row at most, one behind the other
    data.vocab_size = 0  # pieces of a tokenizer trained on the train split; 0: none
    return data


def _init() -> ml_collections.ConfigDict:
    """A full model with random weights, to be trained from scratch."""
    init = ml_collections.ConfigDict()
    init.config = ""  # a config.json in the Hugging Face spelling
    init.tokenizer = ""  # folder or file that goes along with the model
    init.dtype = "float32"
    return init


def _convert() -> ml_collections.ConfigDict:
    """A Hugging Face folder into `full/`."""
    convert = ml_collections.ConfigDict()
    convert.source = ""
    convert.dtype = "bfloat16"  # of the stored weights
    return convert


def _text() -> ml_collections.ConfigDict:
    """How rows become tokens; shared by all stages that read rows."""
    text = ml_collections.ConfigDict()
    text.prompt_column = "prompt"  # JSONL rows without `messages`: prompt and answer under
    text.response_column = "response"  # these names
    text.turns = "last"  # the answers of a conversation: its last assistant turn, or "every" one
    text.max_prompt_tokens = 2000  # of a row with an answer; longer ones are rejected, and counted
    text.max_total_tokens = 2000
    return text


def _calibrate() -> ml_collections.ConfigDict:
    """One pass of the full model over text into `importance.npz`."""
    calibrate = ml_collections.ConfigDict()
    calibrate.source = ""  # a .txt file (a paragraph a line), JSONL or TFDS folder
    calibrate.split = "train"  # of a TFDS folder
    calibrate.families = ()  # only rows that name one of them as their `family`; (): all rows
    calibrate.samples = 512
    calibrate.length = 512  # tokens; longer samples are cut
    calibrate.rows = "longest"  # samples of the source (reference), its "first", or "packed" text
    calibrate.batch_size = 8
    calibrate.statistic = "signed_mean"  # over a sample: signed_mean, abs_mean, rms, weighted
    calibrate.sample_norm = "l2"  # over the samples: l1, l2
    calibrate.positions = "all"  # or "answer": only the answer's tokens count
    calibrate.dtype = "float32"  # compute
    return calibrate


def _prune() -> ml_collections.ConfigDict:
    """`full/` and `importance.npz` into `pruned/` and `kept.npz`."""
    prune = ml_collections.ConfigDict()
    prune.hidden = 0.45  # share removed, in [0, 1); an integer is the width to keep
    prune.intermediate = 0.45
    prune.multiple_of = 1  # widths that follow from a share are rounded down to it
    prune.heads = 0.0  # of the query heads of each kv head: share removed, or number kept
    prune.kv_heads = 0.0  # of the kv heads, which their query heads go with
    prune.depth = 0.0  # of the layers
    prune.layers = "importance"  # or "random", "first", "last", "firstlast", "0,1,30": those kept
    prune.selection = "importance"  # of channels and heads; or "random", "first"
    prune.indices = ""  # kept.npz or a released .pkl: keep what these say instead
    # Scales of the norms times rms of the kept channels / rms of all, as calibration measured them:
    # a norm of the pruned model divides by the rms of what is kept.
    prune.norm_correction = False
    return prune


def _train() -> ml_collections.ConfigDict:
    """A decoder behind the frozen full model, or one of the baselines."""
    train = ml_collections.ConfigDict()
    train.method = "two_stage"  # baselines: pruned (alone), scratch (same size), full (fine-tuned)
    train.freeze = "full"  # "none" trains the full model too (two_stage only)
    # Rank of adapters of the decoder's dense kernels (q, k, v, o, gate, up, down), which then are
    # all that is trained: no weight, embedding or norm. 0: no adapters, all weights are trained.
    train.lora_rank = 0
    train.lora_alpha = 16.0  # an adapter's product counts lora_alpha / lora_rank
    train.first_token = "full"  # who gives the first answer token: "full" or "decoder"
    train.source = ""
    train.validation = ""  # without one, the last rows of the source are held out
    train.split = "train"  # of TFDS folders
    train.validation_split = "validation"
    train.validation_rows = 256
    train.batch_size = 64  # rows
    train.packing = False  # several examples a row, or one
    train.sequence_length = 2048  # slots of a packed row, prompts and answers together
    train.prompt_slots = 0  # how many of them are for prompts; 0: as the data has it
    train.accumulation = 1  # micro-batches of a step
    train.steps = 0  # optimiser steps; 0: as many as `epochs` take
    train.epochs = 1
    train.cutoff = False  # reference's random cutoff: part of the answer moves into the prompt
    train.handoffs = False  # answers in blocks, a handoff before each: for decoders to be refreshed
    train.cross_entropy_weight = 1.0
    train.kl_weight = 0.0  # from the full model's distribution
    train.kl_temperature = 1.0
    train.loss_chunk = 256  # answer slots of a row whose logits exist at a time
    train.learning_rate = 2e-5
    train.warmup = 0.01  # share of the steps, 0: none; a cosine follows
    train.final_learning_rate = 0.0  # share of the peak at the cosine's end
    train.weight_decay = 0.0
    train.beta1 = 0.9
    train.beta2 = 0.999
    train.epsilon = 1e-8
    train.clip_norm = 1.0
    train.dtype = "bfloat16"  # compute; masters are float32
    train.remat = "full"  # recomputed in the backward pass: full, dots (all but products), none
    train.log_every = 10  # steps from line to line of the console; every step is recorded
    train.validate_every = 100
    train.checkpoint_every = 100
    train.keep_last = 2
    train.profile_at = 0  # step from which on a profile is taken; 0: none
    train.profile_steps = 3
    return train


def _quantise() -> ml_collections.ConfigDict:
    """A model of the workdir with weights in int8 or int4, which `generate.decoder` can name."""
    quantise = ml_collections.ConfigDict()
    quantise.model = "decoder"
    quantise.target = "decoder_int8"
    quantise.bits = 8  # or 4
    quantise.group = 0  # input channels that share a scale; 0: one scale an output channel
    return quantise


def _generate() -> ml_collections.ConfigDict:
    """The stages generate and chat: answers from a pair, or from one model alone."""
    generate = ml_collections.ConfigDict()
    generate.full = "full"  # folders of the workdir
    generate.decoder = "decoder"  # the same folder as `full` for one model alone
    generate.first_token = "full"
    generate.prompts = ""  # a JSONL file; rows as in training, the answer not needed
    generate.output = ""  # JSONL; to the terminal where not given
    generate.batch_size = 32
    generate.max_new_tokens = 256
    generate.temperature = 0.0  # 0: greedy
    generate.top_k = 0  # 0: no limit
    generate.top_p = 1.0
    generate.stop = ()  # strings that end an answer
    # When the full model reads again what the decoder wrote: none, "every" so many tokens, or
    # "entropy", also where the decoder's distribution has more than so many nats.
    generate.refresh = "none"
    generate.refresh_interval = 16
    generate.refresh_entropy = 2.0
    generate.refresh_strictness = 0.0  # 0: all it wrote stands; 1: what the full model would write
    generate.system = ""  # system message of a chat
    generate.warm_up = 0  # tokens of conversations for which a chat compiles all before it begins
    generate.dtype = "bfloat16"
    generate.cache = ""  # "int8": what the decoder reads of the cache, converted at the handoff
    return generate


def _engine() -> ml_collections.ConfigDict:
    """Continuous batching: what there is room for."""
    engine = ml_collections.ConfigDict()
    engine.slots = 32  # answers that are written at once, at most
    engine.length = 2048  # tokens of prompt and answer together that a slot holds
    engine.chunk = 512  # prompt tokens between two steps of the answers
    return engine


def _evaluate() -> ml_collections.ConfigDict:
    """The full model, the two-stage system and the baselines found in the workdir."""
    evaluate = ml_collections.ConfigDict()
    evaluate.source = ""
    evaluate.split = "test"
    evaluate.first_token = "full"  # of two-stage systems; as they were trained
    evaluate.rows = 0  # the first rows of the source, in order; 0: all
    evaluate.match = "text"  # answers are equal as text, or in their last "number"
    evaluate.batch_size = 64
    evaluate.max_new_tokens = 256
    evaluate.dtype = "float32"
    evaluate.samples = 3  # answers shown in the report
    return evaluate


def _score() -> ml_collections.ConfigDict:
    """A published benchmark, asked of the systems in the workdir."""
    score = ml_collections.ConfigDict()
    # gsm8k, arc_challenge, mmlu, mmlu_redux, math, wmt16, ifeval, nq_open, cruxeval; with choices
    # ranked by likelihood, arc_challenge_likelihood and mmlu_likelihood.
    score.task = ""
    score.source = ""  # its JSONL file
    score.systems = ()  # such as "full", "two_stage", "decoder_alone"; (): all there are
    score.shots = -1  # examples before each question; -1: as the task's protocol has it
    score.limit = 0  # the first questions of the file; 0: all
    score.max_new_tokens = 0  # an answer is cut there; 0: as the task's protocol has it
    score.first_token = "full"  # of two-stage systems; as they were trained
    score.batch_size = 32  # answers written at once
    score.dtype = "bfloat16"
    return score


def _harness() -> ml_collections.ConfigDict:
    """Tasks of the package lm-eval, asked of the pair of the section `generate`, as it answers."""
    harness = ml_collections.ConfigDict()
    harness.tasks = (  # the reference's
        "gsm8k_cot_llama",
        "wmt16-de-en",
        "ifeval",
        "arc_challenge_chat",
        "mmlu_llama",
        "nq_open",
    )
    harness.folder = ""  # of further tasks, as YAML files
    harness.shots = 4  # before each question, but none where the task itself says so
    harness.chat = True  # questions as turns of a conversation; False: as plain text
    harness.limit = 0  # the first questions of every task; 0: all
    harness.batch_size = 32  # rows read and written at once
    return harness


def _export() -> ml_collections.ConfigDict:
    """A model of the workdir as a Hugging Face folder."""
    export = ml_collections.ConfigDict()
    export.model = "decoder"
    export.target = "hf"
    export.allow_illegal_widths = False  # widths that transformers refuses to load
    export.shard_bytes = 5_000_000_000
    return export


def _experiment() -> ml_collections.ConfigDict:
    """Stages again and again, each time with other settings; by default a comparison of systems.

    A cell is a row with a series and a seed. Its stages see the settings of both.
    """
    experiment = ml_collections.ConfigDict()
    experiment.name = "comparison"  # of its folder in `experiments/`
    experiment.title = "Two-stage decoding and its baselines"
    # Stages that come before all cells, once; each with settings of its own if need be.
    experiment.shared = ()
    experiment.stages = (  # of each cell
        "prune",
        "train",
        "train train.method=pruned",
        "train train.method=scratch",
        "evaluate",
    )
    experiment.x = ""  # what the rows differ in
    experiment.rows = ("",)  # "NAME: KEY=VALUE KEY=VALUE"; "": as configured
    experiment.series = ("",)  # the same, for the lines of a figure
    experiment.seeds = (0,)
    experiment.systems = ("full", "two_stage", "pruned_tuned", "scratch")
    # A figure of each: accuracy, families, loss, positions, gap, relative_gain, accuracy_by_tokens,
    # accuracy_by_length, scores, answer_lengths, overlap, refreshed_loss, refreshed_positions,
    # refreshed_accuracy, refreshed_by_length, precision, latency, prefill_share.
    experiment.measures = ("accuracy", "families", "positions")
    experiment.full_tokens = 0  # that the full model was trained on before the experiment
    return experiment


def _report() -> ml_collections.ConfigDict:
    """One page of all that the other stages have found."""
    report = ml_collections.ConfigDict()
    report.samples = 3  # questions of every benchmark, with the answers of all systems
    return report
