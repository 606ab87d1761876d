"""Policies on disk: whole or not there at all, as safetensors."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness.policy import Policy


def save_policy(policy: Policy, folder: Path) -> None:
    """Weights, config and tokenizer into `folder`, by way of a temporary folder beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        policy.save(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
