"""What both sides of the comparison run: models, prompts, sizes, hyper-parameters and the reward, as plain data.

Standard library only: the worker of each side imports this module inside its own environment, so neither side has a
copy of a number that the other could drift away from.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPLETIONS_PER_PROMPT = 8
LEARNING_RATE = 1e-6
CLIP = 0.2
MAX_GRAD_NORM = 1.0

STORIES = (
    "A baker in a small town makes 24 loaves of bread and 36 rolls every morning before the shop opens at seven. She "
    "sells a loaf for 4 dollars and a roll for 50 cents. On Tuesday it rained from early in the morning until late in "
    "the afternoon, so that only two thirds of the loaves and half of the rolls were sold by the evening. How many "
    "dollars did the baker take on Tuesday? Think step by step.",
    "Three friends walk along a river to a village that lies 18 kilometres away. For the first two hours they walk at "
    "5 kilometres an hour and talk about the summer. Then one of them has a stone in her shoe, and they rest under a "
    "tree for half an hour. After the rest they go on at 4 kilometres an hour until they arrive at the village inn. "
    "How many hours does the whole of the trip take them? Think step by step.",
    "A school library owns 480 books, and one quarter of them are about animals. During the first week of May the "
    "pupils borrow 45 books about animals and twice as many of the other books. By Friday 30 of all the borrowed books "
    "have been brought back, and the librarian has put every one of them on the shelves again. How many books are on "
    "the shelves of the library on Friday evening? Think step by step.",
    "A farmer keeps 15 cows and 40 hens on a farm outside the town. Each of the cows gives 22 litres of milk a day, "
    "and every second day a hen lays an egg. A truck comes once in a week to fetch all of the milk, while the eggs are "
    "sold at the gate in boxes of ten. How many litres of milk and how many boxes of eggs does the farm have after "
    "one week? Think step by step.",
)
SUMS = tuple(f"{11 + n}+{97 - 5 * n}+{23 + 3 * n}+{64 - 2 * n}?" for n in range(16))


@dataclass(frozen=True)
class Shape:
    """A model and the batch of a step: every step samples 8 completions for each of the prompts."""

    prompts: tuple[str, ...]
    completion_tokens: int
    steps_per_round: int
    """Of each side, one by one in turns: fast steps need more of them for a steady median."""
    resident: bool
    """Both sides stay loaded while the other has its turn. Where that takes more than 24 GiB, each turn is a process of
    its own: load, a step to warm up, the step that counts."""

    @property
    def completions(self) -> int:
        return len(self.prompts) * COMPLETIONS_PER_PROMPT


@dataclass(frozen=True)
class Workload:
    algorithm: str
    model: str
    kl_coefficient: float
    """GRPO: in the loss (k3); 0 loads no reference model on either side. PPO: in the reward (k1)."""
    trl_micro_batches: int = 1
    """In how many parts TRL runs the forward and backward of an update: the fewest that fit into 24 GiB."""

    @property
    def shape(self) -> Shape:
        return SHAPES[self.model]


SHAPES = {
    "smollm2": Shape(STORIES, completion_tokens=48, steps_per_round=1, resident=False),
    "tiny": Shape(SUMS, completion_tokens=24, steps_per_round=10, resident=True),
}
WORKLOADS = {
    "grpo-smollm2": Workload("grpo", "smollm2", kl_coefficient=0.04),
    "grpo-tiny": Workload("grpo", "tiny", kl_coefficient=0.0),
    "ppo-smollm2": Workload("ppo", "smollm2", kl_coefficient=0.05, trl_micro_batches=2),
    "ppo-tiny": Workload("ppo", "tiny", kl_coefficient=0.05),
}


def reward(completion: str) -> float:
    """The share of digits in a completion: cheap, and never the same for a whole group."""
    return sum(map(str.isdigit, completion)) / max(1, len(completion))
