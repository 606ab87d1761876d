"""A benchmark file's way into `BenchSpec`: read, lay a profile and `--set` overrides over it, validate.

Every fault is one line that names the file, the key, the value and what is accepted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config.tables import BenchSpec, accepted_keys
from reports.record.errors import UserError
from reports.record.faults import brief, one_line
from reports.record.names import CURRENCIES

# A suite's file has some KiB. tomllib takes time that grows with the square of a key's parts.
MOST_BYTES, MOST_PARTS = 128 << 10, 100


def load_bench(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> BenchSpec:
    """Read, overlay and validate a benchmark file.

    overrides: "table.key=value" with a TOML value (a bare word counts as a string), applied last.
    Raises UserError (one line) for anything wrong with the file, the profile or an override.
    """
    raw = read_toml(path)
    try:
        raw = chosen(path, raw, profile=profile, overrides=overrides, arms=arms, seeds=seeds)
        spec = BenchSpec.model_validate(tuples(raw))
        for arm in spec.arms:
            spec.run_spec(arm)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error, accepted_keys)}") from None
    except RecursionError:
        raise UserError(f"{path}: tables or arrays nested too deep") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return spec


def chosen(
    path: Path,
    raw: dict[str, Any],
    *,
    profile: str | None,
    overrides: Sequence[str],
    arms: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> dict[str, Any]:
    """The file's tables with what was asked for laid over them."""
    profiles = profiles_in(raw)
    raw.pop("profiles", None)
    if profile is not None:
        if profile not in profiles:
            raise UserError(f"no profile {brief(profile)}; this file has: {', '.join(sorted(profiles)) or 'none'}")
        raw = overlay(raw, profiles[profile])
    for text in overrides:
        raw = overlay(raw, parse_override(text))
    if "profiles" in raw:
        raise UserError("profiles: only the file itself has profiles, neither a profile nor --set can change them")
    if arms is not None and isinstance(have := raw.get("arms", {}), dict):
        if unknown := [arm for arm in arms if arm not in have]:
            raise UserError(f"no arm {brief(unknown[0])}; this file has: {', '.join(have)}")
        raw["arms"] = {arm: have[arm] for arm in arms}
        raw = without_contrasts_of(raw, have.keys() - set(arms))
    if seeds is not None:
        raw["seeds"] = list(seeds)
    return raw


def without_contrasts_of(raw: dict[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """The tables without the contrasts that arms which are not run were declared for."""
    suite = raw.get("suite")
    declared = suite.get("contrasts") if isinstance(suite, dict) else None
    if not isinstance(suite, dict) or not isinstance(declared, list):
        return raw
    kept = [pair for pair in declared if not (isinstance(pair, list) and any(arm in pair for arm in left_out))]
    others = {key: value for key, value in suite.items() if key != "contrasts"}
    return {**raw, "suite": {**others, "contrasts": kept} if kept else others}


def profiles_of(path: Path) -> list[str]:
    raw = read_toml(path)
    try:
        return sorted(profiles_in(raw))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def profiles_in(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The profiles by name. Raises UserError where one is not a table."""
    profiles = raw.get("profiles", {})
    if not isinstance(profiles, dict):
        raise UserError(f"profiles = {brief(profiles)}: expected tables, as in [profiles.cpu]")
    for name, profile in profiles.items():
        if not isinstance(profile, dict):
            raise UserError(f"profiles.{name} = {brief(profile)}: expected a table, as in [profiles.{name}]")
    return profiles


def read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return parse_toml(file.read(MOST_BYTES + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error.strerror if isinstance(error, OSError) else error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # A number of thousands of digits is a plain ValueError.
    except ValueError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: tables or arrays nested too deep") from None


def parse_toml(content: bytes) -> dict[str, Any]:
    """What every TOML text is read by. Raises ValueError where it is none, UserError where reading could take long."""
    if len(content) > MOST_BYTES:
        raise UserError(f"larger than {MOST_BYTES >> 10} KiB")
    text = content.decode("utf-8")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > MOST_PARTS:
            raise UserError(f"line {number}: more than {MOST_PARTS} dots")
    return tomllib.loads(text)


def parse_override(text: str) -> dict[str, Any]:
    """`update.learning_rate=1e-4` → {"update": {"learning_rate": 1e-4}}."""
    key, found, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not found or not all(parts):
        raise UserError(f"--set {brief(text)}: expected key=value, as in update.learning_rate=1e-5")
    if len(parts) > MOST_PARTS:
        raise UserError(f"--set {brief(text)}: a key of more than {MOST_PARTS} parts")
    try:
        parsed: Any = parse_toml(f"value = {value}".encode("utf-8", "surrogatepass"))["value"]
    except UserError as error:
        raise UserError(f"--set {brief(text)}: {error}") from None
    except ValueError:
        parsed = value.strip()
    nested: Any = parsed
    for part in reversed(parts):
        nested = {part: nested}
    return nested


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, table by table. A budget replaces the whole currency: it has exactly one."""
    below, above = base.get("budget"), top.get("budget")
    if isinstance(below, Mapping) and isinstance(above, Mapping) and any(name in CURRENCIES for name in above):
        base = {**base, "budget": {name: amount for name, amount in below.items() if name not in CURRENCIES}}
    return merged(base, top)


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in top.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return both


def recorded(spec: Mapping[str, Any]) -> BenchSpec:
    """A benchmark from its resolved settings, as bench.json has them. Raises ValidationError."""
    return BenchSpec.model_validate(tuples(dict(spec)))


def chosen_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of recorded settings those that are not the defaults. Raises ValidationError."""
    return recorded(spec).model_dump(mode="json", exclude_defaults=True)


def in_full(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Recorded settings with those that are newer than the record at their defaults, which is what it ran with.

    Settings that are unknown here, of another version, stay as they stand.
    """
    try:
        return recorded(spec).model_dump(mode="json")
    except ValidationError:
        return spec


def tuples(value: Any) -> Any:
    """TOML arrays as tuples, so that validation can stay strict."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
