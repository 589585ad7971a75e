"""Which image embedding scores a space: one that another encoder made, unless the caller insists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasshouse.schema.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

Record = dict[str, Any]
"""A row of `embeddings`."""


def candidates(view: AnalysisView, *, circular: bool) -> list[str]:
    """Return the embeddings that can score the space, the best first.

    Those of the space's own encoder when `circular`, else the others. Of several the first is that whose encoder is
    known, has most images, is loaded by another library than the space's (most likely another model altogether), and
    comes first in the alphabet.
    """
    space = view.record
    fitting = [record for record in view.embedding_records() if is_own(space, record) == circular]

    def place(record: Record) -> tuple[bool, int, bool, str]:
        return (
            record["encoder_fingerprint"] is None,
            -record["n_images"],
            _library(record["encoder_spec"]) == _library(space["encoder_spec"]),
            record["name"],
        )

    return [str(record["name"]) for record in sorted(fitting, key=place)]


def is_own(space: Record, embedding: Record) -> bool:
    """Say whether an embedding was made by the encoder of a space; never where either was imported."""
    own = space["encoder_fingerprint"]
    return own is not None and own == embedding["encoder_fingerprint"]


def checked(view: AnalysisView, name: str, *, circular: bool) -> str:
    """Return the name of an embedding if it may score the space.

    Raises:
        UsageError: there is none of this name, or the space's own encoder made it and `circular` is off.
    """
    records = {str(record["name"]): record for record in view.embedding_records()}
    if name not in records:
        raise unknown_name("embedding", name, records, "Make one with `glasshouse embed`.")
    if is_own(view.record, records[name]) and not circular:
        others = candidates(view, circular=False)
        instead = f"Use {' or '.join(others)}" if others else _make_one(view.record)
        raise UsageError(
            f"The embedding '{name}' comes from the encoder of the space '{view.space}' itself "
            f"({view.record['encoder_spec']}): the score would be circular. {instead}, or insist with --circular."
        )
    return name


def chosen(view: AnalysisView, *, circular: bool) -> str:
    """Return the best embedding for the space where none is named.

    Raises:
        UsageError: there is none; says how to make one.
    """
    fitting = candidates(view, circular=circular)
    if fitting:
        return fitting[0]
    own = view.record["encoder_spec"]
    if circular:
        raise UsageError(
            f"There is no embedding from the encoder of the space '{view.space}' ({own or 'none: it was imported'}). "
            + (f"Make one with `glasshouse embed --encoder {own}`." if own else "Leave --circular out.")
        )
    why = f" by another encoder than that of '{view.space}' ({own})" if own else ""
    raise UsageError(f"There is no image embedding{why}. {_make_one(view.record)}.")


def _make_one(space: Record) -> str:
    # A suggestion that is not the encoder itself: starter models for starter spaces, which need no download.
    spec = "starter:dinov2" if space["encoder_spec"] == "starter:clip" else "hf:facebook/dinov2-small"
    spec = "open_clip:ViT-B-32/datacomp_xl_s13b_b90k" if space["encoder_spec"] == spec else spec
    return f"Make one, e.g. with `glasshouse embed --encoder {spec}`"


def _library(spec: str | None) -> str:
    return (spec or "").partition(":")[0]
