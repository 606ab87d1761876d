"""Room on the disk for what a benchmark will leave: asked for before it trains, and known again when it has run out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.config.tables import RunSpec
from reports.record.errors import InfrastructureError

# An older one is there for when the newest is damaged.
KEPT_CHECKPOINTS = 2
# float32, and with AdamW's two moments.
WEIGHT_BYTES, TRAINED_BYTES = 4, 12
# Journals, evaluations and their copies in a local MLflow: 1 MiB for a hundred steps of the embedded suite.
RECORDS_BYTES = 8 << 20

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit on the size of files is what kept something from being written."""
    return isinstance(error, OSError) and error.errno in FULL


def require_room(folder: Path, parameters: int, runs: Sequence[tuple[RunSpec, bool]]) -> None:
    """Raises InfrastructureError where the folder's disk has less room than these runs will take.

    parameters: the policy's. runs: those still to be run, and whether each trains a critic. One run at a time has
    checkpoints, one of them being written; a critic of its own counts as large as the policy.
    """
    trained = [2 if critic and spec.critic.kind == "separate" else 1 for spec, critic in runs]
    checkpoints = (KEPT_CHECKPOINTS + 1) * TRAINED_BYTES * parameters * max(trained, default=0)
    held = sum(file.stat().st_size for file in folder.glob("*/checkpoints/*/*"))
    policies = WEIGHT_BYTES * parameters * sum(spec.checkpoint.final for spec, _ in runs)
    records = RECORDS_BYTES * len(runs)
    needed, free = max(0, checkpoints - held) + policies + records, shutil.disk_usage(folder).free
    if needed > free:
        raise InfrastructureError(
            f"{folder}: {size(free)} free on its disk, up to {size(needed)} needed (checkpoints {size(checkpoints)}, "
            f"final policies {size(policies)}, records {size(records)}); make room, name another folder with --out, or "
            "keep no final policies with --set checkpoint.final=false"
        )


def size(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
