"""What `doctor` warns of: folders that everybody may write to, and servers that anybody may."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.tracking.security import folder_warnings, server_warnings


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


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2#x@host",
        "http://user:hunter2/x@host",
        "http://user:hunter2",
        "http://user:hunter2@[::1",
        "http://localhost:abc",
        "http://hunter2 @host",
    ],
)
def test_an_address_that_is_none_is_said_so_and_not_shown(uri: str) -> None:
    (line,) = server_warnings(uri, {})
    assert line.startswith("tracking server: ")
    assert not {"hunter2", "abc", "::1"} & {word for word in ("hunter2", "abc", "::1") if word in line}


@pytest.mark.parametrize("answer", [b"SSH-2.0-hunter2\r\n", b"HTTP/1.1 302 x\r\nLocation: http://h:hunter2/\r\n\r\n"])
def test_what_answers_and_is_no_web_server_is_said_so(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(1 << 16)
                accepted.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        (line,) = server_warnings(f"http://127.0.0.1:{listening.getsockname()[1]}", {})
        thread.join()
    assert "does not answer as MLflow does (" in line
    assert "hunter2" not in line


def test_a_file_is_warned_of_as_its_folder_is_and_a_folder_once(tmp_path: Path) -> None:
    file, pipe = tmp_path / "mlflow.db", tmp_path / "pipe"
    file.touch()
    os.mkfifo(pipe)
    for path in (file, pipe, tmp_path):
        path.chmod(0o777)
    again = tmp_path / "nothing" / ".."
    (tmp_path / "nothing").mkdir()
    found = folder_warnings({"runs folder": tmp_path, "database": file, "its folder": again, "pipe": pipe})
    assert [line.split(" may ")[0] for line in found] == [f"runs folder {tmp_path}", f"database {file}"]
