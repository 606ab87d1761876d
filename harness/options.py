"""What the commands have in common: their options, the suite and the benchmark that these name, and where to write."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.config.file import load_bench, profiles_of
from harness.config.tables import BenchSpec
from harness.tracking.client import tracking_uri
from harness.tracking.naming import check_bench_id
from reports.record.errors import UserError, printable

SUITES = Path(__file__).resolve().parent.parent / "suites"
CPU_PROFILE = "cpu"

# What our own sentences and tables have and terminals take: the end of a line, and a space that is no end of one.
KEPT = "\n\u00a0"


class SafeConsole(Console):
    """Writes what would command the terminal as escapes, also in a table's cells: they show what files hold."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text, KEPT), part.style)


# What is piped has no width of its own; tables in it are not folded.
out = SafeConsole(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)

SuiteArgument = Annotated[str, typer.Argument(help="a suite's name, or a benchmark file (.toml)")]
ProfileOption = Annotated[str | None, typer.Option(help="a profile of the suite; without a GPU, cpu is taken")]
ArmsOption = Annotated[str | None, typer.Option(help="run only these arms, as in ppo,grpo")]
SeedsOption = Annotated[str | None, typer.Option(help="run these seeds, as in 0,1,2")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override a key, as in update.learning_rate=1e-5")]
BenchArgument = Annotated[str, typer.Argument(help="a benchmark's id, or latest")]
OutOption = Annotated[Path, typer.Option("--out", help="folder of benchmarks")]
RunsOption = Annotated[Path, typer.Option("--runs", help="folder of benchmarks")]


def say(text: str, style: str | None = None) -> None:
    """Print plain text: nothing in it is markup, and nothing commands the terminal."""
    out.print(printable(text, KEPT), markup=False, style=style)


def suite_file(suite: str) -> Path:
    """The file of a suite by name, or the file itself. A name never leaves the suites' folder."""
    if suite.endswith(".toml"):
        return Path(suite)
    if suite not in suite_names():
        raise UserError(f"no suite {suite!r}; there are: {', '.join(suite_names())} (or name a .toml file)")
    return SUITES / f"{suite}.toml"


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def listed(text: str | None, name: str, kind: type = str) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{name} {text}: expected numbers with commas between them, as in 0,1,2") from None


def resolve(
    suite: str,
    profile: str | None,
    arms: str | None,
    seeds: str | None,
    overrides: list[str] | None,
    *,
    for_a_gpu: bool = False,
) -> tuple[BenchSpec, Path, str | None]:
    """The benchmark asked for, its file and the profile taken. for_a_gpu: it is meant for one, here or not."""
    path = suite_file(suite)
    if profile is None and CPU_PROFILE in profiles_of(path) and not (for_a_gpu or has_gpu()):
        profile = CPU_PROFILE
        say(f"no GPU here: taking the profile {CPU_PROFILE!r} of {path.name}")
    bench = load_bench(
        path, profile=profile, overrides=overrides or (),
        arms=listed(arms, "--arms"), seeds=listed(seeds, "--seeds", int),
    )  # fmt: skip
    return bench, path, profile


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def benchmark_folder(bench_id: str, out_folder: Path, suite: str | None = None) -> Path:
    """Where a benchmark lies; fetched from MLflow first where it is not here."""
    from harness.tracking.fetch import fetch

    check_bench_id(bench_id)
    folder = out_folder / bench_id
    if not (folder / "bench.json").is_file():
        folder = fetch(tracking_uri(None, out_folder), bench_id, out_folder, suite)
        say(f"fetched {folder.name} from MLflow")
    return folder
