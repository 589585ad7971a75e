"""Downloads from a real server on this machine that is busy, broken, slow or lacks the file."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glasshouse.schema.errors import SourceError, WarehouseError
from glasshouse.warehouse.intake.download import Downloader, DownloadError, Patience, sweep, write_whole

QUICK = Patience(n_tries=3, timeout_s=5.0, pause_s=0.01, longest_pause_s=2.0)


class Server:
    """Serves `/ok/N` pictures; `/429`, `/500` fail once, `/down` always, `/hang` never answers in time."""

    def __init__(self, picture: Callable[[int], bytes]) -> None:
        self.picture = picture
        self.requests: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.n_open = self.n_open_most = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.glasshouse = self  # type: ignore[attr-defined]
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}{path}"

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path; see `Server`."""

    def do_GET(self) -> None:
        state: Server = self.server.glasshouse  # type: ignore[attr-defined]
        with state.lock:
            state.requests[self.path] += 1
            state.times.setdefault(self.path, []).append(time.monotonic())
            state.n_open += 1
            state.n_open_most = max(state.n_open_most, state.n_open)
        try:
            self.answer(state, state.requests[self.path])
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with state.lock:
                state.n_open -= 1

    def answer(self, state: Server, n_asked: int) -> None:
        _, kind, *rest = self.path.partition("?")[0].split("/")
        if kind == "hang":
            state.released.wait(20)
        statuses = {"429": 429, "500": 500} if n_asked == 1 else {}
        status = {"down": 503, "gone": 404, "forbidden": 403, **statuses}.get(kind, 200)
        time.sleep(0.05 if kind == "slow" else 0)
        body = state.picture(int(rest[0])) if status == 200 and rest else b""
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(png: Callable[..., bytes]) -> Iterator[Server]:
    running = Server(png)
    yield running
    running.stop()


def test_a_busy_server_is_given_the_time_it_asks_for(server: Server, tmp_path: Path, png: Callable[..., bytes]) -> None:
    file, data = Downloader(tmp_path, QUICK).fetch(server.url("/429/1"))
    first, second = server.times["/429/1"]
    assert data == png(1) == file.read_bytes()
    assert second - first >= 1.0


def test_a_server_error_passes(server: Server, tmp_path: Path, png: Callable[..., bytes]) -> None:
    assert Downloader(tmp_path, QUICK).fetch(server.url("/500/2"))[1] == png(2)
    assert server.requests["/500/2"] == 2


def test_what_does_not_pass_is_given_up_after_the_last_try(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"the server answered 503 .*3 times"):
        Downloader(tmp_path, QUICK).fetch(server.url("/down"))
    assert server.requests["/down"] == 3


@pytest.mark.parametrize(("path", "reason"), [("/gone", "404"), ("/forbidden", "403")])
def test_a_refusal_is_final_at_once(server: Server, tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(DownloadError, match=f"the server answered {reason}"):
        Downloader(tmp_path, QUICK).fetch(server.url(path))
    assert server.requests[path] == 1


def test_a_server_that_hangs_is_timed_out(server: Server, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DownloadError, match="did not answer in time, 2 times"):
        Downloader(tmp_path, Patience(2, 0.3, 0.01)).fetch(server.url("/hang"))
    assert time.monotonic() - began < 5 and server.requests["/hang"] == 2


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*3 times"):
        Downloader(tmp_path, QUICK).fetch("http://127.0.0.1:9/x.png")


def test_what_is_cached_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    first = Downloader(tmp_path, QUICK).fetch(server.url("/ok/3"))
    assert Downloader(tmp_path, QUICK).fetch(server.url("/ok/3")) == first
    assert server.requests["/ok/3"] == 1
    assert [file.name for file in tmp_path.iterdir()] == [first[0].name]


@pytest.mark.parametrize("url", ["nosuch://host/x.png", "s3://bucket/x.png"])
def test_a_protocol_that_lacks_its_package_says_which(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"s3fs|protocol 'nosuch' is unknown"):
        Downloader(tmp_path).prepare(url)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(WarehouseError, match="Could not write"):
        write_whole(tmp_path / "file", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    import os

    for name in (".abc.1.999999999.part", f".abc.1.{os.getpid()}.part", "abc"):
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f".abc.1.{os.getpid()}.part", "abc"]


def test_a_table_of_urls_is_added(
    server: Server, tmp_path: Path, warehouse: Path, run_add: Callable[..., Any], query: Callable[..., list[Any]]
) -> None:
    paths = ["/ok/1", "/429/2", "/gone", "/500/3", "/ok/1?again", *[f"/slow/{n}" for n in range(4, 24)]]
    urls = [server.url(path) for path in paths]
    (tmp_path / "urls.csv").write_text("url\n" + "\n".join(urls) + "\n")
    report = run_add(tmp_path / "urls.csv", patience=QUICK)
    assert (report.n_new_images, report.n_duplicate_pictures, report.n_failed) == (23, 1, 1)
    assert query("SELECT path FROM image_paths ORDER BY image_id, path") == sorted(
        (url for url in urls if "gone" not in url), key=lambda url: (urls.index(url.replace("?again", "")), url)
    )
    assert query("SELECT path, reason FROM failures") == [(urls[2], "the server answered 404 (not found)")]
    assert all((warehouse / cached).is_file() for cached in query("SELECT cached FROM image_paths"))
    assert 1 < server.n_open_most <= 8
    n_requests = server.requests.total()
    again = run_add(tmp_path / "urls.csv", patience=QUICK)
    assert again.n_known == 24 and server.requests.total() == n_requests + 1  # the one that is gone


def test_an_error_page_is_asked_for_again(
    server: Server, tmp_path: Path, warehouse: Path, run_add: Callable[..., Any], query: Callable[..., list[Any]]
) -> None:
    (tmp_path / "urls.csv").write_text(f"url\n{server.url('/ok/1')}\n")
    picture, server.picture = server.picture, lambda number: b"<html>please wait</html>"
    assert run_add(tmp_path / "urls.csv", patience=QUICK).n_failed == 1
    assert "it starts with the text '<html>" in query("SELECT reason FROM failures")[0]
    server.picture = picture
    assert run_add(tmp_path / "urls.csv", patience=QUICK).is_clean


def test_a_table_can_lie_behind_a_url(
    server: Server,
    tmp_path: Path,
    run_add: Callable[..., Any],
    query: Callable[..., list[Any]],
    png: Callable[..., bytes],
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    server.picture = lambda number: f"image,beauty\n{number}.png,4\n".encode()
    run_add(tmp_path / "1.png", ratings=[server.url("/ok/1/r.csv")])
    assert query("SELECT image_id, dimension, value FROM ratings") == [(0, "beauty", 4.0)]
    with pytest.raises(SourceError, match="404"):
        run_add(ratings=[server.url("/gone/r.csv")])
