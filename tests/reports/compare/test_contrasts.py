"""Any number of arms: which are held against each other, and what keeps a pair from being judged."""

import shutil

import pytest
from synthetic_bench import TASKS, read_json, write_bench, write_json

from reports.compare.comparison import compare, load
from reports.compare.pairs import Pair
from reports.record.errors import EvidenceError
from reports.stats.holm import holm
from reports.stats.verdict import Verdict, VerdictKind, read

ARMS = ("ppo", "grpo", "rloo", "remax", "gspo")
ACCURACY = f"eval/{TASKS[0]}/accuracy"


def bench(folder, **options):
    return write_bench(folder, **{"arms": ARMS, "steps": 10, "questions": 40, "effect": 0.3} | options)


def contrasts(folder, **options):
    return {contrast.pair: contrast for contrast in compare(load(bench(folder, **options))).contrasts}


def declared(*pairs):
    return {"spec": {"suite": {"contrasts": [list(pair) for pair in pairs]}}}


def only(folder, arms, to):
    """The same benchmark as if no other arm had been run."""
    shutil.copytree(folder, to)
    record = read_json(to / "bench.json")
    record["arms"] = {arm: record["arms"][arm] for arm in arms}
    record["runs"] = [run for run in record["runs"] if run["arm"] in arms]
    record["spec"] = {}
    write_json(to / "bench.json", record)
    return compare(load(to))


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def judged(five):
    return compare(load(five))


def test_without_a_declaration_the_first_arm_is_held_against_each_other(judged):
    assert [contrast.pair for contrast in judged.contrasts] == [("ppo", other) for other in ARMS[1:]]


def test_one_arm_alone_makes_no_contrast(tmp_path):
    assert contrasts(tmp_path, arms=("ppo",)) == {}


def test_declared_contrasts_are_made_in_their_order_and_direction(tmp_path):
    found = contrasts(tmp_path, arms=ARMS[:3], **declared(("rloo", "grpo"), ("grpo", "ppo")))
    assert list(found) == [("rloo", "grpo"), ("grpo", "ppo")]
    assert found["grpo", "ppo"].differences[ACCURACY].estimate.mean < 0
    assert found["grpo", "ppo"].verdict.winner in ("ppo", None)
    assert found["rloo", "grpo"].title == "RLOO − GRPO"


def test_a_declared_contrast_of_an_arm_that_was_not_run_is_left_out(tmp_path):
    assert list(contrasts(tmp_path, arms=ARMS[:3], **declared(("grpo", "rloo"), ("ppo", "dapo")))) == [("grpo", "rloo")]


def test_every_contrast_has_a_verdict_and_a_sentence_of_its_own(judged):
    for contrast in judged.contrasts:
        assert contrast.verdict == contrast.differences[ACCURACY].verdict
        assert all(name in contrast.headline for name in contrast.title.split(" − "))
    assert len({contrast.headline for contrast in judged.contrasts}) == len(judged.contrasts)
    winners = [one for one in judged.contrasts if one.verdict.winner == "ppo"]
    assert winners
    assert all(f"PPO above {one.pair.second.upper()}" in judged.headline for one in winners)


@pytest.mark.parametrize("other", ARMS[1:])
def test_a_contrast_gives_the_numbers_that_its_two_arms_give_alone(five, judged, tmp_path, other):
    alone = only(five, ("ppo", other), tmp_path / other)
    pair = Pair("ppo", other)
    assert [metric.name for metric in alone.metrics] == [metric.name for metric in judged.metrics]
    for mine, theirs in zip(judged.metrics, alone.metrics, strict=True):
        assert mine.between(pair).estimate == theirs.difference.estimate
        assert mine.between(pair).beside == theirs.difference.beside
    steps = [
        next(a for a in c.findings.areas if (a.quantity, a.axis) == ("accuracy", "steps")) for c in (judged, alone)
    ]
    assert steps[0].metric.between(pair).estimate == steps[1].metric.difference.estimate
    assert judged.findings.pairings[pair] == alone.findings.pairings[pair]


def test_holm_is_taken_over_all_contrasts_and_tasks(judged):
    accuracies = [judged.metric(f"eval/{task}/accuracy") for task in TASKS]
    differences = [metric.between(c.pair) for metric in accuracies for c in judged.contrasts]
    adjusted = holm([difference.estimate.p_value for difference in differences])
    assert [difference.verdict.p_holm for difference in differences] == adjusted
    assert len(adjusted) == len(TASKS) * len(judged.contrasts)
    for difference, p in zip(differences, adjusted, strict=True):
        assert (difference.verdict.kind is VerdictKind.BETTER) == (p < 0.05)


def test_quantities_of_the_runs_are_corrected_over_the_contrasts(judged):
    found = [judged.metric("time/step_s").between(contrast.pair) for contrast in judged.contrasts]
    assert [one.verdict.p_holm for one in found] == holm([one.estimate.p_value for one in found])


def test_a_lead_that_is_lost_to_the_correction_is_named(tmp_path):
    found = compare(load(bench(tmp_path, effect=0.09, questions=200, seed_sd=0.02)))
    differences = [m.between(c.pair) for m in found.metrics if m.quantity == "accuracy" for c in found.contrasts]
    lost = [one for one in differences if one.verdict.alone]
    assert lost
    assert all("not after Holm’s correction for 8 comparisons" in one.verdict.reason for one in lost)
    assert found.across_tasks.count(" over ") == len(lost)


