"""Questions to a labeler in several threads: answers as they come, and an orderly end whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from glasshouse.plugins.labelers.calls import Calls

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def answers_of(
    questions: Sequence[Question], answer: Callable[[Question], Answer], calls: Calls, concurrency: int
) -> Iterator[tuple[Question, Answer]]:
    """Yield every question with its answer, in the order in which the answers come.

    When one fails, or on Ctrl-C, no further one is begun and nobody waits for a turn any more; requests that are under
    way are waited for, since they are paid: their replies go into the cache.

    Args:
        questions: any.
        answer: called in threads. What it raises is raised here, so it catches `Unanswered` itself: the questions that
            an error of another one stopped raise that, and may be done before it.
        calls: stopped at the end.
        concurrency: threads.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="glasshouse-label")
    try:
        pending: dict[Future[Answer], Question] = {}
        waiting = iter(questions)
        while True:
            while len(pending) < 2 * concurrency and (question := next(waiting, None)) is not None:
                pending[pool.submit(answer, question)] = question
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    finally:
        calls.stop()
        pool.shutdown(wait=True, cancel_futures=True)
