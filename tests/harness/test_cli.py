"""The command line: what it prints, its exit codes, and one line for every fault with nothing run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import cli
from harness import options as command_line
from harness.cli import REGISTRY, SUITES, main, suite_names
from harness.config.file import load_bench, profiles_of
from reports.record.errors import UserError
from suites import gsm8k

ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def a_gpu(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    for module in (cli, command_line):
        monkeypatch.setattr(module, "has_gpu", lambda: there)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command in this process, in an empty folder; a benchmark that would start fails the test."""
    import harness.bench.benchmark

    def started(*_: object) -> None:
        raise AssertionError("the benchmark was run")

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(harness.bench.benchmark.Benchmark, "execute", started)
    a_gpu(monkeypatch, there=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv(gsm8k.FOLDER_VARIABLE, raising=False)
    gsm8k.load.cache_clear()

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["paribus", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        assert list(Path.cwd().iterdir()) == []
        return Ran(int(caught.value.code or 0), *capsys.readouterr())

    return call


def refused(ran: Ran, code: int = 2) -> str:
    """The one line on standard error."""
    assert ran.code == code
    (line,) = ran.err.splitlines()
    assert line.startswith("paribus: ")
    assert line.isprintable()
    return line.removeprefix("paribus: ")


def edited(folder: Path, old: str, new: str, suite: str = "arithmetic") -> Path:
    text = (SUITES / f"{suite}.toml").read_text(encoding="utf-8")
    assert old in text
    path = folder / "own.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


# --- what can be named ------------------------------------------------------------------------------------------

NAMES = [(kind, name) for kind in REGISTRY._fields for name in getattr(REGISTRY, kind)]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_registered_name_resolves_to_what_it_says(kind: str, name: str) -> None:
    found = REGISTRY.resolve(kind, name, "key")
    if kind == "tasks":
        assert found.name == name
        assert found._fields == ("name", "train", "heldout", "verify", "strict_pattern")
    elif kind == "algorithms":
        algorithm = found(load_bench(SUITES / "arithmetic.toml").run_spec("ppo"))
        assert (algorithm.name, algorithm.needs_critic) == (name, name == "ppo")
    else:
        assert callable(found.build)
        assert callable(found.require)


@pytest.mark.parametrize("kind", REGISTRY._fields)
def test_a_name_that_is_not_registered_is_refused_with_those_that_are(kind: str) -> None:
    with pytest.raises(UserError) as caught:
        REGISTRY.resolve(kind, "none such", "the.key")
    assert str(caught.value).startswith("the.key = 'none such': accepted: ")
    assert all(name in str(caught.value) for name in getattr(REGISTRY, kind))


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_names_only_what_is_registered(name: str) -> None:
    path = SUITES / f"{name}.toml"
    for profile in (None, *profiles_of(path)):
        spec = load_bench(path, profile=profile)
        assert spec.suite.task in REGISTRY.tasks
        for arm in spec.arms:
            resolved = spec.run_spec(arm)
            assert resolved.rollout.engine in REGISTRY.engines
            REGISTRY.resolve("algorithms", resolved.algorithm, "algorithm")(resolved)


def test_the_arithmetic_suite_evaluates_the_sets_its_task_has() -> None:
    spec = load_bench(SUITES / "arithmetic.toml")
    heldout = REGISTRY.resolve("tasks", spec.suite.task, "task").heldout()
    assert list(spec.eval.tasks) == list(heldout)
    assert all(len(prompts) >= spec.eval.questions for prompts in heldout.values())


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench", "plan"])
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nosuch"], ["no suite 'nosuch'; there are: arithmetic, gsm8k, sums"]),
        (["../arithmetic"], ["no suite '../arithmetic'"]),
        (["nosuch.toml"], ["nosuch.toml: cannot be read: No such file or directory"]),
        (["sums", "--profile", "gpu"], ["sums.toml: no profile 'gpu'; this file has: none"]),
        (["gsm8k", "--profile", "gpu"], ["gsm8k.toml: no profile 'gpu'; this file has: cpu"]),
        (["arithmetic", "--arms", "ppo,dpo"], ["arithmetic.toml: no arm 'dpo'; this file has: ppo, grpo"]),
        (["arithmetic", "--arms", ""], ["no arm ''"]),
        (["arithmetic", "--seeds", "0,x"], ["--seeds 0,x: expected numbers"]),
        (["arithmetic", "--seeds", "1,1"], ["arithmetic.toml: seeds = [1, 1]: each seed once"]),
        (["arithmetic", "--seeds=-1"], ["arithmetic.toml: seeds.0 = -1: "]),
        (["arithmetic", "--set", "update"], ["arithmetic.toml: --set 'update': expected key=value"]),
        (["arithmetic", "--set", "update.lr=1"], ["arithmetic.toml: update.lr: unknown key; accepted here: "]),
        (["arithmetic", "--set", "budget.samples=-5"], ["arithmetic.toml: budget.samples = -5: ", "or equal to 1"]),
        (["arithmetic", "--set", "a\nb\x1b[31m=1"], ["a\\nb\\x1b[31m: unknown key"]),
        (
            ["arithmetic", "--set", "arms.ppo.update.learning_rate=0.5"],
            ["arithmetic.toml: undeclared difference in update.learning_rate: ppo = 0.5, grpo = 1.5e-06", "reason"],
        ),
    ],
)
def test_a_fault_is_one_line_and_nothing_runs(run: Run, command: str, arguments: list[str], parts: list[str]) -> None:
    line = refused(run(command, *arguments))
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("rollout.completions_per_prompt=1", ["rollout.completions_per_prompt = 1: ", "grpo", "at least 2"]),
        ("arms.ppo.algorithm=reinforce", ["arms.ppo.algorithm = 'reinforce': accepted: grpo, ppo"]),
        ("suite.task=chess", ["suite.task = 'chess': accepted: arithmetic, gsm8k, sums"]),
        ("model.name=./none", ["model.name = './none': no such model folder"]),
        ("model.name=package://nosuch_package/x", ["the package 'nosuch_package' is not installed", "pip install"]),
        ("model.name=package://suites/nosuch", ["the package 'suites' has no 'nosuch'"]),
        ("model.name=package://suites/../tests", ["the package 'suites' has no '../tests'"]),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_runs(run: Run, setting: str, parts: list[str]) -> None:
    line = refused(run("bench", "arithmetic", "--set", setting))
    assert all(part in line for part in parts)


