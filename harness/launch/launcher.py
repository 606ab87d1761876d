"""What a benchmark asks of whatever runs its jobs: the events of a job, until it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import closing
from typing import Protocol

from harness.run.events import Ended, Event, Hung, Warned
from harness.run.job import Job
from reports.record.errors import FAULTS


class Launcher(Protocol):
    """Runs jobs: as child processes of this one (`harness.launch.local`), or elsewhere."""

    def run(self, job: Job) -> Generator[Event, None, None]:
        """The events of a job as they come, the last one Ended. Closing the generator early ends the job."""


def needed_events(
    launcher: Launcher, job: Job, what: str, log: Callable[[str], None], *, accepted: Collection[str] = ("finished",)
) -> Generator[Event, None, None]:
    """The events of a job on which all runs depend, but for what it says of itself, which is logged.

    what: the work, for people. accepted: how it may end. Raises a UserError, of the kind that the exit code tells,
    where it ends otherwise.
    """
    with closing(launcher.run(job)) as events:
        for event in events:
            match event:
                case Ended(status=status, reason=reason, exit_code=exit_code):
                    if status not in accepted:
                        raise FAULTS[exit_code](f"{what}: {reason}")
                case Hung(line=line) | Warned(line=line):
                    log(f"{what}: {line}")
                case _:
                    yield event
