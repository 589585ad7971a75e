"""The contract of labelers: what they are shown of a feature and what they answer. Plain data, light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from glasshouse.plugins.labelers.calls import Calls
    from glasshouse.plugins.view import AnalysisView


@dataclass(frozen=True)
class LabelerOptions:
    """What `glasshouse analyze labels` was told about the labeler.

    Attributes:
        view: of the space that is labelled; the vocabulary labeler reads concept vectors and text embeddings from it.
        calls: through which every request goes that costs something: cached, limited, retried. None while options
            are only resolved.
        model: name of the model at the provider, or None for the labeler's default.
        base_url: of a compatible endpoint, or None for the provider's own.
        device: `cpu` or `cuda`, for local models.
        vocabulary: a file of words, or None for the words that ship with glasshouse.
        templates: texts with `{}` for a word, into which words are put before they are compared.
        timeout_s: seconds until a request counts as failed.
        model_option: with which the user names the model, for messages.
    """

    view: AnalysisView
    calls: Calls | None = None
    model: str | None = None
    base_url: str | None = None
    device: str = "cpu"
    vocabulary: str | None = None
    templates: Sequence[str] = ()
    timeout_s: float = 60.0
    model_option: str = "--model"


@dataclass(frozen=True)
class FeatureExample:
    """One of a feature's strongest images. `overlay` is the same picture under its heat map (patch spaces only)."""

    image_id: int
    value: float
    picture: Image.Image
    overlay: Image.Image | None = None


@dataclass(frozen=True)
class FeatureQuestion:
    """What a labeler is asked about: a feature, its strongest images, the instruction, and what is known beside.

    Attributes:
        feature_id: of the feature.
        prompt: the whole instruction as text.
        examples: strongest first; empty for labelers that see no pictures.
        dimension: the rating that the feature is most correlated with, or None.
        r: that correlation.
    """

    feature_id: int
    prompt: str
    examples: Sequence[FeatureExample] = ()
    dimension: str | None = None
    r: float | None = None


@dataclass(frozen=True)
class FeatureLabel:
    """A labeler's answer.

    Attributes:
        label: 2 to 5 words.
        description: a sentence or two.
        visual_elements: what is seen in most of the examples.
        rating_effect: why it might move the rating; '' where none was asked about.
        confidence: 0..1, or None where the labeler has none.
    """

    label: str
    description: str = ""
    visual_elements: Sequence[str] = field(default_factory=tuple)
    rating_effect: str = ""
    confidence: float | None = None


class Labeler(Protocol):
    """Names features. Several threads may call it at once."""

    @property
    def model(self) -> str:
        """The model that answers, as it is recorded with each label."""

    def label(self, question: FeatureQuestion) -> FeatureLabel:
        """Name one feature.

        Raises:
            BadReply: the reply is no valid label.
            Unanswered: there is no reply: the budget of calls is used up, or the service kept failing.
        """

    def ask_yes_no(self, text: str, pictures: Sequence[Image.Image]) -> Sequence[bool | None]:
        """Say of each picture whether `text` is true of it; None where the reply could not be read.

        Raises:
            Unanswered: as `label`.
            UsageError: this labeler cannot judge pictures.
        """


class BadReply(Exception):
    """A labeler's reply that is no valid label; kept as a failure together with its text. Not an error of the run."""

    def __init__(self, reason: str, reply: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class RetryLater(Exception):
    """The service cannot answer now (429, 5xx, a timeout, no connection). `wait_s` is what it asked for, or None."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Unanswered(Exception):
    """A question to which there is no reply, and the reason; the others go on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OutOfCalls(Unanswered):
    """The budget of calls is used up; what is left stays unlabelled."""
