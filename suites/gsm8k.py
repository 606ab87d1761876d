"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv:2110.14168), as OpenAI published them.

The data comes from the hub (openai/gsm8k), or from the folder named by PARIBUS_GSM8K_DIR with `train.jsonl` and
`test.jsonl`. Questions go through the model's own chat template, zero-shot; the reward is 1 for the right final
number. Training uses the training split, evaluation the test split.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from suites.grading import GoldAnswerError, gold, grade
from suites.task import DataError, DataUnreachable, Prompt, Reward, Task

FOLDER_VARIABLE = "PARIBUS_GSM8K_DIR"
HUB_DATASET = "openai/gsm8k"
INSTRUCTION = "Reason step by step. End with a line that holds only #### and the final number."


def train() -> Sequence[Prompt]:
    return load("train")


def heldout() -> Mapping[str, Sequence[Prompt]]:
    return {"gsm8k_test": load("test")}


@cache
def load(split: str) -> tuple[Prompt, ...]:
    """A split's prompts in published order. Raises DataError naming file and line of a broken row."""
    folder = os.environ.get(FOLDER_VARIABLE)
    rows = from_folder(Path(folder) / f"{split}.jsonl") if folder else from_hub(split)
    prompts = []
    for number, (where, row) in enumerate(rows):
        try:
            question, answer = row["question"], row["answer"]
            if not isinstance(question, str) or not isinstance(answer, str):
                raise TypeError
            question.encode()
            final = answer.rsplit("####", 1)[-1].strip()
            gold(answer)
        except (TypeError, KeyError):
            raise DataError(f'{where}: expected an object with the strings "question", "answer"') from None
        except UnicodeEncodeError:
            raise DataError(f"{where}: the question is not valid Unicode") from None
        except GoldAnswerError as error:
            raise DataError(f"{where}: {error}") from None
        prompts.append(Prompt(id=f"{split}-{number}", text=f"{question}\n\n{INSTRUCTION}", answer=final, chat=True))
    if not prompts:
        raise DataError(f"GSM8K: the {split} split is empty")
    return tuple(prompts)


def from_folder(path: Path) -> list[tuple[str, dict]]:
    try:
        # str.splitlines would also cut at separators inside a question.
        with path.open(encoding="utf-8") as file:
            lines = list(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{FOLDER_VARIABLE}: {path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append((f"{path}:{number}", json.loads(line)))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError):
            raise DataError(f"{path}:{number}: nested too deep, or a number too large") from None
    return rows


def from_hub(split: str) -> list[tuple[str, dict]]:
    try:
        from datasets import load_dataset

        dataset = load_dataset(HUB_DATASET, "main", split=split)
    except Exception as error:  # the hub client raises many kinds for "cannot be reached"
        raise DataUnreachable(
            f"GSM8K: {HUB_DATASET} cannot be had from the hub ({type(error).__name__}); set {FOLDER_VARIABLE} to a "
            "folder with train.jsonl and test.jsonl from https://github.com/openai/grade-school-math"
        ) from None
    return [(f"{HUB_DATASET} {split} row {number}", row) for number, row in enumerate(dataset)]


def verify(completion: str, answer: str) -> Reward:
    verdict = grade(completion, answer)
    return Reward(value=float(verdict.correct), correct=verdict.correct, extracted=verdict.extracted)


# The pattern lm-eval's own gsm8k task calls strict-match.
TASK = Task(
    name="gsm8k", train=train, heldout=heldout, verify=verify, strict_pattern=r"#### (\-?[0-9\.\,]+)"
)  # fmt: skip
