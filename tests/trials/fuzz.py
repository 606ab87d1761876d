"""Whatever bytes the parsers of what others wrote are given, they take them or refuse them in one line, in a second.

atheris (libFuzzer) mutates inputs towards code that none has reached yet, from files that are right. `make fuzz
ARGS="--runs 250000"`: that many inputs to each parser. Not part of the test suite, where hypothesis asks the same of
fewer inputs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 1
# Inputs longer than this are cut by libFuzzer; the smaller of the committed baselines fits.
LONGEST = 1 << 15
ODD = (None, True, -1, 10**30, -0.0, 1e308, "", "NaN", "\ud800", "x" * 400, [], {}, [[]], {"": 0})


def grader(data: bytes, _: Path) -> None:
    from suites.grading import grade

    completion, _, answer = data.decode("utf-8", "replace").partition("\0")
    try:
        grade(completion, answer)
    except ValueError as error:
        in_one_line(error)


def spec(data: bytes, scratch: Path) -> None:
    from harness.config.file import load_bench

    scratch.write_bytes(data)
    refused_or_taken(lambda: load_bench(scratch))


def override(data: bytes, _: Path) -> None:
    from harness.config.file import load_bench

    overrides = data.decode("utf-8", "replace").split("\0")
    refused_or_taken(lambda: load_bench(ROOT / "suites" / "arithmetic.toml", overrides=overrides))


def baseline(data: bytes, scratch: Path) -> None:
    from reports.regress.baseline import read

    scratch.write_bytes(data)
    refused_or_taken(lambda: read(scratch))


def journal(data: bytes, scratch: Path) -> None:
    from reports.record.journal import read_lines

    scratch.write_bytes(data)
    refused_or_taken(lambda: read_lines(scratch))


def comparison(data: bytes, _: Path) -> None:
    from reports.trend.read import read_comparison

    refused_or_taken(lambda: read_comparison(data, past("comparison")["bench_id"]))


def record(data: bytes, _: Path) -> None:
    from reports.trend.read import read_bench

    refused_or_taken(lambda: read_bench(data, past("record")["bench_id"]))


def bench(data: bytes, scratch: Path) -> None:
    """bench.json alone: a run whose folder is not there recorded nothing."""
    from reports.record.reader import load

    folder = scratch.with_name("bench")
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_bytes(data)
    refused_or_taken(lambda: load(folder))


def refused_or_taken(parse: Callable[[], Any]) -> None:
    from reports.record.errors import UserError

    try:
        parse()
    except UserError as error:
        in_one_line(error)


def in_one_line(error: Exception) -> None:
    text = str(error)
    assert text, "refused without a reason"
    assert "\n" not in text, text
    assert len(text) < 2000, text


def seeds(name: str) -> list[bytes]:
    """Inputs that are right, for the fuzzer to start from."""
    if name == "grader":
        cases = json.loads((ROOT / "tests" / "cases" / "grading.json").read_text(encoding="utf-8"))
        return [
            f"{case['completion']}\0{case['answer']}".encode("utf-8", "surrogatepass") for case in completions(cases)
        ]
    if name == "spec":
        return [path.read_bytes() for path in (ROOT / "suites").glob("*.toml")]
    if name == "override":
        return [b"update.learning_rate=1e-4\0seeds=[0, 1]", b"arms.ppo.reason=why\0budget.steps=3", b"kl={}"]
    if name in ("comparison", "record", "bench"):
        return [compact(past("record" if name == "bench" else name))]
    whole = json.loads((ROOT / "suites" / "baselines" / "arithmetic-ci.json").read_bytes())
    if name == "baseline":
        return [compact(whole)]
    return [b'{"step":1,"loss":null,"nonfinite":["loss"]}\n{"step":2}\n', json.dumps(whole).encode() + b"\n"]


@cache
def past(name: str) -> dict[str, Any]:
    """A past benchmark's comparison, no more of it than is read, or its record."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from synthetic_history import one

    from reports.trend.read import Found

    comparison, record = one()
    return {"comparison": Found.model_validate_json(json.dumps(comparison)).model_dump(), "record": record}[name]


def compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def completions(cases: Any) -> list[dict[str, Any]]:
    """The cases in a JSON value, wherever they stand."""
    inner = cases.values() if isinstance(cases, dict) else cases if isinstance(cases, list) else ()
    here = [cases] if isinstance(cases, dict) and {"completion", "answer"} <= cases.keys() else []
    return here + [case for value in inner for case in completions(value)]


def odd_value_somewhere(data: bytes, seed: int) -> bytes | None:
    """JSON with one place holding something else: what changing bytes rarely arrives at. None where it is no JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    draw, inside = random.Random(seed), content
    while isinstance(inside, (dict, list)) and inside:
        key = draw.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[key], (dict, list)) or draw.random() < 0.2:
            inside[key] = draw.choice(ODD)
            return compact(content)
        inside = inside[key]
    return None


TARGETS = {each.__name__: each for each in (grader, spec, override, baseline, journal, comparison, record, bench)}
OF_JSON = ("baseline", "journal", "comparison", "record", "bench")


def fuzz(name: str, runs: int, folder: Path) -> None:
    """Ends the process, as libFuzzer does: with an exit code above 0, and the input in `folder`, for a fault."""
    import atheris

    target, scratch = TARGETS[name], folder / "input"
    with atheris.instrument_imports(include=["harness", "reports", "suites"]):
        for module in (
            "reports.regress.baseline",
            "reports.record.journal",
            "harness.config.file",
            "reports.record.reader",
            "reports.trend.read",
            "suites.grading",
        ):
            import_module(module)

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(content)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        changed = odd_value_somewhere(data, seed) if seed % 2 else None
        return changed if changed is not None and len(changed) <= most else atheris.Mutate(data, most)

    options = [
        f"-runs={runs}", f"-timeout={SECONDS}", f"-max_len={LONGEST}", f"-artifact_prefix={folder}/", "-len_control=0",
        "-print_final_stats=1", "-verbosity=0", "-rss_limit_mb=2048",
    ]  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *options, str(corpus)], lambda data: target(data, scratch),
        **({"custom_mutator": mutate} if name in OF_JSON else {}),
    )  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=250_000, help="inputs to each parser")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.targets, options.runs, options.inside)
    failed = []
    for name in options.targets.split(","):
        print(f"{name}: {options.runs:,} inputs", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        command = [sys.executable, __file__, "--targets", name, "--runs", str(options.runs), "--inside", str(folder)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(f"{name}: what it failed on is in {folder}")
        else:
            shutil.rmtree(folder)
    print("\n".join(failed) or "every input was taken, or refused in one line")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
