"""Text towers of transformers: texts to embeddings, and the library itself, imported late and kept quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.hub import hub_errors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def text_embedder(model: Any, source: str, spec: str, padding: str) -> Callable[[Sequence[str]], torch.Tensor]:
    """Texts to embeddings; the tokenizer is loaded when a text first comes."""
    made: list[Any] = []

    def embed_texts(texts: Sequence[str]) -> Any:
        if not made:
            made.append(_tokenizer(source, spec))
        length = model.config.text_config.max_position_embeddings
        tokens = made[0](list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt")
        device = next(model.parameters()).device
        known = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask") if name in tokens}
        return model.get_text_features(**known).pooler_output

    return embed_texts


def _tokenizer(source: str, spec: str) -> Any:
    transformers = library()
    place = "Place the tokenizer's files (tokenizer.json, tokenizer_config.json) in the model's folder."
    with hub_errors(f"The tokenizer of {spec}", place), quiet(transformers):
        # Without its vocabulary transformers makes a tokenizer that knows no words, and says nothing.
        if not any(_has_file(transformers, source, name) for name in VOCABULARY_FILES):
            raise ModelError(f"{spec} has no tokenizer: none of {', '.join(VOCABULARY_FILES)} is there. {place}")
        return transformers.AutoTokenizer.from_pretrained(source)


def _has_file(transformers: Any, source: str, name: str) -> bool:
    """Whether a folder, the hub or its cache has a file."""
    try:
        return transformers.utils.cached_file(source, name) is not None
    except OSError:
        return False


def library() -> Any:
    """Import transformers."""
    # Late: they take seconds to import.
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import transformers

    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and reports of the library off the screen: what matters ends in an exception."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
