"""What `paribus doctor` warns of: evidence that anybody could change.

A report is as trustworthy as the folder and the server that its figures come from.
"""

from __future__ import annotations

import http.client
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from harness.tracking.redact import address_fault, redact

PATIENCE_S = 5
LOCAL = ("localhost", "127.0.0.1", "::1")


def folder_warnings(folders: Mapping[str, Path]) -> list[str]:
    """folders: what each folder or file is for, and where it is. Those that are not there warn of nothing."""
    found, seen = [], set()
    for use, folder in folders.items():
        try:
            is_ = folder.stat()
        except OSError:
            continue
        one = (is_.st_dev, is_.st_ino)
        kept = stat.S_ISDIR(is_.st_mode) or stat.S_ISREG(is_.st_mode)
        if kept and one not in seen and is_.st_mode & stat.S_IWOTH:
            seen.add(one)
            found.append(f"{use} {folder} may be written by everybody on this machine (chmod o-w {folder})")
    return found


def server_warnings(uri: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """uri: a tracking address. It is asked once, without credentials, for what only a user should be shown.

    Neither an address that is none nor what the library says of it is shown: it takes a password's part for a port.
    """
    if fault := address_fault(uri):
        return [f"tracking server: {fault}"]
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return []
    host, warnings = parts.hostname or "", []
    secret = parts.password or any(f"MLFLOW_TRACKING_{name}" in environment for name in ("PASSWORD", "TOKEN"))
    if secret and parts.scheme == "http" and host not in LOCAL:
        warnings.append(f"tracking server {redact(uri)}: its password crosses the network in the clear (use https)")
    try:
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", timeout=PATIENCE_S):
            warnings.append(f"tracking server {redact(uri)} answers without authentication: anybody may change runs")
    except urllib.error.HTTPError as error:
        if error.code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            warnings.append(f"tracking server {redact(uri)} answers, but not as MLflow does (HTTP {error.code})")
    except (http.client.HTTPException, ValueError) as error:
        warnings.append(f"tracking server {redact(uri)} does not answer as MLflow does ({type(error).__name__})")
    except OSError as error:
        reason = getattr(error, "reason", error)
        warnings.append(f"tracking server {redact(uri)} does not answer ({redact(str(reason))})")
    return warnings
