"""The catalogue: every row builds, options are checked while a file is read, and what a variant owns is declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from algorithms import catalogue
from algorithms.catalogue import CATALOGUE, Entry, options_class, owns
from algorithms.settings import Options, Unit
from harness.cli import REGISTRY
from harness.config.file import load_bench
from harness.config.matching import audit
from harness.config.tables import BenchSpec
from reports.record.errors import UserError

ARITHMETIC = Path(__file__).parents[2] / "suites" / "arithmetic.toml"
TRIAL = "arms.trial.algorithm=trial"


class Trial(Options):
    share: Unit = 0.25
    strict: bool = False


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant with two options that also owns both clips and everything of KL."""
    owned = ("update.clip_low", "update.clip_high", "kl.")
    entry = Entry("Trial", "algorithms.grpo:build", f"{__name__}:Trial", owned)
    monkeypatch.setitem(CATALOGUE, "trial", entry)


def bench(*overrides: str) -> BenchSpec:
    return load_bench(ARITHMETIC, overrides=overrides)


def reasons(*overrides: str) -> dict[str, str | None]:
    """The differing settings beside those that the suite declares, and why they may."""
    found = audit(bench(*overrides))
    rows = {each.key: each.why for each in (*found.declared, *found.undeclared)}
    return {key: why for key, why in rows.items() if key not in ("algorithm", "advantage.whiten")}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_row_builds_the_algorithm_that_it_names(name: str) -> None:
    assert REGISTRY.algorithm(tiny.spec(name)).name == name


def test_the_options_of_every_row_are_read_without_torch() -> None:
    code = (
        "import sys; from algorithms.catalogue import CATALOGUE, options_class; import harness.config.file; "
        "print([options_class(name).__name__ for name in CATALOGUE]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_an_algorithm_that_is_not_in_the_catalogue_has_no_options_and_owns_nothing() -> None:
    assert options_class("none such") is Options
    assert not owns("none such", "update.clip_low")
    assert catalogue.title("none such") == "none such"


@pytest.mark.usefixtures("trial")
def test_options_come_resolved_with_their_defaults() -> None:
    spec = bench(TRIAL, "arms.trial.options.share=0.5").run_spec("trial")
    assert spec.options == Trial(share=0.5)
    assert spec.model_dump()["options"] == {"share": 0.5, "strict": False}
    assert bench().run_spec("ppo").model_dump()["options"] == {}


@pytest.mark.usefixtures("trial")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms.trial.options.shar=0.5", "[arms.trial.options]: shar: unknown key; accepted here: share, strict"),
        ("arms.trial.options.share=2.0", "[arms.trial.options]: share = 2.0: input should be less than or equal to 1"),
        ("arms.trial.options.strict=1", "[arms.trial.options]: strict = 1: expected true or false"),
        ("arms.grpo.options.share=0.5", "[arms.grpo.options]: share: grpo has no options"),
        ("arms.trial.options=1", "arms.trial.options = 1: expected a table"),
    ],
)
def test_an_option_that_is_not_accepted_is_one_line_of_file_key_and_what_is(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        bench(TRIAL, override)
    assert str(caught.value) == f"{ARITHMETIC}: {message}"


@pytest.mark.usefixtures("trial")
def test_options_differ_freely_as_those_of_their_algorithm() -> None:
    whys = {"options.share": "options of Trial", "options.strict": "options of Trial"}
    assert reasons(TRIAL, "arms.trial.options.share=0.5") == whys
    other = ("arms.other.algorithm=trial", "arms.other.options.share=0.75")
    assert reasons(TRIAL, *other) == whys
    (share,) = (each for each in audit(bench(TRIAL, *other)).declared if each.key == "options.share")
    assert share.values == {"ppo": None, "grpo": None, "trial": 0.25, "other": 0.75}


@pytest.mark.usefixtures("trial")
def test_what_a_variant_owns_may_differ_in_its_arm_and_is_part_of_it() -> None:
    own = ("arms.trial.update.clip_high=0.4", "arms.trial.kl.placement=loss", "arms.trial.kl.coefficient=0.1")
    found = {key: why for key, why in reasons(TRIAL, *own).items() if not key.startswith("options.")}
    assert found == dict.fromkeys(("update.clip_high", "kl.placement", "kl.coefficient"), "part of Trial")


@pytest.mark.usefixtures("trial")
def test_what_one_variant_owns_is_no_licence_for_the_others() -> None:
    found = reasons(TRIAL, "arms.trial.update.clip_high=0.4", "arms.grpo.update.clip_high=0.3")
    assert found["update.clip_high"] is None
    assert reasons(TRIAL, "arms.trial.update.epochs=2")["update.epochs"] is None
