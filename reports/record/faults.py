"""What a validation's first fault is, in one line: key, value, what is accepted.

pydantic speaks of Python; the line is for whoever wrote the TOML file.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

ACCEPTED = {
    "model_type": "expected a table",
    "dict_type": "expected a table",
    "tuple_type": "expected an array",
    "too_short": "expected at least one",
    "string_type": "expected a string",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
}


def one_line(error: ValidationError, accepted_keys: Callable[[Sequence[int | str]], Sequence[str]]) -> str:
    """The first fault, and how many more there are. `accepted_keys`: the keys of the table at a location."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"] if part != "[key]")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; accepted here: {', '.join(accepted_keys(first['loc'][:-1]))}{more}"
    if first["type"] == "missing":
        return f"{where}: missing{more}"
    message = ACCEPTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = message[0].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}{more}"
    return f"{where + ' = ' if where else ''}{brief(written(first['input']))}: {message}{more}"


def brief(value: Any) -> str:
    """A value as a message shows it: on one line, shortened, whatever a file holds."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    try:
        return shortener.repr(value)
    # A whole number may have more digits than Python writes.
    except (ValueError, RecursionError):
        return f"a very large {type(value).__name__}"


def written(value: Any) -> Any:
    """A value as the file has it: its arrays are validated as tuples."""
    return list(value) if isinstance(value, tuple) else value
