"""Memory by component: the bytes of every tensor, from its making to its end, under the name of what it is for.

`MemoryTracker` sees the outputs of every operation, counts each storage once however many tensors view it, and takes it
off when it is freed. Tensors that exist before are claimed by those who own them; gradients are claimed as they are
accumulated; what an operation makes is an activation in the forward of an update and a temporary anywhere else, unless
the code that makes it says better (`labelled`). So the components add up to the tracked total exactly: what is left
over has a name, `other`. What an operation allocates and frees inside itself is not seen.

It works on tensors of any device, and on fake ones, which is how a plan measures what it does not run. It slows every
operation, so it is switched on for steps set aside for measuring.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from reports.record.names import COMPONENTS, LEARNING

_label: str | None = None
# Where an exception keeps the component that was being made when it was raised.
_FAILED = "component_being_made"


@contextlib.contextmanager
def labelled(component: str) -> Iterator[None]:
    """What is made inside belongs to a component, and so does what could not be made: an exception that leaves says
    which one it was, the innermost (`component_of`). Costs nothing where nothing is tracked.
    """
    global _label
    assert component in COMPONENTS, component
    before, _label = _label, component
    try:
        yield
    except BaseException as error:
        vars(error).setdefault(_FAILED, component)
        raise
    finally:
        _label = before


def component_of(error: BaseException) -> str | None:
    """The component that was being made when an exception was raised, where the code that made it says so."""
    return vars(error).get(_FAILED)


def default_component(phase: str | None) -> str:
    """What is made in a phase's forward, where the code that makes it does not say; None is outside of all phases."""
    if phase is None:
        return "other"
    return "activations" if phase in LEARNING else "temporaries"


def untracked() -> contextlib.AbstractContextManager[Any]:
    """For an engine that says itself what it holds: its operations are not looked at."""
    return _disable_current_modes()


@dataclass(slots=True)
class _Held:
    bytes: int
    component: str
    alive: weakref.ref[Any]


class MemoryTracker(TorchDispatchMode):
    """As a context: every tensor made inside is counted. `peaks` is, by phase, each component's bytes at the moment
    when all of them together were most.

    outside: what an engine holds that passes through no operation here, component → bytes; asked at a phase's edges.
    """

    def __init__(self, outside: Callable[[], Mapping[str, int]] = dict) -> None:
        super().__init__()
        self.peaks: dict[str, dict[str, int]] = {}
        self._outside = outside
        self._held: dict[int, _Held] = {}
        self._bytes = dict.fromkeys(COMPONENTS, 0)
        self._total = 0
        self._phase: str | None = None
        self._peak, self._peak_total, self._peak_outside = dict(self._bytes), 0, dict[str, int]()

    def claim(self, component: str, tensors: Iterable[Tensor | None]) -> None:
        """These tensors are the component's, whatever they counted as before."""
        for tensor in tensors:
            if tensor is not None:
                self._count(tensor, component, again=True)

    @contextlib.contextmanager
    def gradients_of(self, parameters: Mapping[str, Iterable[nn.Parameter]]) -> Iterator[None]:
        """Gradients count as the component whose parameters they are of, from when they are accumulated."""

        def accumulated(component: str, parameter: Tensor) -> None:
            self.claim(component, [parameter.grad])

        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(accumulated, component))
            for component, own in parameters.items()
            for parameter in own
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def start(self, phase: str) -> None:
        self._phase, self._peak_outside = phase, dict(self._outside())
        self._mark()

    def stop(self) -> None:
        assert self._phase is not None
        outside = self._outside()
        names = {*self._peak_outside, *outside}
        peak = dict(self._peak)
        for name in names:
            peak[name] += max(self._peak_outside.get(name, 0), outside.get(name, 0))
        before = self.peaks.get(self._phase)
        if before is None or sum(peak.values()) > sum(before.values()):
            self.peaks[self._phase] = peak
        self._phase = None

    def by_phase(self) -> dict[str, dict[str, int]]:
        """Of each phase's peak every component that exists in any, and their sum, `tracked`."""
        used = [name for name in COMPONENTS if any(peak[name] for peak in self.peaks.values())]
        return {
            phase: {**{name: peak[name] for name in used}, "tracked": sum(peak.values())}
            for phase, peak in self.peaks.items()
        }

    def metrics(self) -> dict[str, float]:
        """The same under the published names, `memory/<phase>/<component>_bytes`."""
        parts = self.by_phase().items()
        return {f"memory/{phase}/{name}_bytes": size for phase, peak in parts for name, size in peak.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        component = self._component()
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf, component)
        return made

    def _component(self) -> str:
        if _label is not None:
            return _label
        backward = torch._C._current_graph_task_id() != -1
        return "temporaries" if backward and self._phase is not None else default_component(self._phase)

    def _count(self, tensor: Tensor, component: str, *, again: bool = False) -> None:
        # Weights that oneDNN laid out have no storage that can be looked at; the tensor stands for it.
        owner: Any = tensor if tensor.is_mkldnn else tensor.untyped_storage()
        held = self._held.get(id(owner))
        if held is None:
            size = tensor.numel() * tensor.element_size() if tensor.is_mkldnn else owner.nbytes()
            key = id(owner)
            self._held[key] = _Held(size, component, weakref.ref(owner, lambda _: self._free(key)))
            self._add(component, size)
        elif again and held.component != component:
            self._add(held.component, -held.bytes)
            held.component = component
            self._add(component, held.bytes)

    def _free(self, key: int) -> None:
        held = self._held.pop(key)
        self._add(held.component, -held.bytes)

    def _add(self, component: str, size: int) -> None:
        self._bytes[component] += size
        self._total += size
        if self._total > self._peak_total:
            self._mark()

    def _mark(self) -> None:
        self._peak, self._peak_total = dict(self._bytes), self._total
