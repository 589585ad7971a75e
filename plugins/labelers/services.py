"""What a service's HTTP status means: try again later, or stop, since no request can work."""

from __future__ import annotations

from dataclasses import dataclass

from glasshouse.plugins.labelers.keys import scrubbed, shortened
from glasshouse.plugins.labeling import RetryLater
from glasshouse.schema.errors import GlasshouseError, ModelError

_BUSY = (408, 409, 425, 429)
_KEPT = "Replies that have come are in the cache and are not paid for again."


@dataclass(frozen=True)
class Service:
    """A service as its errors speak of it.

    Attributes:
        name: of the service or its address.
        key_variables: where its key comes from, in words.
        key: taken out of what it says; None where it has none.
    """

    name: str
    key_variables: str
    key: str | None

    def error(self, status: int, said: str, wait_s: float | None = None, *, is_about_key: bool = False) -> Exception:
        """Return the error for a reply that is none.

        Args:
            status: of HTTP.
            said: the service's own words.
            wait_s: seconds that it asks to wait.
            is_about_key: its words say that the key is wrong, whatever the status.
        """
        words = f"HTTP {status}: {self.clean(said)}" if said.strip() else f"HTTP {status}"
        if is_about_key or status in (401, 403):
            return self._refusal(words)
        if status in _BUSY or status >= 500:
            return RetryLater(words, wait_s)
        return ModelError(f"{self.name} rejects the request ({words}). Check --model and --base-url. {_KEPT}")

    def clean(self, said: str) -> str:
        """Return the service's words as one short line without the key."""
        return shortened(scrubbed(said, [self.key or ""]))

    def _refusal(self, words: str) -> GlasshouseError:
        if self.key is None:
            return ModelError(f"{self.name} wants a key ({words}). Set {self.key_variables}. {_KEPT}")
        return ModelError(f"{self.name} refuses the key ({words}). Put a valid one into {self.key_variables}. {_KEPT}")