def test_a_file_of_ones_own_is_named_in_its_faults(run: Run, tmp_path: Path) -> None:
    path = edited(tmp_path, "[arms.grpo]\n", "[arms.grpo]\nupdate = { epochs = 3 }\n")
    line = refused(run("bench", path))
    assert line.startswith(f"{path}: undeclared difference in update.epochs: ppo = 1, grpo = 3")
    path = edited(tmp_path, "samples = 7680", "samples = 7680\nsteps = 3")
    assert refused(run("bench", path)).startswith(f"{path}: budget: exactly one of ")
    path = edited(tmp_path, "samples = 7680", "")
    assert refused(run("bench", path)).startswith(f"{path}: budget: exactly one of ")
    path = edited(tmp_path, "[suite]", "[suite")
    assert refused(run("bench", path)).startswith(f"{path}: not TOML: ")


def gsm8k_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    row = json.dumps({"question": "1 + 1?", "answer": "#### 2"})
    (folder / "train.jsonl").write_text(f"{row}\n{row}\n{last}\n", encoding="utf-8")
    (folder / "test.jsonl").write_text(f"{row}\n", encoding="utf-8")
    monkeypatch.setenv(gsm8k.FOLDER_VARIABLE, str(folder))


@pytest.mark.parametrize(
    ("last", "part"),
    [("{", "not JSON"), ("{}", "expected an object"), ('{"question": "q", "answer": "#### x"}', "not a number: 'x'")],
)
def test_a_broken_line_of_data_is_named_by_file_and_line_before_anything_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, part: str
) -> None:
    gsm8k_folder(tmp_path, monkeypatch, last)
    ran = run("bench", "gsm8k", "--set", "model.name=package://suites/arithmetic_base")
    line = refused(ran)
    assert f"{tmp_path / 'train.jsonl'}:3: " in line
    assert part in line
    assert "no GPU here: taking the profile 'cpu' of gsm8k.toml" in ran.out


