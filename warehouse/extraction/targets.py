"""What an extraction is to produce: spaces and embeddings of one encoder, checked against it and the catalogue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glasshouse.schema.errors import ModelError, UsageError, unknown_name
from glasshouse.warehouse.contracts import (
    TOKEN_POLICIES,
    Encoder,
    FramedEncoder,
    HookPoint,
    NotedSae,
    SparseAutoencoder,
    TokenPolicy,
)
from glasshouse.warehouse.quoting import check_name
from glasshouse.warehouse.showing.framing import framing_of

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class SpaceRequest:
    """One space as the user asks for it, with its SAE loaded.

    `keep` is how many of its strongest images are kept of each feature; None keeps every activation.
    """

    name: str
    hook: str
    tokens: TokenPolicy
    sae: SparseAutoencoder
    keep: int | None = None


@dataclass(frozen=True)
class SpaceTarget:
    """A space that fits its encoder.

    `fingerprint` covers encoder, hook, token policy and SAE: equal fingerprints mean comparable activations.
    """

    name: str
    point: HookPoint
    tokens: TokenPolicy
    sae: SparseAutoencoder
    fingerprint: str
    n_features: int
    keep: int | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the token map; None for spaces with one vector per image."""
        return self.point.grid if self.tokens == "patches" else None


@dataclass(frozen=True)
class EmbeddingTarget:
    """An image embedding; its fingerprint is the encoder's."""

    name: str
    fingerprint: str
    width: int


Target = SpaceTarget | EmbeddingTarget


def kind_of(target: Target) -> str:
    """Say what a target is, as it names folders, locks and messages: `space` or `embedding`."""
    return "space" if isinstance(target, SpaceTarget) else "embedding"


def resolve_space(request: SpaceRequest, encoder: Encoder) -> SpaceTarget:
    """Check a request against the encoder.

    Raises:
        UsageError: unknown hook or token policy, a policy that the hook cannot serve, or nothing is to be kept.
        ModelError: the SAE's width does not fit the hook.
    """
    check_name("a space", request.name)
    if request.keep is not None and request.keep < 1:
        raise UsageError(f"keep must be at least 1 image of each feature, not {request.keep}.")
    points = {point.name: point for point in encoder.hook_points()}
    if request.hook not in points:
        raise unknown_name("hook point", request.hook, points, f"The encoder is {encoder.spec}.")
    point = points[request.hook]
    _check_tokens(request, point, encoder)
    width = request.sae.width
    if width is not None and width != point.width:
        raise ModelError(
            f"The SAE {request.sae.spec} takes vectors of width {width}, but {request.hook} of {encoder.spec} gives "
            f"{point.width}. Choose the hook and the encoder that it was trained on."
        )
    parts = [encoder.fingerprint, request.hook, request.tokens, request.sae.fingerprint]
    return SpaceTarget(
        name=request.name,
        point=point,
        tokens=request.tokens,
        sae=request.sae,
        fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        n_features=request.sae.n_features(point.width),
        keep=request.keep,
    )


def _check_tokens(request: SpaceRequest, point: HookPoint, encoder: Encoder) -> None:
    if request.tokens not in TOKEN_POLICIES:
        raise unknown_name("token policy", request.tokens, TOKEN_POLICIES)
    if request.tokens == "cls" and point.n_prefix == 0:
        raise UsageError(f"{request.hook} of {encoder.spec} has no CLS token. Use --tokens patches, mean, max or sum.")
    if request.tokens != "cls" and point.grid is None:
        raise UsageError(f"{request.hook} of {encoder.spec} has no patch tokens. Use --tokens cls.")


def mismatch(target: Target) -> str | None:
    """Say in one sentence where a space reads other activations than its SAE was trained on; None where it does not."""
    if not isinstance(target, SpaceTarget):
        return None
    words = trained_elsewhere(target.sae, target.point.name, target.tokens)
    return None if words is None else f"space '{target.name}': {words}"


def trained_elsewhere(sae: SparseAutoencoder, hook: str, tokens: str) -> str | None:
    """Say in one sentence that an SAE was trained on another hook point or other tokens; None where it was not."""
    asked = {"hook": hook, "tokens": tokens}
    trained = {"hook": sae.hook, "tokens": sae.tokens}
    other = [f"{name} {trained[name]}, not {asked[name]}" for name in asked if trained[name] not in (None, asked[name])]
    return f"the SAE {sae.spec} was trained on {' and '.join(other)}." if other else None


def remarks(target: Target) -> list[str]:
    """Everything to say about a target before its numbers are believed: a mismatch, and the SAE's own notes."""
    said = [words] if (words := mismatch(target)) else []
    if isinstance(target, SpaceTarget) and isinstance(target.sae, NotedSae):
        said += [f"space '{target.name}', SAE {target.sae.spec}: {note}" for note in target.sae.notes]
    return said


