"""The reward's verdict on completions from a file, for anybody to check it by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from reports.record.errors import UserError
from suites.task import Reward


def graded(file: Path, verify: Callable[[str, str], Reward]) -> Iterator[Reward]:
    """A verdict for each line of {"completion", "answer"}. Raises UserError, naming the line, for anything else."""
    try:
        # str.splitlines would also cut at separators inside a completion.
        with file.open(encoding="utf-8") as source:
            lines = list(source)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', error)})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            completion, answer = row["completion"], row["answer"]
            if not isinstance(completion, str) or not isinstance(answer, str):
                raise TypeError
            verdict = verify(completion, answer)
        except (KeyError, TypeError):
            raise UserError(f'{file}:{number}: expected an object with the strings "completion", "answer"') from None
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{number}: not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise UserError(f"{file}:{number}: nested too deep") from None
        except ValueError as error:
            raise UserError(f"{file}:{number}: {error}") from None
        yield verdict