def test_an_arm_that_does_not_fit_makes_only_its_own_contrasts_not_fit(tmp_path):
    found = compare(load(bench(tmp_path, failures={("rloo", seed): "out_of_memory" for seed in (0, 1, 2)})))
    by_other = {contrast.pair.second: contrast for contrast in found.contrasts}
    assert by_other["rloo"].words == "RLOO does not fit"
    assert by_other["rloo"].differences == {}
    assert "RLOO does not fit" in by_other["rloo"].headline
    others = [contrast for other, contrast in by_other.items() if other != "rloo"]
    assert not {contrast.verdict.kind for contrast in others} & {VerdictKind.INVALID, VerdictKind.DOES_NOT_FIT}
    assert found.findings.aggregate.tasks == TASKS
    assert found.findings.races
    assert found.examples.seed == 0
    assert found.to_json()["contrasts"][1]["verdict"] == "RLOO does not fit"


def test_an_arm_that_does_not_fit_takes_no_answers_from_the_others(tmp_path):
    failures = {("rloo", seed): "out_of_memory" for seed in (0, 1, 2)}
    found = compare(load(bench(tmp_path, failures=failures)))
    areas = [area for area in found.findings.areas if area.quantity == "accuracy"]
    assert {area.metric.between(Pair("ppo", "grpo")).estimate.questions for area in areas} == {40}


def test_where_the_first_contrast_does_not_fit_its_difference_is_none(tmp_path):
    found = compare(load(bench(tmp_path, failures={("grpo", seed): "out_of_memory" for seed in (0, 1, 2)}))).to_json()
    assert (found["difference_of"], found["verdict"]) == (["ppo", "grpo"], "GRPO does not fit")
    assert {metric["difference"] for metric in found["metrics"]} == {None}
    assert found["contrasts"][1]["metrics"][ACCURACY]["verdict"] != "invalid"


def test_a_lost_run_makes_only_its_arms_contrasts_invalid(tmp_path):
    found = compare(load(bench(tmp_path, failures={("remax", 1): "diverged"})))
    kinds = {contrast.pair.second: contrast.verdict.kind for contrast in found.contrasts}
    assert kinds.pop("remax") is VerdictKind.INVALID
    assert VerdictKind.INVALID not in kinds.values()
    assert "REMAX seed 1 diverged" in found.problem


def test_evidence_that_speaks_against_one_arm_leaves_the_other_contrasts(five, tmp_path):
    folder = shutil.copytree(five, tmp_path / "unequal")
    record = read_json(folder / "bench.json")
    row = record["matching"]["evidence"][1]
    row["equal"] = False
    row["first_rollout"]["gspo"] = "f" * 64
    write_json(folder / "bench.json", record)
    found = compare(load(folder))
    invalid = [contrast.pair.second for contrast in found.contrasts if contrast.problem]
    assert invalid == ["gspo"]
    assert "did not start from the same" in found.problem


def test_evidence_that_only_says_unequal_speaks_against_all(five, tmp_path):
    folder = shutil.copytree(five, tmp_path / "unequal")
    record = read_json(folder / "bench.json")
    record["matching"]["evidence"][1] = {"seed": 1, "equal": False}
    write_json(folder / "bench.json", record)
    assert all(contrast.problem for contrast in compare(load(folder)).contrasts)


def test_the_record_keeps_the_first_contrast_where_it_always_was(judged):
    found = judged.to_json()
    first = found["contrasts"][0]
    assert found["difference_of"] == [first["first"], first["second"]] == ["ppo", "grpo"]
    assert found["verdict"] == first["verdict"]
    assert {metric["name"]: metric["difference"] for metric in found["metrics"]} == first["metrics"]
    assert [(c["first"], c["second"]) for c in found["contrasts"]] == [("ppo", other) for other in ARMS[1:]]


def test_one_contrast_is_written_down_like_several(tmp_path):
    (only_one,) = compare(load(bench(tmp_path, arms=ARMS[:2]))).to_json()["contrasts"]
    assert (only_one["first"], only_one["second"]) == ("ppo", "grpo")


@pytest.mark.parametrize("pairs", [[["ppo"]], [["ppo", "grpo", "rloo"]], "ppo", [["ppo", 1]]])
def test_contrasts_that_are_not_pairs_of_names_are_refused(tmp_path, pairs):
    folder = bench(tmp_path, arms=ARMS[:2])
    write_json(folder / "bench.json", read_json(folder / "bench.json") | {"spec": {"suite": {"contrasts": pairs}}})
    with pytest.raises(EvidenceError, match=r"bench\.json: spec\.suite\.contrasts"):
        load(folder)


@pytest.mark.parametrize("verdict", [Verdict(VerdictKind.BETTER, winner="b"), Verdict(VerdictKind.EQUIVALENT)])
def test_a_verdict_is_read_back_from_its_label(verdict):
    assert read(verdict.label, ("a", "b")) == verdict


@pytest.mark.parametrize("label", ["c better", "better", "", "a better, beyond the margin"])
def test_what_is_no_verdict_on_these_arms_is_not_read_as_one(label):
    assert read(label, ("a", "b")) is None
