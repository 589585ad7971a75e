"""Requests to services that cost something: never paid twice, never too many at once, patient with busy servers.

Every reply is written to the warehouse's cache before it is read, under the SHA-256 of the whole request, so that a run
that was stopped pays for nothing again. Replies that were no valid answer are kept too; they are asked for again only
when that is wanted.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from glasshouse.plugins.labelers.cache import ReplyCache
from glasshouse.plugins.labelers.keys import scrubbed, shortened, without_keys
from glasshouse.plugins.labeling import BadReply, OutOfCalls, RetryLater, Unanswered
from glasshouse.schema.errors import GlasshouseError, ModelError

Answer = TypeVar("Answer")


class Reply(NamedTuple):
    """What a service replied: its text, and why it is no answer ('' where it may be one: blocked, cut off, …)."""

    text: str
    problem: str = ""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        n_tries: requests for one question, at most.
        pause_s: seconds before the second; they double from there, less up to half of it by chance.
        longest_pause_s: bound of such a pause.
        longest_wait_s: a service that asks to wait longer than this is not waited for.
        n_given_up: the run ends when so many questions in a row stay without a reply.
    """

    n_tries: int = 5
    pause_s: float = 1.0
    longest_pause_s: float = 60.0
    longest_wait_s: float = 300.0
    n_given_up: int = 3

    def pause(self, n_failed: int) -> float:
        """Seconds to wait after so many failures of one question; by chance, so that threads do not come together.

        Without a seed: no figure depends on it.
        """
        bound = min(self.pause_s * 2 ** (n_failed - 1), self.longest_pause_s)
        return float(bound * random.uniform(0.5, 1.0))


class Calls:
    """The requests of one run; used by several threads at once.

    Args:
        cache: of replies.
        max_calls: requests that may be sent, repeated ones included; None for any number.
        requests_per_minute: at most; None for any number.
        patience: with a service that is busy or broken.
        ask_again: send a request anew whose earlier reply was no valid answer.

    Attributes:
        n_sent: requests that went out.
        n_cached: questions answered from the cache.
    """

    def __init__(
        self,
        cache: ReplyCache,
        *,
        max_calls: int | None = None,
        requests_per_minute: float | None = None,
        patience: Patience | None = None,
        ask_again: bool = False,
    ) -> None:
        self.n_sent = 0
        self.n_cached = 0
        self._cache = cache
        self._max_calls = max_calls
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._patience = patience or Patience()
        self._ask_again = ask_again
        self._keys: set[str] = set()
        self._lock = threading.Lock()
        self._same: dict[str, threading.Lock] = {}
        self._next_at = 0.0
        self._n_given_up = 0
        self._stopped = threading.Event()

    def hide(self, keys: Iterable[str | None]) -> None:
        """Name secrets; they are taken out of every reply and error before it is kept or shown."""
        self._keys.update(key for key in keys if key)

    def scrub(self, text: str) -> str:
        """Return an error's text without secrets."""
        return scrubbed(text, self._keys)

    def stop(self) -> None:
        """Wake everybody who waits; nothing is sent any more."""
        self._stopped.set()

    def ask(self, request: Mapping[str, Any], send: Callable[[], Reply], read: Callable[[str], Answer]) -> Answer:
        """Return the answer to a request, from the cache or from the service.

        Args:
            request: all that the reply depends on, as JSON: address, model, texts, pictures. No secrets.
            send: sends it once and returns the reply. It raises RetryLater when that may work later, and an error of
                the family when no request can work (a wrong key, an unknown model).
            read: the reply's text as an answer; raises BadReply when it is none.

        Raises:
            BadReply: the reply is no answer.
            OutOfCalls: it would take one request more than is allowed.
            Unanswered: no reply after every try.
            ModelError: the service answers nobody, or asks for too long a wait.
        """
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        name = hashlib.sha256(canonical.encode()).hexdigest()
        with self._lock:
            same = self._same.setdefault(name, threading.Lock())
        with same:  # two questions can come to the same request: the second then finds the reply of the first
            known = self._cache.get(name)
            if known is not None:
                try:
                    answer = self._read(Reply(*known), read)
                except BadReply:
                    if not self._ask_again:
                        self._count_cached()
                        raise
                else:
                    self._count_cached()
                    return answer
            return self._read(self._fetch(name, send), read)

    def _count_cached(self) -> None:
        with self._lock:
            self.n_cached += 1

    def _read(self, reply: Reply, read: Callable[[str], Answer]) -> Answer:
        if reply.problem:
            raise BadReply(reply.problem, reply.text)
        return read(reply.text)

    def _fetch(self, name: str, send: Callable[[], Reply]) -> Reply:
        """Send until there is a reply; put it into the cache."""
        reason = ""
        for n_failed in range(self._patience.n_tries):
            if n_failed:
                self._wait(self._patience.pause(n_failed))
            self._take_turn()
            try:
                reply = self._send_once(send)
            except RetryLater as error:
                reason = error.reason
                self._hold(error.wait_s, reason)
                continue
            self._cache.put(name, reply)
            with self._lock:
                self._n_given_up = 0
            return reply
        raise self._given_up(reason)

    def _send_once(self, send: Callable[[], Reply]) -> Reply:
        """Send a request; whatever comes back, a reply or an error, holds no secret any more.

        Errors are raised anew without their cause, since a traceback would show its text.
        """
        try:
            reply = send()
        except RetryLater as error:
            reason, wait_s = self.scrub(error.reason), error.wait_s
        except GlasshouseError as error:
            self.stop()  # no request can work: nobody else shall try
            raise type(error)(self.scrub(str(error))) from None
        except Exception as error:
            self.stop()
            words = shortened(self.scrub(str(error)))
            raise ModelError(f"The request failed: {type(error).__name__}: {words}") from None
        else:
            return Reply(without_keys(reply.text, self._keys), self.scrub(reply.problem))
        raise RetryLater(reason, wait_s)

    def _take_turn(self) -> None:
        """Wait for the next moment at which a request may go out, and count it."""
        while True:
            with self._lock:
                now = time.monotonic()
                delay_s = self._next_at - now
                if delay_s <= 0 and not self._stopped.is_set():
                    if self._max_calls is not None and self.n_sent >= self._max_calls:
                        raise OutOfCalls(f"--max-calls {self._max_calls} is used up")
                    self.n_sent += 1
                    self._next_at = now + self._gap_s
                    return
            self._wait(delay_s)

    def _hold(self, wait_s: float | None, reason: str) -> None:
        """Let nobody send before the time that a service has asked for."""
        if wait_s is None:
            return
        if wait_s > self._patience.longest_wait_s:
            raise ModelError(
                f"The service asks to wait {wait_s:.0f} seconds ({reason}). Run the same command again then; replies "
                "that have come are in the cache and are not paid for again."
            )
        with self._lock:
            self._next_at = max(self._next_at, time.monotonic() + wait_s)

    def _given_up(self, reason: str) -> Exception:
        words = f"no reply after {self._patience.n_tries} tries: {reason}"
        with self._lock:
            self._n_given_up += 1
            is_down = self._n_given_up >= self._patience.n_given_up
        if is_down:
            return ModelError(
                f"The service does not answer ({words}). Run the same command again later; replies that have come are "
                "in the cache and are not paid for again."
            )
        return Unanswered(words)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.0)):
            raise Unanswered("the run was stopped")
