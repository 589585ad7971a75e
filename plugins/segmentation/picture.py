"""Pictures through encoder and SAE, as one view each or in overlapping windows: what is known of their patches.

A window is as large as the encoder's images, and starts at a patch. The picture is scaled so that its shorter side is
one window long and both sides are whole patches; windows overlap by half, and what they say of a patch is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.segmentation.patches import Contributions, best_class, decoded, probabilities
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import scipy.sparse
    import torch
    from PIL import Image

    from glasshouse.plugins.analyzers.clip_space import Decoder
    from glasshouse.warehouse.contracts import Encoder, SparseAutoencoder

HOOK = "dinoised"
BATCH = 8
"""Windows in one pass of the encoder."""

Floats = npt.NDArray[np.float32]


class Place(NamedTuple):
    """Where a window lies in its picture, in patches."""

    row: int
    column: int


class Mosaic(NamedTuple):
    """What is known of the patches of a picture.

    Attributes:
        concepts_rlc: probability of each class by the concepts, [rows, columns, classes].
        features_rlc: the same by the features that the SAE was given.
        framing: which part of the picture the patches cover; None for all of it.
    """

    concepts_rlc: Floats
    features_rlc: Floats
    framing: Mapping[str, Any] | None


@dataclass(frozen=True)
class Segmenter:
    """Segments pictures by the concepts of a space.

    Attributes:
        encoder: of the space.
        sae: of the space.
        decoder: of the SAE.
        classes_ce: unit vectors of the classes.
        threshold: where no class is as probable as this, a patch counts for none.
    """

    encoder: Encoder
    sae: SparseAutoencoder
    decoder: Decoder
    classes_ce: npt.NDArray[np.float64]
    threshold: float = 0.0

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of one view."""
        for point in self.encoder.hook_points():
            if point.name == HOOK and point.grid is not None:
                return point.grid
        raise ModelError(f"{self.encoder.spec} has no patches at the hook point '{HOOK}'.")

    def view(self, picture: Image.Image, sums: Contributions | None = None) -> Mosaic:
        """Segment a picture as the encoder's preprocessing cuts it; add to `sums` what concepts contribute."""
        tensor_1chw = self.encoder.preprocess(picture)[None]
        concepts_btc, features_btc = self._chances(tensor_1chw, sums)
        shape = (*self.grid, len(self.classes_ce))
        framing = getattr(self.encoder, "framing", None)
        return Mosaic(concepts_btc[0].reshape(shape), features_btc[0].reshape(shape), framing)

    def windows(self, picture: Image.Image, sums: Contributions | None = None) -> Mosaic:
        """Segment a picture in overlapping windows; add to `sums` what concepts contribute, in each window anew."""
        import torch  # late: it takes a second to import

        rows, columns = self.grid
        scaled, (n_rows, n_columns) = self._scaled(picture)
        places = [Place(r, c) for r in starts(n_rows, rows) for c in starts(n_columns, columns)]
        n_classes = len(self.classes_ce)
        totals = [np.zeros((n_rows, n_columns, n_classes), dtype=np.float32) for _ in range(2)]
        times_rl1 = np.zeros((n_rows, n_columns, 1), dtype=np.float32)
        for first in range(0, len(places), BATCH):
            some = places[first : first + BATCH]
            batch_bchw = torch.stack([self.encoder.preprocess(scaled.crop(self._box(place))) for place in some])
            for place, *chances in zip(some, *self._chances(batch_bchw, sums), strict=True):
                here = np.s_[place.row : place.row + rows, place.column : place.column + columns]
                times_rl1[here] += 1
                for total, chance_tc in zip(totals, chances, strict=True):
                    total[here] += chance_tc.reshape(rows, columns, n_classes)
        return Mosaic(totals[0] / times_rl1, totals[1] / times_rl1, None)

    def features(self, picture: Image.Image) -> Floats:
        """Return the probability of each class by the features alone [rows, columns, classes], in one view."""
        vectors_te = self._features(self.encoder.preprocess(picture)[None])[0].float().cpu().numpy()
        return probabilities(vectors_te, self.classes_ce).reshape(*self.grid, -1)

    def _features(self, batch_bchw: torch.Tensor) -> torch.Tensor:
        return self.encoder.forward(batch_bchw, [HOOK], embedding=False).activations[HOOK]

    def _chances(self, batch_bchw: torch.Tensor, sums: Contributions | None) -> tuple[list[Floats], list[Floats]]:
        """Return for each image of a batch the probabilities by concepts, and by features, [patches, classes]."""
        acts_btd = self._features(batch_bchw)
        n_patches = acts_btd.shape[1]
        flat_nd = acts_btd.flatten(0, 1)
        codes_nf = self._codes(flat_nd)
        vectors_ne = decoded(codes_nf, self.decoder)
        concepts_nc = probabilities(vectors_ne, self.classes_ce)
        features_nc = probabilities(flat_nd.float().cpu().numpy(), self.classes_ce)
        if sums is not None:
            sums.add(codes_nf, vectors_ne, best_class(concepts_nc, self.threshold))
        parts = len(flat_nd) // n_patches
        return np.split(concepts_nc, parts), np.split(features_nc, parts)

    def _codes(self, acts_nd: torch.Tensor) -> scipy.sparse.csr_array:
        import scipy.sparse  # late: a tenth of a second

        codes = self.sae.encode(acts_nd)
        places = (codes.row.numpy(), codes.feature.numpy())
        shape = (len(acts_nd), len(self.decoder.vectors_fe))
        return scipy.sparse.csr_array((codes.value.float().numpy(), places), shape=shape)

    def _scaled(self, picture: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
        """Scale a picture to whole patches, its shorter side one window long; also its rows and columns of patches."""
        from PIL import Image as Pillow  # late: a tenth of a second

        rows, columns = self.grid
        scale = max(rows / picture.height, columns / picture.width)
        n_rows, n_columns = max(rows, round(picture.height * scale)), max(columns, round(picture.width * scale))
        high, wide = self._patch
        return picture.resize((n_columns * wide, n_rows * high), Pillow.Resampling.BICUBIC), (n_rows, n_columns)

    @cached_property
    def _patch(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        from PIL import Image as Pillow  # late: a tenth of a second

        height, width = self.encoder.preprocess(Pillow.new("RGB", (64, 64))).shape[1:]
        return height // self.grid[0], width // self.grid[1]

    def _box(self, place: Place) -> tuple[int, int, int, int]:
        high, wide = self._patch
        left, top = place.column * wide, place.row * high
        return left, top, left + self.grid[1] * wide, top + self.grid[0] * high


def starts(n_cells: int, window: int) -> Sequence[int]:
    """Return where windows of so many cells start, half a window apart; the last ends with the cells."""
    last = max(n_cells - window, 0)
    return [*range(0, last, max(window // 2, 1)), last]
