"""Linear maps over weights laid out for few rows, on a CPU.

A decoding step multiplies a handful of rows with every weight of the model. torch's general product rearranges the
weights each time it is called; here they are rearranged once a rollout (oneDNN, through the operators that torch's own
compiler uses) and products of 32 rows become about half as fast again. Results differ from the trainer's by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.cpu_kernels import available
from harness.model.policy import Policy

# Below this many bytes the weights stay in the processor's cache, and there is nothing to win.
WORTHWHILE_BYTES = 16 * 2**20


class PackedLinears:
    """As a context: the policy's linear maps, embeddings' output map included, run on packed copies of the weights."""

    def __init__(self) -> None:
        self._forwards: dict[nn.Linear, Callable[[Tensor], Tensor]] = {}
        self._trainers: dict[nn.Linear, Any] = {}

    def take(self, policy: Policy) -> None:
        """Pack the weights as they are, unless they are packed already."""
        if self._forwards or not available(policy.device, policy.dtype):
            return
        linears = [module for module in policy.model.modules() if type(module) is nn.Linear]
        if sum(module.weight.nbytes for module in linears) < WORTHWHILE_BYTES:
            return
        for module in linears:
            weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            self._forwards[module] = partial(linear, weight=weight, bias=module.bias)

    def drop(self) -> None:
        """Forget the copies, before the weights change or the memory is wanted."""
        self._forwards.clear()

    def __enter__(self) -> None:
        for module, forward in self._forwards.items():
            self._trainers[module] = module.forward
            module.forward = forward  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: Any) -> None:
        for module, forward in self._trainers.items():
            module.forward = forward  # type: ignore[method-assign]
        self._trainers.clear()


def linear(x: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
