"""GPUs by name, as their makers' data sheets have them: what a plan holds an arm's needs against.

FLOP/s are dense and without sparsity; float32 is without tensor cores. A card is written with the memory it is sold
with; what programs can use of it is a little less.
"""

from __future__ import annotations

from typing import NamedTuple

from reports.record.errors import UserError


class Device(NamedTuple):
    name: str
    memory_bytes: int
    half_flops: float
    """bfloat16 or float16 with float32 sums."""
    single_flops: float

    def peak_flops(self, dtype: str) -> float:
        return self.single_flops if dtype == "float32" else self.half_flops


GB, GIB, TERA = 10**9, 2**30, 1e12
DEVICES = {
    device.name: device
    for device in (
        Device("h200-141gb", 141 * GB, 989 * TERA, 67 * TERA),
        Device("h100-80gb", 80 * GIB, 989 * TERA, 67 * TERA),
        Device("a100-80gb", 80 * GIB, 312 * TERA, 19.5 * TERA),
        Device("a100-40gb", 40 * GIB, 312 * TERA, 19.5 * TERA),
        Device("l40s", 48 * GIB, 362 * TERA, 91.6 * TERA),
        Device("a10", 24 * GIB, 125 * TERA, 31.2 * TERA),
        Device("rtx4090", 24 * GIB, 165 * TERA, 82.6 * TERA),
        Device("rtx3090", 24 * GIB, 71 * TERA, 35.6 * TERA),
    )
}
# The CUDA context, and what libraries load into the card.
CONTEXT_BYTES = GIB


def named(name: str) -> Device:
    """Raises UserError for a name that is not in the table."""
    if name not in DEVICES:
        raise UserError(f"--device {name}: accepted: {', '.join(DEVICES)} (or give --memory-gib)")
    return DEVICES[name]
