"""A service on a port of this machine that answers as the Gemini and the OpenAI API do, and a warehouse to label."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TOY_PLUGIN, write_pictures

GOOD = {
    "label": "Noisy coloured squares",
    "description": "Squares of random colours.",
    "visual_elements": ["noise", "many colours"],
    "rating_effect": "",
    "confidence": 0.8,
}
KEY = "sk-live-7f3a9c21d5e84b60"
"""The secret of these tests. It must turn up nowhere but in the headers of requests."""


class Answer(NamedTuple):
    """What the service does with one request."""

    status: int = 200
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    hang_up: bool = False


class Seen(NamedTuple):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


class Service:
    """An HTTP server; `script` says what it answers: from the number of the request and its body."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.script: Callable[[int, Seen], Answer] = lambda number, seen: Answer(body=openai_body(json.dumps(GOOD)))
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                service._answer(self, data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        with self._lock:
            seen = Seen(handler.path, dict(handler.headers), json.loads(data), time.monotonic())
            number = len(self.seen)
            self.seen.append(seen)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.script(number, seen)
            time.sleep(answer.delay_s)
            if answer.hang_up:
                handler.close_connection = True
                return
            body = answer.body.encode()
            handler.send_response(answer.status)
            for name, value in (("Content-Type", "application/json"), *answer.headers):
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client did not wait
        finally:
            with self._lock:
                self.under_way -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def openai_body(content: str | None, reason: str = "stop", **message: Any) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return json.dumps({"id": "c-1", "object": "chat.completion", "model": "m", "choices": [choice]})


def gemini_body(text: str | None, reason: str = "STOP") -> str:
    parts = [] if text is None else [{"text": text}]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}
    return json.dumps({"candidates": [candidate], "usageMetadata": {"totalTokenCount": 9}, "modelVersion": "m"})


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 30 pictures and a warehouse of them, with two small spaces of neurons."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    folder = tmp_path_factory.mktemp("labelled")
    write_pictures(folder / "pictures", 30)
    made = Warehouse.create(folder / "w.glasshouse", Plugins([TOY_PLUGIN], external=False))
    made.add([folder / "pictures"])
    hook = "blocks.0.resid_post"
    made.extract("toy:0", [("s", hook, "cls", "neurons"), ("p", hook, "patches", "neurons")], embedding="e")
    made.close()
    return folder


@pytest.fixture
def labelled(template: Path, tmp_path: Path, plugins: Any) -> Iterator[Any]:
    """Return a warehouse with 30 pictures and two small spaces of neurons: `s` of CLS, `p` of patches."""
    from glasshouse.warehouse.warehouse import Warehouse

    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    opened = Warehouse(tmp_path / "w.glasshouse", plugins)
    yield opened
    opened.close()
