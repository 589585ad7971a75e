"""The self-test of an SAE on some of a warehouse's images, before anything is extracted with it.

Where it finds something odd, other readings of the same weights are tried on the same images (another normalisation,
b_dec subtracted or not, another hook point of that width), and one that fits much better is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import NORMALIZATIONS
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.loading import BatchLoader, StoredImage, stored_images
from glasshouse.warehouse.extraction.run import SELF_TEST_ROWS, select_tokens
from glasshouse.warehouse.extraction.self_test import MIN_EXPLAINED_VARIANCE, SelfTest, complaint, self_test
from glasshouse.warehouse.extraction.targets import SpaceRequest, SpaceTarget, resolve_space, trained_elsewhere

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.saes.form import Normalization
    from glasshouse.warehouse.contracts import Encoder, TokenPolicy
    from glasshouse.warehouse.layout import Layout

N_IMAGES = 64
BATCH_SIZE = 32
SEED = 0
BETTER_BY = 0.2
"""By how much more explained variance another reading has to fit before it is named."""


@dataclass(frozen=True)
class Trial:
    """How an SAE does on some images.

    Attributes:
        encoder: spec of the encoder.
        hook: hook point.
        tokens: token policy.
        n_images: images that were read.
        n_failed: images that could not be read.
        self_test: explained variance, L0, cosine.
        length_ratio: mean length of reconstructions over mean length of activations.
        n_silent: features that were active nowhere on these images.
        wrong: what looks wrong, in sentences.
    """

    encoder: str
    hook: str
    tokens: str
    n_images: int
    n_failed: int
    self_test: SelfTest
    length_ratio: float
    n_silent: int
    wrong: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def try_on_images(
    layout: Layout,
    encoder: Encoder,
    sae: CommonSae,
    hook: str,
    tokens: str,
    *,
    n_images: int = N_IMAGES,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Trial:
    """Run the self-test of an SAE on images that are spread evenly over the warehouse's.

    Args:
        layout: of the warehouse.
        encoder: on its device.
        sae: in the common form.
        hook: hook point.
        tokens: token policy.
        n_images: how many images.
        progress: told images done and images in all.

    Raises:
        UsageError: no images, unknown hook or token policy.
        ModelError: the width does not fit, no image can be read, or no activation is finite.
    """
    asked = _target(sae, hook, tokens, encoder)
    images = _some_images(layout, n_images)
    rows, n_failed = _activations(layout, encoder, [asked], images, progress)
    acts_nd = rows[hook]
    tested = self_test(sae, acts_nd)
    if tested is None:
        raise ModelError(
            f"No activation of {hook} of {encoder.spec} on these images is finite, so nothing can be tested."
        )
    codes = sae.encode(acts_nd[acts_nd.isfinite().all(dim=1)])
    ratio = _length_ratio(sae, acts_nd)
    wrong = [words] if (words := trained_elsewhere(sae, hook, tokens)) else []
    if words := complaint(tested, sae.n_features(sae.width)):
        wrong += [words, *_lengths(ratio), *_other_readings(sae, acts_nd, tested)]
        wrong += _other_hooks(layout, encoder, sae, asked, images, tested)
    return Trial(
        encoder=encoder.spec,
        hook=hook,
        tokens=tokens,
        n_images=len(images) - n_failed,
        n_failed=n_failed,
        self_test=tested,
        length_ratio=ratio,
        n_silent=int((codes.feature.bincount(minlength=sae.n_features(sae.width)) == 0).sum()),
        wrong=tuple(wrong),
    )


def _target(sae: CommonSae, hook: str, tokens: str, encoder: Encoder) -> SpaceTarget:
    return resolve_space(SpaceRequest("trial", hook, cast("TokenPolicy", tokens), sae), encoder)


def _some_images(layout: Layout, n_images: int) -> list[StoredImage]:
    with Catalogue(layout.root).reading() as connection:
        ids = [int(row[0]) for row in connection.sql("SELECT image_id FROM images ORDER BY image_id").fetchall()]
        if not ids:
            raise UsageError(f"{layout.root} has no images yet. Add some with `glasshouse add FOLDER`.")
        n_taken = min(n_images, len(ids))
        return stored_images(connection, [ids[i * len(ids) // n_taken] for i in range(n_taken)])


def _activations(
    layout: Layout,
    encoder: Encoder,
    targets: Sequence[SpaceTarget],
    images: Sequence[StoredImage],
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> tuple[dict[str, torch.Tensor], int]:
    """Activation vectors [n, D] of each target's hook, at most `SELF_TEST_ROWS`, and how many images failed."""
    import torch  # late: it takes a second to import

    blocks = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]
    loader = BatchLoader(blocks, encoder.preprocess, layout.root, workers=min(8, os.cpu_count() or 1), ahead=1)
    found: dict[str, list[torch.Tensor]] = {target.point.name: [] for target in targets}
    failures: list[tuple[int, str]] = []
    done = 0
    for loaded in loader:
        failures += loaded.failures
        if loaded.batch_bchw is not None:
            result = encoder.forward(loaded.batch_bchw, sorted(found), embedding=False)
            for target in targets:
                rows_nd, _ = select_tokens(result.activations[target.point.name], target)
                found[target.point.name].append(
                    _some_rows(rows_nd, SELF_TEST_ROWS * len(loaded.image_ids) // len(images))
                )
        done += len(loaded.image_ids) + len(loaded.failures)
        progress(done, len(images))
    if len(failures) == len(images):
        raise ModelError(f"None of {len(images)} images can be read; the first: {failures[0][1]}.")
    return {hook: torch.cat(parts) for hook, parts in found.items()}, len(failures)


def _some_rows(rows_nd: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many rows, drawn once for all: every n-th of a token map would be some of its columns only."""
    import torch  # late: it takes a second to import

    if len(rows_nd) > max(most, 1):
        drawn = torch.randperm(len(rows_nd), generator=torch.Generator().manual_seed(SEED))[: max(most, 1)]
        rows_nd = rows_nd[drawn.sort().values.to(rows_nd.device)]
    return rows_nd.float()


def _length_ratio(sae: CommonSae, acts_nd: torch.Tensor) -> float:
    acts_nd = acts_nd[acts_nd.isfinite().all(dim=1)].to(sae.device)
    decoded_nd = sae.decode(sae.encode(acts_nd), len(acts_nd), acts_nd)
    length = float(acts_nd.norm(dim=1).mean())
    return float(decoded_nd.norm(dim=1).mean()) / length if length > 0 else 1.0


def _lengths(ratio: float) -> list[str]:
    if 0.5 <= ratio <= 2:
        return []
    return [
        f"reconstructions are {ratio:.3g} times as long as the activations: a factor or a mean of its training data is "
        "missing, or it belongs elsewhere"
    ]


def _other_readings(sae: CommonSae, acts_nd: torch.Tensor, tested: SelfTest) -> list[str]:
    """Whether the same weights fit much better with another normalisation, or with b_dec treated otherwise."""
    best, name = tested.explained_variance, ""
    for normalization in NORMALIZATIONS:
        for subtracts in (True, False):
            rule = cast("Normalization", normalization)
            form = replace(sae.form, normalization=rule, apply_b_dec_to_input=subtracts)
            if form.normalization == "layer_norm" and sae.width < 2:
                continue
            other = self_test(CommonSae(sae.spec, form, sae.device), acts_nd)
            if other is not None and other.explained_variance > best:
                best = other.explained_variance
                name = f"normalisation {normalization}, b_dec {'' if subtracts else 'not '}subtracted"
    return _named(name, best, tested, "read otherwise")


def _other_hooks(
    layout: Layout,
    encoder: Encoder,
    sae: CommonSae,
    asked: SpaceTarget,
    images: Sequence[StoredImage],
    tested: SelfTest,
) -> list[str]:
    """Whether it fits much better at another hook point of its width."""
    others = [
        _target(sae, point.name, asked.tokens, encoder)
        for point in encoder.hook_points()
        if (point.width, point.n_prefix) == (asked.point.width, asked.point.n_prefix) and point.name != asked.point.name
    ]
    if not others:
        return []
    rows, _ = _activations(layout, encoder, others, images)
    results = {hook: self_test(sae, acts_nd) for hook, acts_nd in rows.items()}
    fits = {hook: result.explained_variance for hook, result in results.items() if result is not None}
    hook = max(fits, key=lambda name: fits[name], default="")
    return _named(hook, fits.get(hook, 0.0), tested, "at another hook point")


def _named(name: str, explained: float, tested: SelfTest, how: str) -> list[str]:
    if not name or explained < max(MIN_EXPLAINED_VARIANCE, tested.explained_variance + BETTER_BY):
        return []
    return [f"{how} it would explain {explained:.2f} of the variance: {name}"]