def resolve_embedding(name: str, encoder: Encoder) -> EmbeddingTarget:
    """Name the encoder's image embedding."""
    check_name("an embedding", name)
    return EmbeddingTarget(name, encoder.fingerprint, encoder.embedding_width)


def check_distinct(targets: Sequence[Target]) -> None:
    """Refuse two targets of one kind and name.

    Raises:
        UsageError: a name is used twice.
    """
    seen = set()
    for target in targets:
        key = (type(target), target.name)
        if key in seen:
            raise UsageError(f"The name '{target.name}' is given twice. Each space needs its own.")
        seen.add(key)


def register(connection: duckdb.DuckDBPyConnection, encoder: Encoder, target: Target) -> None:
    """Record a target in the catalogue, in the caller's transaction; nothing happens when it is there already.

    Raises:
        UsageError: the name belongs to another fingerprint, or keeps another number of images.
    """
    keep = target.keep if isinstance(target, SpaceTarget) else None
    if not is_registered(connection, kind_of(target), target.name, target.fingerprint, keep):
        _insert(connection, encoder, target)


def is_registered(
    connection: duckdb.DuckDBPyConnection, kind: str, name: str, fingerprint: str, keep: int | None = None
) -> bool:
    """Say whether a space or embedding of this name, fingerprint and `keep` is recorded.

    Raises:
        UsageError: the name belongs to another fingerprint, or keeps another number of images.
    """
    query = {
        "space": "SELECT fingerprint, keep, encoder_spec, hook, tokens, sae_spec FROM spaces WHERE name = $name",
        "embedding": "SELECT fingerprint, NULL, encoder_spec FROM embeddings WHERE name = $name",
    }[kind]
    known = connection.execute(query, {"name": name}).fetchone()
    if known is None:
        return False
    if known[0] != fingerprint:
        origin = ", ".join(str(part) for part in known[2:] if part)
        raise UsageError(
            f"The {kind} '{name}' exists and was made from other weights or data{f' ({origin})' if origin else ''}. "
            f"Choose another name, or remove it first with `glasshouse drop {kind} {name}`."
        )
    if known[1] != keep:
        raise UsageError(_other_keep(name, known[1], keep))
    return True


def _other_keep(name: str, known: int | None, asked: int | None) -> str:
    """Say that a space keeps other images than now asked for, and what to type."""
    again = "Leave --keep away" if known is None else f"Give --keep {known}"
    return (
        f"The space '{name}' exists and keeps {kept_words(known)}; {kept_words(asked)} cannot be mixed with it. "
        f"{again} to bring it up to date, choose another name, or remove it first with `glasshouse drop space {name}`."
    )


def kept_words(keep: int | None) -> str:
    """Say what a space keeps."""
    return "every activation" if keep is None else f"the {keep:,} strongest images of each feature"


def _insert(connection: duckdb.DuckDBPyConnection, encoder: Encoder, target: Target) -> None:
    common = {
        "name": target.name,
        "fingerprint": target.fingerprint,
        "encoder_spec": encoder.spec,
        "encoder_fingerprint": encoder.fingerprint,
    }
    if isinstance(target, EmbeddingTarget):
        connection.execute(
            "INSERT INTO embeddings BY NAME SELECT $name AS name, $fingerprint AS fingerprint, "
            "$encoder_spec AS encoder_spec, $encoder_fingerprint AS encoder_fingerprint, $width AS width, "
            "'extracting' AS state, 0 AS n_images, now() AT TIME ZONE 'UTC' AS created_at",
            {**common, "width": target.width},
        )
        return
    rows, columns = target.grid or (None, None)
    framing = encoder.framing if isinstance(encoder, FramedEncoder) else None
    connection.execute(
        "INSERT INTO spaces BY NAME SELECT $name AS name, $fingerprint AS fingerprint, "
        "$encoder_spec AS encoder_spec, $encoder_fingerprint AS encoder_fingerprint, $hook AS hook, "
        "$tokens AS tokens, $sae_spec AS sae_spec, $sae_fingerprint AS sae_fingerprint, "
        "$n_features AS n_features, $grid_rows AS grid_rows, $grid_columns AS grid_columns, "
        "$framing AS framing, $keep AS keep, "
        "'extracting' AS state, 0 AS n_images, 0 AS n_activations, now() AT TIME ZONE 'UTC' AS created_at",
        {
            **common,
            "hook": target.point.name,
            "tokens": target.tokens,
            "sae_spec": target.sae.spec,
            "sae_fingerprint": target.sae.fingerprint,
            "n_features": target.n_features,
            "keep": target.keep,
            "grid_rows": rows,
            "grid_columns": columns,
            "framing": None if framing is None else json.dumps(framing_of(framing)._asdict()),
        },
    )
