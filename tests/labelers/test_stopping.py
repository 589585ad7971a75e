"""A run that is killed or stopped, and the same command again: nothing is stored half, nothing is paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command

from .conftest import GOOD, KEY, Answer, Seen, Service, openai_body

N_FEATURES = 12
N_BEFORE = 5


def start(root: Path, service: Service, *words: str) -> subprocess.Popen[str]:
    line = ["analyze", "labels", "--space", "s", "--labeler", "openai", "--model", "m", "--n", str(N_FEATURES)]
    address = ["--base-url", service.address + "/v1", "-w", str(root)]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    return subprocess.Popen(
        [*command(), *line, *address, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def asked(service: Service) -> Counter[str]:
    return Counter(json.dumps(seen.body, sort_keys=True) for seen in service.seen)


def finish(root: Path, service: Service, *words: str) -> str:
    running = start(root, service, *words)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    return out


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_nothing_is_paid_twice_after_a_kill(labelled: Any, service: Service, concurrency: str) -> None:
    """Requests under way at the kill were never answered; they alone are sent again."""

    def stalling(number: int, seen: Seen) -> Answer:
        return Answer(body=openai_body(json.dumps(GOOD)), delay_s=60.0 if number >= N_BEFORE else 0.0)

    service.script = stalling
    running = start(labelled.root, service, "--concurrency", concurrency)
    cache = labelled.root / "cache" / "labels"
    n_under_way = int(concurrency)
    wait_for(lambda: len(service.seen) == N_BEFORE + n_under_way and len(list(cache.glob("*.json"))) == N_BEFORE)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert labelled.runs() == [] and list(cache.glob(".*")) == []
    service.script = lambda number, seen: Answer(body=openai_body(json.dumps(GOOD)))
    out = finish(labelled.root, service, "--concurrency", concurrency)
    assert f"{N_FEATURES} labels" in out
    times = asked(service)
    assert len(times) == N_FEATURES and sum(times.values()) == N_FEATURES + n_under_way
    notes = labelled.runs()[-1].notes
    assert notes["n_from_cache"] == N_BEFORE and notes["n_calls"] == N_FEATURES - N_BEFORE


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_under_way_and_stores_no_result(labelled: Any, service: Service) -> None:
    def slow(number: int, seen: Seen) -> Answer:
        return Answer(body=openai_body(json.dumps(GOOD)), delay_s=0.7 if number >= N_BEFORE else 0.0)

    service.script = slow
    running = start(labelled.root, service, "--concurrency", "2")
    wait_for(lambda: len(service.seen) == N_BEFORE + 2)
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode not in (0, None) and "Traceback" not in err and time.monotonic() - started < 20
    assert labelled.runs() == []
    n_sent = len(service.seen)
    assert n_sent <= N_BEFORE + 4 and len(list((labelled.root / "cache" / "labels").glob("*.json"))) == n_sent
    finish(labelled.root, service)
    assert set(asked(service).values()) == {1} and len(service.seen) == N_FEATURES


def test_max_calls_stops_before_the_limit_and_the_same_command_goes_on(labelled: Any, service: Service) -> None:
    first = finish(labelled.root, service, "--max-calls", "5", "--concurrency", "3")
    assert "5 labels" in first and len(service.seen) == 5
    notes = labelled.runs()[-1].notes
    assert notes["n_unlabelled"] == N_FEATURES - 5 and "--max-calls 5" in notes["unlabelled_because"][0]
    assert "the same command goes on" in first
    finish(labelled.root, service, "--max-calls", "5", "--concurrency", "3")
    assert len(service.seen) == 10
    finish(labelled.root, service)
    assert "nothing to do" in finish(labelled.root, service)
    assert len(service.seen) == N_FEATURES and set(asked(service).values()) == {1}
    assert labelled.sql("SELECT count(*) AS n FROM labels WHERE label IS NOT NULL")["n"][0] == N_FEATURES


def test_dry_run_shows_the_prompt_and_counts_calls(labelled: Any, service: Service) -> None:
    out = finish(labelled.root, service, "--dry-run")
    assert "12 features, chosen by activity" in out and "12 calls" in out and "Name what these pictures" in out
    assert service.seen == [] and labelled.runs() == [] and KEY not in out
    finish(labelled.root, service, "--features", "3", "--features", "5")
    again = finish(labelled.root, service, "--dry-run", "--max-calls", "4")
    assert "10 calls (--max-calls allows 4), 2 answers from the cache" in again
    assert len(service.seen) == 2


def test_no_more_under_way_than_allowed(labelled: Any, service: Service) -> None:
    service.script = lambda number, seen: Answer(body=openai_body(json.dumps(GOOD)), delay_s=0.1)
    finish(labelled.root, service, "--concurrency", "3")
    assert service.most_under_way == 3
