"""The values of a record, with a type and a bound on each: the files may be anybody's.

Other versions may write more than is known here, which is left alone as long as it is no deeper and no larger than what
a report could show. So values are checked and then kept as they stand: what was read is what is written again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter

from reports.record.names import BENCH_ID, Text

# float32 ends below it, and its fourth power, which the square of a variance comes to, is still a float.
MOST = 1e40
MOST_STEPS = 10**9
MOST_ARMS, MOST_NAMES, MOST_ROWS, MOST_COLUMNS = 16, 512, 4096, 4096
MOST_DEPTH, MOST_VALUES = 16, 200_000
LONG, LONGEST = 20_000, 2_000_000


def as_it_stands(value: Any) -> Any:
    return value


def nan_as_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def checked_as(kind: Any, means: Callable[[Any], Any] = as_it_stands) -> BeforeValidator:
    """Checks that a value could be one of this type, strictly, and hands it on as it stands.

    A whole number stays one where any number may stand, and a table keeps what a model of it does not name. means:
    what a value stands for, where that is another one.
    """
    is_model = isinstance(kind, type)
    adapter: TypeAdapter[Any] = TypeAdapter(kind) if is_model else TypeAdapter(kind, config=ConfigDict(strict=True))

    def check(value: Any) -> Any:
        adapter.validate_python(means(value))
        return value

    return BeforeValidator(check)


def written(most: int) -> AfterValidator:
    """A string that is escaped wherever it is shown. What a model wrote may hold lone surrogates, so `str` won't do."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"expected a string of at most {most:,} characters")
        return value

    return AfterValidator(check)


def share(value: Any) -> Any:
    if value is not None and not (isinstance(value, bool | int | float) and 0 <= value <= 1):
        raise ValueError("expected true, false, or a number from 0 to 1")
    return value


def question_id(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and len(value) > LONG):
        raise ValueError("expected a string or a whole number")
    return value


def bounded(record: Any) -> Any:
    """Settings and the like are shown whatever they are, by code that goes into every table."""
    level = [("", record)]
    for depth in range(MOST_DEPTH + 1):
        below = []
        for place, value in level:
            if isinstance(value, dict | list):
                if depth == MOST_DEPTH:
                    raise ValueError(f"{place}: nested too deep")
                items = value.items() if isinstance(value, dict) else enumerate(value)
                below += [(f"{place}.{str(key)[:80]}" if place else str(key)[:80], item) for key, item in items]
            elif isinstance(value, str) and len(value) > LONG:
                raise ValueError(f"{place}: expected at most {LONG:,} characters")
            elif isinstance(value, int | float) and abs(value) > MOST:
                raise ValueError(f"{place}: expected a number of at most {MOST:g}")
        if len(below) > MOST_VALUES:
            raise ValueError(f"{below[-1][0]}: more than {MOST_VALUES:,} values")
        level = below
    return record


# Numbers are typed Any, since pydantic would write a whole number as a float.
Finite = Annotated[Any, checked_as(Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)])]
FiniteOrNull = Annotated[
    Any, checked_as(Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)] | None)
]  # fmt: skip
NonNegative = Annotated[Any, checked_as(Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)])]
Fraction = Annotated[Any, checked_as(Annotated[float, Field(ge=0, le=1)])]
StepNumber = Annotated[int, Field(ge=0, le=MOST_STEPS)]
ArmName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\P{Cc}*$")]
BenchId = Annotated[str, Field(pattern=f"^{BENCH_ID}$")]
Sentence = Annotated[Any, written(LONG)]
Completion = Annotated[Any, written(LONGEST)]
Share = Annotated[Any, AfterValidator(share)]
QuestionId = Annotated[Any, AfterValidator(question_id)]
# NaN is a value that is missing, as null is.
Amount = Annotated[
    Any, checked_as(Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)] | None, nan_as_null)
]  # fmt: skip
Spent = Annotated[dict[Text, Amount], Field(max_length=MOST_NAMES)]
