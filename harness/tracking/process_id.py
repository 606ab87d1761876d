"""Which process this is, so that another one can tell later whether it still runs.

A number alone does not say: numbers are given again, and mean something on one machine, in one container. A process
is known by its machine, its number, and when it began, counted in ticks since the machine was started: no clock that is
set later changes that.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

PROC = Path("/proc")


def host() -> str:
    """Where a process's number means what it means here: the machine, and the container where there is one."""
    try:
        namespace = os.readlink(PROC / "self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    machine = _read(Path("/etc/machine-id"))[:12]
    return "-".join(re.sub(r"[^A-Za-z0-9.]", "", part) for part in (platform.node(), machine, namespace))


def began(pid: int) -> str | None:
    """When a process began, as `start of the machine:ticks`, or None where there is none or nobody can tell."""
    # The second field, a name in parentheses, may hold anything.
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()
    boot = _read(PROC / "sys/kernel/random/boot_id")
    # The 22nd field of proc(5); a zombie has ended.
    return f"{boot}:{fields[19]}" if len(fields) > 19 and fields[0] != "Z" and boot else None


def has_ended(pid: int, when: str) -> bool:
    """Whether the process of this host with a number that began at a time is there no more; False where unknown."""
    return began(os.getpid()) is not None and began(pid) != when


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
