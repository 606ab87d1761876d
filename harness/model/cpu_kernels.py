"""Faster equivalents of a decoder's modules, for training and scoring in float32 on a CPU.

transformers' modules are written for clarity: each small operation reads and writes whole activations, and keeps
them for the backward. The same mathematics with its gradient written out reads memory fewer times and keeps less, and
oneDNN multiplies matrices of many rows about a tenth faster than the library torch calls. A module is replaced where
its structure says what it computes; all others stay as they are. Results differ by rounding.

The functions with a gradient of their own are bypassed where none is wanted: entering them costs a sampler of small
models more than what they compute. On a GPU nothing is replaced.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# oneDNN compiles a program for every number of rows and keeps it, 0.25 MiB each; every step of real text brings new
# ones. These are the variables of both caches, its own and torch's above it, and how many programs each may keep.
CACHES, CACHED = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "128"
# Fewer rows than this gain nothing from oneDNN, whose call costs more.
MANY_ROWS = 256
# What follows RMSNorm's equation to the letter; other classes scale by 1 + weight, or not at all.
RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")


def bound_caches() -> None:
    """Bound what oneDNN keeps in this process. To be called before its first product: the sizes are read once."""
    for variable in CACHES:
        os.environ.setdefault(variable, CACHED)


def available(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


def adopt(model: nn.Module) -> None:
    """Replace the forward of the modules known here. Copies made of the model keep it."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = partial(linear_forward, module)  # type: ignore[method-assign]
        elif type(module).__name__ in RMS_NORMS:
            module.forward = partial(rms_norm_forward, module)
        elif is_gated_silu(module):
            module.forward = partial(gated_silu_forward, module)


def is_gated_silu(module: nn.Module) -> bool:
    """down(silu(gate(x)) · up(x)), and nothing else."""
    names = {name for name, _ in module.named_children()}
    if names != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    return type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b without gradient, whatever the type and device; W may be a transposed view."""
    if x.numel() < MANY_ROWS * x.shape[-1] or not available(x.device, x.dtype):
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return product(x, module.weight, module.bias)
    return _Linear.apply(x, module.weight, module.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        d_x = product(gradient, weight.T) if needs_x else None
        d_weight = rows.T @ x.flatten(0, -2) if needs_weight else None
        return d_x, d_weight, rows.sum(0) if needs_bias else None


def gated_silu_forward(module: Any, x: Tensor) -> Tensor:
    run = _GatedSilu.apply if torch.is_grad_enabled() else gated_silu
    return module.down_proj(run(module.gate_proj(x), module.up_proj(x)))


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate).mul_(up)


class _GatedSilu(torch.autograd.Function):
    """silu(gate) · up. Keeps its inputs alone: silu is computed again in the backward."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return gated_silu(gate, up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_up = functional.silu(gate).mul_(gradient)
        d_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return d_gate, d_up


def rms_norm_forward(module: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return rms_norm(x, module.weight, module.variance_epsilon)[0]
    return _RmsNorm.apply(x, module.weight, module.variance_epsilon)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The output, and 1 / rms(x) [..., 1]."""
    scale = torch.linalg.vecdot(x, x)[..., None].div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale).mul_(weight), scale


class _RmsNorm(torch.autograd.Function):
    """y = w · x / rms(x), rms(x)² = mean(x²) + ε over the last dimension, of C numbers.

    With x̂ = x / rms(x): dx = (w·dy − x̂ · mean(w·dy·x̂)) / rms(x), dw = Σ dy·x̂.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, scale = rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        d_weight = (gradient * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        d_unit = gradient * weight
        along = torch.linalg.vecdot(d_unit, unit)[..., None].div_(x.shape[-1])
        return d_unit.sub_(unit.mul_(along)).mul_(scale), d_weight, None
