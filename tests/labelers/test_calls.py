"""Requests that cost something: paid once, counted, limited, repeated with patience."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from glasshouse.plugins.labelers.cache import ReplyCache
from glasshouse.plugins.labelers.calls import Calls, Patience, Reply
from glasshouse.plugins.labelers.pool import answers_of
from glasshouse.plugins.labeling import BadReply, OutOfCalls, RetryLater, Unanswered
from glasshouse.schema.errors import ModelError

QUICK = Patience(n_tries=4, pause_s=0.01)


def calls_in(folder: Path, **options: Any) -> Calls:
    return Calls(ReplyCache(folder / "cache"), **{"patience": QUICK, **options})


def as_is(text: str) -> str:
    if text.startswith("bad"):
        raise BadReply("it is bad", text)
    return text


def test_the_same_request_is_paid_once(tmp_path: Path) -> None:
    sent = []
    first = calls_in(tmp_path)

    def send() -> Reply:
        sent.append(1)
        return Reply("hello")

    assert first.ask({"a": 1, "b": 2}, send, as_is) == "hello"
    assert first.ask({"b": 2, "a": 1}, send, as_is) == "hello"
    later = calls_in(tmp_path)
    assert later.ask({"a": 1, "b": 2}, send, as_is) == "hello"
    assert len(sent) == 1 and (first.n_sent, first.n_cached, later.n_sent, later.n_cached) == (1, 1, 0, 1)
    assert later.ask({"a": 1, "b": 3}, send, as_is) == "hello" and len(sent) == 2


def test_the_same_request_at_the_same_time_is_paid_once(tmp_path: Path) -> None:
    sent = []

    def send() -> Reply:
        sent.append(1)
        time.sleep(0.1)
        return Reply("hello")

    calls = calls_in(tmp_path)
    found = dict(answers_of(range(6), lambda number: calls.ask({"always": "this"}, send, as_is), calls, 6))
    assert set(found.values()) == {"hello"} and len(sent) == 1


def test_a_bad_reply_is_kept_and_asked_again_only_when_wanted(tmp_path: Path) -> None:
    replies = iter([Reply("bad"), Reply("good"), Reply("never")])
    for again in (False, False, True, False):
        calls = calls_in(tmp_path, ask_again=again)
        try:
            answer = calls.ask({}, lambda: next(replies), as_is)
        except BadReply as error:
            answer = error.reply
        assert answer == ("good" if again or (calls.n_sent == 0 and answer != "bad") else "bad")
    assert next(replies).text == "never"
    assert calls_in(tmp_path, ask_again=True).ask({}, lambda: next(replies), as_is) == "good", "a good one is kept"


def test_retries_count_as_calls_and_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    sent = []

    def send() -> Reply:
        sent.append(1)
        raise RetryLater("busy")

    calls = calls_in(tmp_path, max_calls=3)
    with pytest.raises(OutOfCalls, match="--max-calls 3"):
        calls.ask({}, send, as_is)
    assert len(sent) == 3 == calls.n_sent


def test_giving_up(tmp_path: Path) -> None:
    """One question may stay open; three in a row without any reply end the run."""

    def fail() -> Reply:
        raise RetryLater("HTTP 500")

    calls = calls_in(tmp_path)
    for number in range(2):
        with pytest.raises(Unanswered, match="no reply after 4 tries: HTTP 500"):
            calls.ask({"n": number}, fail, as_is)
    assert calls.ask({"n": "good"}, lambda: Reply("yes"), as_is) == "yes"
    for number in range(2, 4):
        with pytest.raises(Unanswered):
            calls.ask({"n": number}, fail, as_is)
    with pytest.raises(ModelError, match="does not answer"):
        calls.ask({"n": 4}, fail, as_is)


def test_pauses_double_and_are_jittered_and_bounded() -> None:
    patience = Patience(pause_s=1.0, longest_pause_s=5.0)
    for n_failed, bound in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (9, 5.0)):
        pauses = [patience.pause(n_failed) for _ in range(200)]
        assert bound / 2 <= min(pauses) and max(pauses) <= bound and len(set(pauses)) > 100


def test_a_wait_that_is_asked_for_holds_everybody(tmp_path: Path) -> None:
    """One question hears of it and is given up; another one waits all the same."""
    sent: list[float] = []

    def send() -> Reply:
        sent.append(time.monotonic())
        if len(sent) == 1:
            raise RetryLater("busy", 0.4)
        return Reply("fine")

    calls = calls_in(tmp_path, patience=Patience(n_tries=1))
    with pytest.raises(Unanswered):
        calls.ask({"n": 1}, send, as_is)
    assert calls.ask({"n": 2}, send, as_is) == "fine"
    assert sent[1] - sent[0] >= 0.39


def test_too_long_a_wait_is_an_error(tmp_path: Path) -> None:
    def send() -> Reply:
        raise RetryLater("quota", 3600)

    with pytest.raises(ModelError, match="asks to wait 3600 seconds"):
        calls_in(tmp_path).ask({}, send, as_is)


def test_requests_per_minute(tmp_path: Path) -> None:
    calls = calls_in(tmp_path, requests_per_minute=600)
    started = time.monotonic()
    list(answers_of(range(6), lambda n: calls.ask({"n": n}, lambda: Reply("x"), as_is), calls, 6))
    assert 0.49 <= time.monotonic() - started < 10


def test_a_cache_that_cannot_be_written_or_read_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    calls = calls_in(tmp_path)
    assert calls.ask({}, lambda: Reply("x"), as_is) == "x"
    folder = tmp_path / "other"
    cache = ReplyCache(folder)
    cache.put("name", ("text", ""))
    for broken in (b"", b"[]", b'{"reply": 1', b"\xff\xfe"):
        (folder / "name.json").write_bytes(broken)
        assert cache.get("name") is None
    assert cache.get("unknown") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_read(tmp_path: Path) -> None:
    calls_in(tmp_path).ask({}, lambda: Reply("x"), as_is)
    (tmp_path / "cache").chmod(stat.S_IREAD | stat.S_IEXEC)
    calls = calls_in(tmp_path)
    assert calls.ask({}, lambda: Reply("y"), as_is) == "x"
    assert calls.ask({"new": 1}, lambda: Reply("y"), as_is) == "y"


def test_cache_files_hold_the_reply_and_nothing_of_the_request(tmp_path: Path) -> None:
    calls_in(tmp_path).ask({"picture": "QUJD"}, lambda: Reply("x", ""), as_is)
    (file,) = (tmp_path / "cache").iterdir()
    assert json.loads(file.read_text()) == {"reply": "x", "problem": ""} and len(file.stem) == 64


def test_an_error_stops_everybody_and_leaves_no_thread(tmp_path: Path) -> None:
    begun = Counter[int]()

    def send_of(number: int) -> Reply:
        begun[number] += 1
        if number == 2:
            raise ModelError("the key is wrong")
        time.sleep(0.02)
        return Reply("x")

    calls = calls_in(tmp_path)

    def answer(number: int) -> str:
        try:
            return calls.ask({"n": number}, lambda: send_of(number), as_is)
        except Unanswered as error:
            return error.reason

    with pytest.raises(ModelError, match="the key is wrong"):
        list(answers_of(range(500), answer, calls, 4))
    assert sum(begun.values()) < 20
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("glasshouse-label")] == []


def test_whatever_a_client_raises_is_scrubbed_and_has_no_cause(tmp_path: Path) -> None:
    def send() -> Reply:
        try:
            raise KeyError("sk-secret-123")
        except KeyError as error:
            raise ValueError("sent sk-secret-123") from error

    calls = calls_in(tmp_path)
    calls.hide(["sk-secret-123", None])
    with pytest.raises(ModelError) as caught:
        calls.ask({}, send, as_is)
    assert "sk-secret" not in str(caught.value) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__
