"""The order in which a run reads its training prompts: keyed by suite, seed and epoch, the same for every arm."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from suites.task import Prompt, stable_hash


class PromptStream:
    """The training prompts in an order keyed by suite, seed and epoch."""

    def __init__(self, prompts: Sequence[Prompt], key: Sequence[object]) -> None:
        self.prompts, self.key = prompts, tuple(key)
        self._orders: dict[int, list[int]] = {}

    def order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self.prompts)))
            random.Random(stable_hash("prompts", *self.key, epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]

    def take(self, step: int, count: int) -> list[Prompt]:
        """The `count` prompts of a step (1-based)."""
        places = range((step - 1) * count, step * count)
        return [self.prompts[self.order(place // len(self.prompts))[place % len(self.prompts)]] for place in places]

    def further(self, step: int, round: int, count: int) -> list[Prompt]:
        """`count` prompts beyond a step's own, drawn by a key of the step and the round."""
        return random.Random(stable_hash("further prompts", *self.key, step, round)).choices(self.prompts, k=count)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for index in self.order(0):
            digest.update(f"{self.prompts[index].id}\0{self.prompts[index].text}\0".encode())
        return digest.hexdigest()
