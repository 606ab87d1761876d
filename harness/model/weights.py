"""A model's tensors as a whole: their bytes, their hash, their types, and checkpointing by layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from reports.record.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers."""
    yield from model.parameters()
    yield from model.buffers()


def bytes_in(model: nn.Module, dtype: torch.dtype) -> int:
    """What the model's weights take in a type."""
    return torch.empty(0, dtype=dtype).element_size() * sum(weight.numel() for weight in model.parameters())


def checkpoint_layers(model: nn.Module) -> None:
    """Have each decoder layer keep its input alone for the backward, which runs the layer again: less memory, one more
    forward. Copies made of the model do the same. transformers' own switch works in training mode only, which would
    turn dropout on.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"update.gradient_checkpointing = true: {type(model).__name__} has no layers to checkpoint")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def state_sha256(model: nn.Module) -> str:
    """A hash of every weight's name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
