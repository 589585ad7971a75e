"""The hub of published weights: quick to say that it cannot be reached, and what to place where instead.

The libraries retry a hub that is not there for up to a minute, and each ends in errors of its own. Here one short
request finds out first; without an answer the libraries are told to look at their cache only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from glasshouse.schema.errors import GlasshouseError, ModelError

PATIENCE_SECONDS = 5.0
"""How long the hub may take for its first answer."""


def hub_is_reachable() -> bool:
    """Ask the hub once, with the user's proxy settings; false at once when $HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, get_session  # late: an eighth of a second

    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS, follow_redirects=False)
    except Exception:  # whatever the transport raises: names, refused, time-outs, certificates, proxies
        return False
    return True


@contextmanager
def hub_errors(what: str, place: str) -> Iterator[None]:
    """Load from the hub or its cache inside this context; failures end in one line.

    Args:
        what: what is being loaded, with its spec.
        place: what the user can do without a hub: which files to put where, and what to type then.

    Raises:
        ModelError: anything that the libraries raise, with `place` in its message.
    """
    reachable = hub_is_reachable()
    try:
        with _cache_only(not reachable):
            yield
    except GlasshouseError:
        raise
    except Exception as error:
        absent = not reachable and _is_for_want_of_the_hub(error)
        reason = "the hub cannot be reached and it is not in the cache" if absent else one_line(error)
        raise ModelError(f"{what} cannot be loaded: {reason}. {place}") from error


def _is_for_want_of_the_hub(error: BaseException) -> bool:
    """Whether a missing file in the cache, or a request that offline mode forbids, lies behind an error."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled  # late: an eighth of a second

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, cut to `limit` characters."""
    text = str(error).strip()
    line = text.splitlines()[0].rstrip(". ") if text else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


@contextmanager
def _cache_only(enabled: bool) -> Iterator[None]:
    """Put huggingface_hub, and with it every library built on it, into its offline mode."""
    from huggingface_hub import constants  # late: an eighth of a second

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = enabled or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
