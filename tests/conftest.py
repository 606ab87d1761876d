"""Shared fixtures: an MLflow store and a server are slow to make, so the session has one of each."""

from __future__ import annotations

import os

# Tests run side by side, a process a core; threads of their own would only wait for each other. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks a hub: where there is none, each try would wait for an answer.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A test that wants a server names it.
os.environ.pop("MLFLOW_TRACKING_URI", None)

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import Server
from real_bench import finish, start_small

from harness.tracking.client import connect


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file. Creating one takes seconds, so the tests copy it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    running = Server(folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small benchmark that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed")
    return finish(start_small(out), out)
