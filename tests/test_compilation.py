"""Programs are kept for the next process where that is wanted and safe."""

import os
import subprocess
import sys

import jax
import pytest

from overfill_jax import compilation
from overfill_jax.weights.folders import save_model
from tests.builders import random_model
from tests.conftest import REPOSITORY
from tests.data.conftest import LLAMA3, write_byte_bpe

pytestmark = pytest.mark.long

PROGRAM = """
import sys
from collections import Counter

import jax

from configs.default import get_config
from overfill_jax.stages import run_stage

events = Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
workdir, folder = sys.argv[1:]
config = get_config()
config.compilation_cache = folder
config.generate.dtype, config.generate.max_new_tokens = "float32", 4
config.generate.prompts = f"{workdir}/prompts.jsonl"
run_stage("generate", config, workdir)
hits, misses = (events[f"/jax/compilation_cache/cache_{name}"] for name in ("hits", "misses"))
print(hits, misses)
"""


@pytest.fixture
def told():
    """JAX is told no folder of the user's."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    compilation._turn_to(before)


def within(folder, workdir):
    with compilation.kept(folder, workdir):
        return jax.config.jax_compilation_cache_dir


def test_accelerators_keep_programs_in_the_workdir(told, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert within("auto", tmp_path) == str(tmp_path / "compiled")
    assert within("elsewhere", tmp_path) == "elsewhere"
    assert within("", tmp_path) is None
    assert told() is None
    jax.config.update("jax_compilation_cache_dir", "mine")
    assert within("auto", tmp_path) == within("", tmp_path) == "mine"
    assert within("elsewhere", tmp_path) == "elsewhere"
    assert told() == "mine"


def test_cpus_keep_them_where_asked_and_safe(told, tmp_path, monkeypatch, caplog):
    assert within("auto", tmp_path) is None
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.10.2")
    assert within("elsewhere", tmp_path) == "elsewhere"
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.11.2")
    assert within("elsewhere", tmp_path) is None
    assert "jaxlib 0.11.2 keeps no programs for CPUs" in caplog.text


@pytest.mark.usefixtures("told")
def test_a_stage_that_fails_leaves_jax_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ZeroDivisionError), compilation.kept("auto", tmp_path):
        raise ZeroDivisionError
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.skipif(not jax.__version__.startswith("0.10."), reason="not kept for CPUs")
def test_the_second_process_compiles_nothing(tmp_path):
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
    specials += ["<|end_header_id|>", "<|eot_id|>"]
    names = {"bos_token": specials[0], "eos_token": "<|eot_id|>", "chat_template": LLAMA3}
    tokenizer = write_byte_bpe(tmp_path, specials, names)
    for folder, seed in (("full", 0), ("decoder", 1)):
        save_model(tmp_path / folder, random_model(seed, vocab_size=400), tokenizer)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello world"}\n')
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), "{workdir}/kept"],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        counts.append([int(word) for word in done.stdout.splitlines()[-1].split()])
    (_, first), (hits, misses) = counts
    assert first > 0
    assert misses == 0
    assert hits >= first
    assert any((tmp_path / "kept").iterdir())
