"""Whether what would be installed is what the lock was made with: the files pip finds, held against recorded hashes.

`make audit` runs this before it looks the versions up. pip says which file it would take and the hash that the index
gives for it, and checks that hash when it installs. Files of other platforms are named, not judged.
`python tests/support/lock_hashes.py --add` records the files offered here; after the lock has changed, in an empty
requirements.sha256.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
LOCK, HASHES = ROOT / "requirements.lock", ROOT / "requirements.sha256"


def offered() -> dict[str, str]:
    """File name → SHA-256 of what pip would install for the lock. Nothing is downloaded but what packages say."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--no-deps", "-qq", "--report", str(report), "-r", str(LOCK)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
        found = [each["download_info"] for each in json.loads(report.read_bytes())["install"]]
    return {
        unquote(Path(urlsplit(each["url"]).path).name): each["archive_info"].get("hashes", {}).get("sha256", "")
        for each in found
    }


def recorded() -> dict[str, str]:
    rows = (line.split() for line in HASHES.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


def differing(found: dict[str, str], known: dict[str, str]) -> list[str]:
    """Files of the lock that are not the ones it was made with."""
    return sorted(name for name in found.keys() & known.keys() if found[name] != known[name])


def main() -> int:
    found = offered()
    known = recorded()
    if "--add" in sys.argv[1:]:
        known = found | known
        HASHES.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(known.items())), encoding="utf-8")
    wrong, unknown = differing(found, known), sorted(found.keys() - known.keys())
    for name in wrong:
        print(f"{name}: its hash is {found[name] or 'not given'}, and was {known[name]}")
    if unknown:
        print(f"{len(unknown)} files without a recorded hash: {', '.join(unknown)}")
    print(f"{len(found) - len(wrong) - len(unknown)} of {len(found)} files are those that the lock was made with")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
