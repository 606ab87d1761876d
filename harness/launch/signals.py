"""The signals between a benchmark and its child processes."""

from __future__ import annotations

import signal

# What asks a process to end.
ENDING = (signal.SIGINT, signal.SIGTERM)
# What makes a child write into its log where it stands.
WHERE = signal.SIGUSR1
