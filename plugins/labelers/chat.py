"""Labelers that show pictures to a model and read its reply: what they share whatever the model is.

A `Chat` turns texts and pictures into one request and sends it; everything else, the question, the cache, the reading
of the reply, is here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from glasshouse.plugins.labelers.calls import Calls, Reply
from glasshouse.plugins.labelers.prompts import LABEL_SCHEMA, YES_NO_SCHEMA, yes_no_prompt
from glasshouse.plugins.labelers.replies import read_answers, read_label
from glasshouse.plugins.labeling import BadReply, FeatureLabel, FeatureQuestion, LabelerOptions

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE = 512
"""Pixels of the longer side of a picture that is sent; larger ones cost more and show a feature no better."""
SHORTEST_LONG_SIDE = 224
"""Pixels to which the longer side of a tiny picture is enlarged: models read little from a thumbnail."""
PICTURES_PER_QUESTION = 5
"""Pictures in one question of yes or no."""

Part = str | bytes
"""Of a message: a text, or a picture as JPEG."""


class Chat(Protocol):
    """One model behind one interface."""

    @property
    def model(self) -> str:
        """Its name at the provider."""

    def request(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request, as JSON: all that the reply depends on, and no secret."""

    def send(self, request: Mapping[str, Any]) -> Reply:
        """Send it once.

        Raises:
            RetryLater: it may work later.
            ModelError: no request can work (a wrong key, an unknown model).
        """


@dataclass(frozen=True)
class ChatLabeler:
    """Names features by showing their pictures to a model."""

    chat: Chat
    calls: Calls

    @property
    def model(self) -> str:
        """The model's name."""
        return self.chat.model

    def label(self, question: FeatureQuestion) -> FeatureLabel:
        """Name one feature; as the contract says."""
        parts: list[Part] = [question.prompt]
        for example in question.examples:
            pictures = [example.picture] if example.overlay is None else [example.picture, example.overlay]
            parts += map(jpeg_bytes, pictures)
        label: FeatureLabel = self._ask(parts, LABEL_SCHEMA, read_label)
        return label

    def ask_yes_no(self, text: str, pictures: Sequence[Image.Image]) -> Sequence[bool | None]:
        """Say of each picture whether `text` is true of it; None for those of a reply that could not be read."""
        answers: list[bool | None] = []
        for start in range(0, len(pictures), PICTURES_PER_QUESTION):
            shown = pictures[start : start + PICTURES_PER_QUESTION]
            parts: list[Part] = [yes_no_prompt(text, shown)]
            for number, picture in enumerate(shown, start=1):
                parts += [f"Picture {number}:", jpeg_bytes(picture)]
            try:
                answers += self._ask(parts, YES_NO_SCHEMA, partial(read_answers, n=len(shown)))
            except BadReply:
                answers += [None] * len(shown)
        return answers

    def _ask(self, parts: Sequence[Part], schema: Mapping[str, Any], read: Any) -> Any:
        request = self.chat.request(parts, schema)
        return self.calls.ask(request, partial(self.chat.send, request), read)


def jpeg_bytes(picture: Image.Image) -> bytes:
    """Return a picture as it is sent: RGB, its longer side within the bounds above, JPEG."""
    from PIL import Image  # late: plugins are imported by every command

    longest = max(picture.size)
    scale = min(LONGEST_SIDE / longest, max(1.0, SHORTEST_LONG_SIDE / longest))
    if scale != 1.0:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def base64_text(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def calls_of(options: LabelerOptions) -> Calls:
    """Return the machinery for calls that the run has handed over."""
    if options.calls is None:
        raise TypeError("A labeler that calls a model is loaded with LabelerOptions.calls set.")
    return options.calls


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    import email.utils  # late: with the plugins it would slow every command
    from datetime import UTC, datetime

    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a zone
            return None
    return max(seconds, 0.0) if seconds == seconds else None  # "nan" is a float too
