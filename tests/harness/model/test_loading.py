"""Weights from a file, from the cache and from a hub: what is damaged is made again, what cannot be had is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from harness.model.loading import HASHES, dequantised, file_sha256, is_whole, load_model
from reports.record.errors import InfrastructureError

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (pip install paribus[gguf])")


def write_gguf(path: Path) -> Path:
    """A Llama of one layer over a few characters, in llama.cpp's format."""
    generator = np.random.default_rng(0)
    tokens = ["<pad>", "<eos>", *tiny.CHARACTERS, "01"]
    width, inner, heads = 32, 48, 4
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["0 1"])
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    shapes = {
        "token_embd": (len(tokens), width), "output": (len(tokens), width), "output_norm": (width,),
        "blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,), "blk.0.ffn_gate": (inner, width),
        "blk.0.ffn_up": (inner, width), "blk.0.ffn_down": (width, inner),
        **{f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")},
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(the file, its folder in a cache of its own)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dequantised.cache_clear()
    path = write_gguf(tmp_path / "tiny.gguf")
    yield path, dequantised(path)
    dequantised.cache_clear()


def flip(path: Path) -> None:
    """One bit of the weights."""
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "one bit of the weights": lambda folder: flip(folder / "model.safetensors"),
    "a file cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
    "a file gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "no hashes": lambda folder: (folder / HASHES).unlink(),
    "hashes of nothing": lambda folder: (folder / HASHES).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_cached_weights_that_are_damaged_are_named_and_made_again(made, damage, capfd):
    path, folder = made
    before = {file.name: file_sha256(file) for file in folder.iterdir()}
    DAMAGE[damage](folder)
    dequantised.cache_clear()
    capfd.readouterr()
    assert dequantised(path) == folder
    assert f"{folder}: damaged, it is made again" in capfd.readouterr().err
    assert {file.name: file_sha256(file) for file in folder.iterdir()} == before


def test_cached_weights_that_are_whole_are_not_made_again(made):
    path, folder = made
    made_at = (folder / "model.safetensors").stat().st_mtime_ns
    dequantised.cache_clear()
    assert dequantised(path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made_at
    assert is_whole(folder)


LOAD = """
import sys
from harness.model.loading import load_model
model, _ = load_model("someone/tiny", cached=True)
print(sum(weight.double().sum().item() for weight in model.parameters()))
"""


def test_a_model_that_was_loaded_before_needs_no_hub(tmp_path):
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--someone--tiny"
    policy = tiny.policy()
    policy.save(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    # Nobody listens at this address; a hub that is asked is asked again for minutes.
    gone = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, env={**os.environ, **gone}, capture_output=True, text=True, timeout=60, check=True)
    expected = sum(weight.double().sum().item() for weight in policy.model.parameters())
    assert float(done.stdout) == pytest.approx(expected)


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_that_neither_hub_nor_cache_gives_is_one_line_and_exit_5(cached):
    with pytest.raises(InfrastructureError) as caught:
        load_model("someone/other", cached=cached)
    said = str(caught.value)
    assert said.startswith("model.name = 'someone/other': cannot be loaded from the hub or from disk (")
    assert "\n" not in said
    assert caught.value.exit_code == 5