def test_a_missing_data_folder_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gsm8k.FOLDER_VARIABLE, "/nonexistent")
    line = refused(run("bench", "gsm8k", "--set", "model.name=package://suites/arithmetic_base"))
    assert "PARIBUS_GSM8K_DIR: /nonexistent/" in line


def test_what_is_in_order_gets_as_far_as_running(run: Run) -> None:
    with pytest.raises(AssertionError, match="the benchmark was run"):
        run("bench", "arithmetic", "--arms", "grpo,ppo", "--seeds", "4", "--set", "budget.steps=1")


def test_an_unknown_option_or_command_exits_2(run: Run) -> None:
    for arguments in (["bench", "arithmetic", "--bogus"], ["bogus"], ["bench"], ["grade", "arithmetic"]):
        assert run(*arguments).code == 2


def paribus(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_in_a_process_of_its_own_a_fault_leaves_one_line_and_no_folder(tmp_path: Path) -> None:
    done = paribus(tmp_path, "bench", "arithmetic", "--set", "arms.ppo.update.learning_rate=0.5")
    line = refused(Ran(done.returncode, done.stdout, done.stderr))
    assert "undeclared difference in update.learning_rate: ppo = 0.5, grpo = 1.5e-06" in line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_without_folder_and_hub_one_line_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    done = paribus(
        tmp_path / "cwd", "bench", "gsm8k", "--profile", "cpu", "--set", "model.name=package://suites/arithmetic_base",
        HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"), PARIBUS_GSM8K_DIR="",
    )  # fmt: skip
    line = refused(Ran(done.returncode, done.stdout, done.stderr), code=5)
    assert "openai/gsm8k cannot be had from the hub" in line
    assert "set PARIBUS_GSM8K_DIR to a folder with train.jsonl and test.jsonl" in line
    assert list((tmp_path / "cwd").iterdir()) == []


# --- plan and suites --------------------------------------------------------------------------------------------


def test_plan_prints_the_audit(run: Run) -> None:
    ran = run("plan", "arithmetic")
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["arithmetic:", "matched"] in lines
    assert ["algorithm", "ppo", "grpo", "what", "is", "compared"] in lines
    assert ["advantage.whiten", "true", "false", "normalisation", "of", "advantages", "belongs"] in [
        line[:7] for line in lines
    ]
    assert ["update.learning_rate", "1.5e-06"] in lines
    assert ["eval.tasks", "arithmetic_heldout,", "arithmetic_transfer"] in lines
    assert "arms: ppo, grpo; seeds: 0, 1, 2; regime: same_batch" in ran.out
    assert "budget of a run: 7680 samples; a step is 16 prompts × 8 completions = 128 samples" in ran.out
    assert "UNDECLARED" not in ran.out


def test_plan_of_a_third_arm_says_what_is_its_own(run: Run) -> None:
    ran = run("plan", "arithmetic", "--set", "arms.rloo.algorithm=rloo", "--set", "arms.rloo.advantage.whiten=true")
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert "arms: ppo, grpo, rloo; seeds: 0, 1, 2" in ran.out
    assert ["algorithm", "ppo", "grpo", "rloo", "what", "is", "compared"] in lines
    assert ["advantage.whiten", "true", "false", "true"] in [line[:4] for line in lines]


def test_an_option_of_an_algorithm_without_any_is_refused(run: Run) -> None:
    message = refused(run("plan", "arithmetic", "--set", "arms.grpo.options.beta=1"))
    assert message.endswith("arithmetic.toml: [arms.grpo.options]: beta: grpo has no options")


def test_plan_shows_an_undeclared_difference_and_exits_2(run: Run) -> None:
    ran = run("plan", "arithmetic", "--set", "arms.grpo.update.learning_rate=0.0000015000001")
    assert "undeclared difference in update.learning_rate" in refused(ran)
    assert "arithmetic: not matched" in ran.out
    assert ["update.learning_rate", "1.5e-06", "1.5000001e-06", "no", "reason", "given"] in [
        line.split() for line in ran.out.splitlines()
    ]


def test_plan_shows_values_and_reasons_as_they_are_written(run: Run) -> None:
    ran = run(
        "plan", "arithmetic", "--set", "arms.ppo.update.epochs=2", "--set", "arms.ppo.reason=[bold]why[/] [/x]",
        "--set", "model.name=[red]m[/red] [/]", "--set", "budget.samples=123456789",
    )  # fmt: skip
    assert ran.code == 0
    assert "ppo: [bold]why[/] [/x]" in ran.out
    assert "[red]m[/red] [/]" in ran.out
    assert "budget of a run: 123456789 samples" in ran.out


def test_plan_of_chosen_arms_and_seeds(run: Run) -> None:
    ran = run("plan", "arithmetic", "--arms", "grpo", "--seeds", "9")
    assert "arms: grpo; seeds: 9;" in ran.out
    assert "declared differences" not in ran.out.replace("\xa0", " ")


def test_without_a_gpu_the_cpu_profile_is_taken_and_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # One small arm: what the step would need is not the question here.
    small = "--arms", "grpo", "--set", "rollout.prompts_per_step=1", "--set", "rollout.completions_per_prompt=2"
    ran = run("plan", "gsm8k", *small)
    assert "no GPU here: taking the profile 'cpu' of gsm8k.toml" in ran.out
    assert "budget of a run: 4 steps" in ran.out
    a_gpu(monkeypatch, there=True)
    ran = run("plan", "gsm8k", *small)
    assert "no GPU" not in ran.out
    assert "budget of a run: 7200 device seconds" in ran.out


def test_suites_lists_every_suite(run: Run) -> None:
    ran = run("suites")
    assert (ran.code, ran.err) == (0, "")
    rows = {line.split()[0]: line for line in ran.out.splitlines()}
    assert set(rows) == {"suite", *suite_names()}
    assert "7680 samples" in rows["arithmetic"]
    assert rows["arithmetic"].rstrip().endswith("package://suites/arithmetic_base")
    assert "cpu" in rows["gsm8k"]


# --- grade ------------------------------------------------------------------------------------------------------


def graded(run: Run, suite: str, folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    path = folder / "completions.jsonl"
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), encoding="utf-8")
    ran = run("grade", suite, path)
    assert (ran.code, ran.err) == (0, "")
    return [json.loads(line) for line in ran.out.splitlines()]


