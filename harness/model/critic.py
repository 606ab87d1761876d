"""The critic: a model of its own, or a head on the policy's trunk."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from algorithms.base import RolloutBatch
from algorithms.settings import CriticTable
from harness.measure.memory_tracker import labelled
from harness.model.packed import response_states, unpacked
from harness.model.policy import Policy
from harness.model.weights import tensors_of


class Critic:
    """V(state before token t). A model of its own, begun from the policy's weights, or a head on the policy's trunk.

    The head starts at zero, so that the first values are 0 and the first advantages are the rewards-to-go.
    """

    def __init__(self, policy: Policy, table: CriticTable) -> None:
        self.policy = policy
        self.shared = table.kind == "shared"
        with labelled("critic"):
            self.trunk: nn.Module | None = None if self.shared else copy.deepcopy(policy.backbone)
            self.head = nn.Linear(policy.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the critic's own optimizer steps: a shared trunk belongs to the policy's."""
        return [*(self.trunk.parameters() if self.trunk is not None else ()), *self.head.parameters()]

    @property
    def tensors(self) -> list[Tensor]:
        """What exists because of the critic and outlives a step."""
        return [*(tensors_of(self.trunk) if self.trunk is not None else ()), *self.head.parameters()]

    def head_values(self, states_nC: Tensor, batch: RolloutBatch) -> Tensor:
        return unpacked(self.head(states_nC)[:, 0].float(), batch)

    def values(self, batch: RolloutBatch) -> Tensor:
        """[B, T], 0 where the mask is 0."""
        with self.policy.autocast():
            trunk = self.policy.backbone if self.trunk is None else self.trunk
            return self.head_values(response_states(trunk, batch), batch)
