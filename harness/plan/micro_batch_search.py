"""The largest micro-batch that fits a memory cap, by trying: in forecasts for a plan, on the device for `same_gpu`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.config.tables import RunSpec

# A try that is this close under the cap ends the search, and so does this number of tries after the first that fits.
CLOSE_ENOUGH, MOST_TRIES = 0.03, 6
# Interpolation aims a little under the cap: the next try then more often fits.
AIM = 0.99


@dataclass(frozen=True)
class Try:
    """bytes: the peak at this many tokens, or None where it did not fit and nobody knows by how much."""

    tokens: int
    bytes: int | None
    fits: bool


def bounds(spec: RunSpec) -> tuple[int, int]:
    """Tokens of one longest sequence, and of a whole minibatch of them: no micro-batch has fewer or more."""
    rollout = spec.rollout
    samples = math.ceil(spec.step_samples / spec.update.minibatches)
    prompts = math.ceil(samples / rollout.completions_per_prompt)
    smallest = rollout.max_prompt_tokens + rollout.max_completion_tokens
    return smallest, samples * rollout.max_completion_tokens + prompts * rollout.max_prompt_tokens


def largest_that_fits(
    peak: Callable[[int], int | None], cap: int, *, smallest: int, whole: int, first: int | None = None
) -> tuple[Try | None, list[Try]]:
    """(the best try, all tries); None where not even `smallest` fits.

    peak: tokens in one forward → bytes, or None for out of memory. From a whole step's tokens (more than which changes
    nothing), or from `first`, sizes are halved until one fits, or doubled once to have two. Memory grows with the
    tokens, nearly in proportion: each further try aims for the cap from the two tries that came nearest to it.
    """
    tries: list[Try] = []

    def attempt(tokens: int) -> None:
        found = peak(tokens)
        tries.append(Try(tokens, found, found is not None and found <= cap))

    attempt(min(first or whole, whole))
    while not tries[-1].fits and tries[-1].tokens > smallest:
        attempt(max(smallest, tries[-1].tokens // 2))
    if tries[0].fits and tries[0].tokens < whole:
        attempt(min(2 * tries[0].tokens, whole))
    for _ in range(MOST_TRIES):
        below = max((each for each in tries if each.fits), key=lambda each: each.tokens, default=None)
        above = min((each.tokens for each in tries if not each.fits), default=whole + 1)
        if below is None or (below.bytes or 0) >= (1 - CLOSE_ENOUGH) * cap:
            break
        if above - below.tokens <= max(1, CLOSE_ENOUGH * below.tokens):
            break
        attempt(aimed(tries, cap, below.tokens, above))
    return max((each for each in tries if each.fits), key=lambda each: each.tokens, default=None), tries


def aimed(tries: list[Try], cap: int, below: int, above: int) -> int:
    """Tokens at which the line through two known tries meets the cap; the middle where it does not, in between."""
    known = sorted((each for each in tries if each.bytes is not None), key=lambda each: abs(each.bytes - cap))[:2]  # type: ignore[operator]
    if len({each.tokens for each in known}) == 2:
        (x, y), (z, w) = ((each.tokens, each.bytes or 0) for each in known)
        if (y - w) * (x - z) > 0:
            tokens = round(x + (AIM * cap - y) * (x - z) / (y - w))
            if all(each.fits for each in tries):
                tokens = min(tokens, above - 1)
            if below < tokens < above:
                return tokens
    return (below + above) // 2