def test_grade_arithmetic_gives_a_verdict_a_line(run: Run, tmp_path: Path) -> None:
    rows = [
        {"completion": "12+70=82#82", "answer": "82"},
        {"completion": "12+70=83#83", "answer": "82"},
        {"completion": "", "answer": "82", "more": 1},
    ]
    assert graded(run, "arithmetic", tmp_path, rows) == [
        {"correct": True, "extracted": "82"},
        {"correct": False, "extracted": "83"},
        {"correct": False, "extracted": None},
    ]
    assert graded(run, "arithmetic", tmp_path, []) == []


@pytest.mark.parametrize("ascii_only", [True, False])
def test_grade_gsm8k_takes_published_answers_and_any_text(run: Run, tmp_path: Path, ascii_only: bool) -> None:
    rows = [
        {"completion": "so\u2028it is\x85\n#### 1250.00", "answer": "6 * 2 = <<6*2=12>>12\n#### 1,250"},
        {"completion": "\\boxed{-3}", "answer": "-3"},
        {"completion": "#### 9**9**9", "answer": "1"},
        {"completion": "{" * 100_000, "answer": "1"},
    ]
    verdicts = graded(run, "gsm8k", tmp_path, rows, ensure_ascii=ascii_only)
    assert [verdict["correct"] for verdict in verdicts] == [True, True, False, False]
    assert verdicts[0]["extracted"] == "1250.00"


@pytest.mark.parametrize("suite", ["arithmetic", "gsm8k"])
@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "not JSON: "),
        ("", "not JSON: "),
        ("[" * 100_000, "nested too deep"),
        ("null", 'expected an object with the strings "completion", "answer"'),
        ("[]", "expected an object"),
        ('{"completion": "x"}', "expected an object"),
        ('{"completion": 1, "answer": "1"}', "expected an object"),
        ('{"completion": "x", "answer": 1}', "expected an object"),
        ('{"completion": "#1", "answer": "one\\ntwo"}', "the gold answer is not a number"),
    ],
)
def test_grade_names_file_and_line_of_a_broken_row(run: Run, tmp_path: Path, suite: str, line: str, part: str) -> None:
    path = tmp_path / "completions.jsonl"
    path.write_text(f'{{"completion": "#1", "answer": "1"}}\n{line}\n', encoding="utf-8")
    message = refused(run("grade", suite, path))
    assert message.startswith(f"{path}:2: ")
    assert part in message
    assert len(message) < 300


