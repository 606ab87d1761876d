"""What a machine was like before and after a run: a fixed piece of work timed, load, clocks, heat.

A neighbour on the machine slows a run without a trace in its own figures; the timed work shows it. On a GPU clock,
temperature, power, throttling and energy come from NVML, where the package nvidia-ml-py is installed; that part follows
its documentation and is untested on a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from functools import cache
from statistics import median
from typing import Any

import psutil
import torch

# Side of the matrices, and how often they are multiplied.
CPU_SIZE, GPU_SIZE, REPEATS = 1024, 8192, 7


def conditions(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """gemm_s: a fixed matrix product's median time; gemm_flops_per_s: its fastest, what utilisation is held against."""
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    seconds = gemm_seconds(device, dtype, size)
    found: dict[str, Any] = {"gemm_s": median(seconds), "gemm_flops_per_s": 2.0 * size**3 / min(seconds)}
    if device.type == "cuda":
        return {**found, **gpu_state(device.index or 0)}
    frequency = psutil.cpu_freq()
    return {**found, "load_average": os.getloadavg()[0], "cpu_mhz": round(frequency.current) if frequency else None}


@torch.no_grad()
def gemm_seconds(device: torch.device, dtype: torch.dtype, size: int, repeats: int = REPEATS) -> list[float]:
    """Times of square matrix products, after one to warm up. The numbers are random: a GPU multiplies others faster."""
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, device=device, dtype=dtype, generator=generator)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def gpu_state(index: int) -> dict[str, Any]:
    """Clock, heat, power and why the card holds back; empty where NVML cannot be asked."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        nvml, card = nvml_card(index)
        found["sm_mhz"] = nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM)
        found["celsius"] = nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)
        found["watts"] = nvml.nvmlDeviceGetPowerUsage(card) / 1000
        found["throttle_reasons"] = hex(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(card))
    return found


def energy_joules(device: torch.device) -> float | None:
    """What the GPU has used since its driver was loaded, or None where it does not say."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(Exception):
        nvml, card = nvml_card(device.index or 0)
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1000
    return None


@cache
def nvml_card(index: int) -> tuple[Any, Any]:
    """(the package, a card's handle). Raises where either is missing."""
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    return nvml, nvml.nvmlDeviceGetHandleByIndex(index)
