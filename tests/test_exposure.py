"""What `doctor` warns of: folders that everybody may write to, and servers that anybody may."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.exposure import folder_warnings, server_warnings


@contextmanager
def server(code: int) -> Iterator[str]:
    """The address of a server that answers every request with a status, and refuses credentials it did not ask for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(400 if "Authorization" in self.headers else code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize(("mode", "warned"), [(0o755, 0), (0o775, 0), (0o777, 1), (0o1777, 1)])
def test_a_folder_that_everybody_may_write_to_is_warned_of(tmp_path: Path, mode: int, warned: int) -> None:
    tmp_path.chmod(mode)
    found = folder_warnings({"runs folder": tmp_path, "cache": tmp_path / "not there"})
    assert len(found) == warned
    assert all(str(tmp_path) in line and "everybody" in line for line in found)


@pytest.mark.parametrize(
    ("code", "part"),
    [(200, "without authentication"), (401, None), (403, None), (500, "not as MLflow does (HTTP 500)")],
)
def test_a_server_is_judged_by_what_it_answers_to_nobody(code: int, part: str | None) -> None:
    with server(code) as uri:
        found = server_warnings(uri.replace("://", "://me:hunter2@"), {})
    assert len(found) == (part is not None)
    for line in found:
        assert part in line
        assert "hunter2" not in line


def test_a_server_that_does_not_answer_is_said_so() -> None:
    with server(200) as uri:
        pass
    (line,) = server_warnings(uri, {})
    assert "does not answer" in line


def test_a_password_in_the_clear_is_warned_of() -> None:
    (clear, _) = server_warnings("http://me:hunter2@tracking.invalid:5000", {})
    assert "in the clear" in clear
    assert "hunter2" not in clear
    (clear, _) = server_warnings("http://tracking.invalid:5000", {"MLFLOW_TRACKING_TOKEN": "x"})
    assert "in the clear" in clear
    (_,) = server_warnings("https://me:hunter2@tracking.invalid", {})


def test_a_database_in_a_file_is_no_server() -> None:
    assert server_warnings("sqlite:////somewhere/mlflow.db", {}) == []