def test_grade_refuses_a_file_it_cannot_read_and_a_suite_there_is_not(run: Run, tmp_path: Path) -> None:
    assert refused(run("grade", "arithmetic", tmp_path / "no\nne")).endswith(
        "no\\nne: cannot be read (No such file or directory)"
    )
    (tmp_path / "bytes").write_bytes(b"\xff\xff")
    assert "bytes: cannot be read" in refused(run("grade", "arithmetic", tmp_path / "bytes"))
    assert refused(run("grade", "chess", tmp_path)).startswith("no suite 'chess'")


# --- what others wrote, and addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["bench", "arithmetic"], ["bench", "--resume", "latest"], ["report"]])
@pytest.mark.parametrize(
    "uri", ["http://user:hunter2#x@host", "http://user:hunter2/x@host", "postgresql://u:hun'ter2@h"]
)
def test_an_address_that_is_none_is_refused_before_anything_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    line = refused(run(*arguments))
    assert line.startswith("MLFLOW_TRACKING_URI: ")
    assert "percent-encoded (%23 for #" in line
    assert "hun" not in line


@pytest.mark.parametrize("uri", ["http://user:hunter2#x@host", "http://user:hunter2/x@host", "http://[::1"])
def test_doctor_warns_of_an_address_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    assert "warning              MLFLOW_TRACKING_URI: " in ran.out
    assert "hunter2" not in ran.out


def test_doctor_warns_of_a_database_that_everybody_may_write_to(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "shared" / "mlflow.db"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    assert str(file.parent) not in "".join(line for line in run("doctor").out.splitlines() if "everybody" in line)
    file.chmod(0o666)
    file.parent.chmod(0o777)
    warned = [line for line in run("doctor").out.splitlines() if "everybody" in line]
    assert [line.split(" may ")[0].split()[-1] for line in warned] == [str(file), str(file.parent)]


@pytest.mark.parametrize("bench_id", ["../x", "..", "a/b"])
def test_a_benchmark_that_is_named_lies_in_its_folder(run: Run, tmp_path: Path, bench_id: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / bench_id).mkdir(parents=True, exist_ok=True)
    (runs / bench_id / "bench.json").write_text("{}")
    base = ROOT / "suites" / "baselines" / "arithmetic.json"
    for command in (
        ["report", "--out", runs],
        ["baseline", "--out", tmp_path / "new.json", "--runs", runs],
        ["regress", "--baseline", base, "--runs", runs],
    ):
        assert refused(run(*command, bench_id)).startswith(f"benchmark id {bench_id!r}: letters")


def test_a_password_among_the_arguments_is_not_recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.bench.benchmark

    recorded = []

    def made(*_: object, command: str, **__: object) -> None:
        recorded.append(command)
        raise UserError("made")

    monkeypatch.setattr(harness.bench.benchmark.Benchmark, "__init__", made)
    named = "https://u:hunter2@host/x"
    refused(run("bench", "arithmetic", "--set", f"arms.ppo.reason='{named}'", "--set", "update.micro_batch_tokens=512"))
    assert recorded == [
        "paribus bench arithmetic --set 'arms.ppo.reason='\"'\"'https://***@host/x'\"'\"'' "
        "--set update.micro_batch_tokens=512"
    ]
    line = refused(run("bench", "arithmetic", "--set", f"model.name='{named}'"))
    assert line.endswith("model.name: expected a hub id, a folder or package://PACKAGE/PATH")


def test_what_a_file_says_does_not_command_the_terminal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.say("[b]a\x1b[2J\rb\u202e[/b]\nc\u00a0d")
    assert capsys.readouterr().out == "[b]a\\x1b[2J\\rb\\u202e[/b]\nc\u00a0d\n"
    ran = run("plan", "arithmetic", "--set", 'model.name="m\\u001b[2J\\u0007"')
    assert ran.code == 0
    assert not {"\x1b", "\x07"} & set(ran.out)
    assert "m\\x1b[2J" in ran.out
