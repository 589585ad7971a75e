"""How much each feature of a space counts for one class's logit y, image by image.

With a the feature's activation on a token and R its relevance there, what counts for an image is Σ R over the tokens of
the space:

    gradient   R = a · ∂y/∂a. Of a neuron ∂y/∂a is the gradient at the hook point where it is active; of an SAE's
               feature the gradient times the feature's decoder row, so that the SAE's error counts for nobody.
    crp        R is what layer-wise relevance propagation gives the neuron (Achtibat et al., arXiv 2206.03208).
    ablation   y of the pass as it is, less y with the feature taken out of all tokens,
               x' = x + decode(code') − decode(code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.ablation import JOBS_AT_ONCE, multiplies_rows, noise
from glasshouse.plugins.analyzers.ablation_edits import Change, TokenEdits
from glasshouse.plugins.analyzers.attribution_maps import hook_point_of
from glasshouse.plugins.analyzers.clip_space import affine_decoder
from glasshouse.plugins.analyzers.space_models import sae_of
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.analyzers.relevance_classes import Classifier
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import HookPoint, SparseAutoencoder

Floats = npt.NDArray[np.floating]
Method = Literal["gradient", "crp", "ablation"]
NONZERO_AT_ONCE = 1 << 16
"""Active features of an SAE whose decoder rows are gathered together: 200 MB at a width of 768."""


class ImageRelevance(NamedTuple):
    """What features count for on each image of a batch.

    Attributes:
        total_bf: Σ R over the tokens.
        positive_bf: Σ max(R, 0) over the tokens.
        column_bf: Σ max(R, 0) · column of the token, in columns of the grid; zeros without a grid.
        row_bf: likewise for rows.
        activation_bf: the largest activation on a token.
    """

    total_bf: Floats
    positive_bf: Floats
    column_bf: Floats
    row_bf: Floats
    activation_bf: Floats


Measure = Callable[["torch.Tensor", "torch.Tensor"], ImageRelevance]
"""From images [b, 3, H, W] and the class of each, int64 [b]."""


class Place(NamedTuple):
    """Where a space reads its encoder: the hook point, the tokens that are its rows, and its SAE."""

    point: HookPoint
    tokens: slice
    sae: SparseAutoencoder

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens."""
        return self.point.grid if self.tokens.stop is None else None


def place_of(view: AnalysisView, model: Classifier) -> Place:
    """Return where the space reads."""
    point = hook_point_of(view, model.encoder)
    tokens = slice(0, 1) if view.record["tokens"] == "cls" else slice(point.n_prefix, None)
    return Place(point, tokens, sae_of(view, model.encoder.device))


def check_method(view: AnalysisView, method: Method) -> None:
    """See that a method fits the space.

    Raises:
        UsageError: CRP of features that are no neurons, or tokens that were pooled before an SAE encoded them.
    """
    neurons = view.record["sae_spec"] == "neurons"
    if method == "crp" and not neurons:
        raise UsageError(
            f"CRP gives neurons their relevance, and the features of '{view.space}' are those of an SAE. Take --method "
            "gradient or ablation."
        )
    if not neurons and view.record["tokens"] in ("mean", "max", "sum"):
        raise UsageError(
            f"The tokens of the space '{view.space}' were pooled before the SAE encoded them, so no token has its "
            "part. Relevance of an SAE's features needs --tokens cls or patches."
        )


def measure_of(view: AnalysisView, model: Classifier, method: Method, features: Sequence[int]) -> Measure:
    """Return what measures images.

    Args:
        view: of the space.
        model: its encoder as a classifier.
        method: see the module's docstring.
        features: those that `ablation` takes out; all when empty.
    """
    place = place_of(view, model)
    if method == "ablation":
        return _Ablation(view, model, place, features).measure
    if view.record["sae_spec"] == "neurons":
        return lambda batch_bchw, class_b: _neurons(model, place, batch_bchw, class_b, method)
    decoder_fd = affine_decoder(place.sae, view.n_features).vectors_fe
    return lambda batch_bchw, class_b: _sae(model, place, decoder_fd, batch_bchw, class_b)


def _neurons(
    model: Classifier, place: Place, batch_bchw: torch.Tensor, class_b: torch.Tensor, method: Method
) -> ImageRelevance:
    found = model.outputs.class_relevance(
        batch_bchw, place.point.name, class_b, "crp" if method == "crp" else "gradient"
    )
    acts_btf = found.activations_btd[:, place.tokens].clamp_min(0)
    # A neuron is a feature where it is positive; what its negative values count for is nobody's.
    relevance_btf = found.relevance_btd[:, place.tokens] * (acts_btf > 0)
    positive_btf = relevance_btf.clamp_min(0)
    column_t, row_t = _centres(place, acts_btf.shape[1])
    weights_kt = positive_btf.new_tensor(np.stack([column_t, row_t]))
    placed_kbf = _weighted(positive_btf, weights_kt)
    parts = (relevance_btf.sum(dim=1), positive_btf.sum(dim=1), placed_kbf[0], placed_kbf[1], acts_btf.amax(dim=1))
    return ImageRelevance(*(part.double().cpu().numpy() for part in parts))


def _weighted(values_btf: torch.Tensor, weights_kt: torch.Tensor) -> torch.Tensor:
    import torch  # late: it takes a second to import

    return torch.einsum("btf,kt->kbf", values_btf, weights_kt)


def _centres(place: Place, n_tokens: int) -> tuple[Floats, Floats]:
    """Column and row of each token's centre, in cells of the grid."""
    if place.grid is None:
        return np.zeros(n_tokens), np.zeros(n_tokens)
    rows, columns = place.grid
    row_t, column_t = np.divmod(np.arange(rows * columns), columns)
    return column_t + 0.5, row_t + 0.5


def _sae(
    model: Classifier, place: Place, decoder_fd: Floats, batch_bchw: torch.Tensor, class_b: torch.Tensor
) -> ImageRelevance:
    found = model.outputs.class_relevance(batch_bchw, place.point.name, class_b, "gradient")
    if found.gradients_btd is None:
        raise UsageError(
            f"{model.encoder.spec} gives no gradients, which the features of an SAE need. Take --method ablation."
        )
    acts_btd = found.activations_btd[:, place.tokens]
    gradient_nd = found.gradients_btd[:, place.tokens].flatten(0, 1).cpu().numpy()
    n_images, n_tokens, width = acts_btd.shape
    codes = place.sae.encode(acts_btd.reshape(-1, width))
    token_k, feature_k, value_k = (part.numpy() for part in codes)
    relevance_k = np.empty(len(value_k))
    for start in range(0, len(value_k), NONZERO_AT_ONCE):
        part = slice(start, start + NONZERO_AT_ONCE)
        along_k = np.einsum("kd,kd->k", gradient_nd[token_k[part]], decoder_fd[feature_k[part]], dtype=np.float64)
        relevance_k[part] = value_k[part] * along_k
    return _summed(place, (n_images, n_tokens, len(decoder_fd)), token_k, feature_k, value_k, relevance_k)


def _summed(
    place: Place,
    shape: tuple[int, int, int],
    token_k: npt.NDArray[np.integer],
    feature_k: npt.NDArray[np.integer],
    value_k: Floats,
    relevance_k: Floats,
) -> ImageRelevance:
    n_images, n_tokens, n_features = shape
    column_t, row_t = _centres(place, n_tokens)
    cell_k = (token_k // n_tokens).astype(np.int64) * n_features + feature_k
    positive_k = np.maximum(relevance_k, 0)

    def total(weights_k: Floats) -> Floats:
        sums: Floats = np.bincount(cell_k, weights_k, n_images * n_features).astype(np.float64)
        return sums.reshape(n_images, n_features)

    largest = np.zeros(n_images * n_features)
    np.maximum.at(largest, cell_k, value_k)
    at_t = token_k % n_tokens
    return ImageRelevance(
        total(relevance_k),
        total(positive_k),
        total(positive_k * column_t[at_t]),
        total(positive_k * row_t[at_t]),
        largest.reshape(n_images, n_features),
    )


class _Ablation:
    """Takes features out of passes, one at a time, and reads the logit."""

    def __init__(self, view: AnalysisView, model: Classifier, place: Place, features: Sequence[int]) -> None:
        self._model = model
        self._place = place
        self._features = np.array(sorted(features) or range(view.n_features))
        self._change = Change(0.0, np.zeros(view.n_features))
        batch_bchw = noise(model.encoder, 1)
        self._shares = multiplies_rows(lambda edit: model.outputs.forward_logits(batch_bchw, place.point.name, edit))

    def measure(self, batch_bchw: torch.Tensor, class_b: torch.Tensor) -> ImageRelevance:
        hook = self._place.point.name
        acts_btd = self._model.encoder.forward(batch_bchw, [hook], embedding=False).activations[hook]
        edits = TokenEdits(self._place.sae, acts_btd[:, self._place.tokens], self._change, seed=0)
        plain_b = self._of_class(self._model.outputs.forward_logits(batch_bchw), class_b)
        n_images, n_features = len(batch_bchw), len(self._change.value_f)
        total_bf, activation_bf = np.zeros((n_images, n_features)), np.zeros((n_images, n_features))
        row_j, feature_j = (part.ravel() for part in np.meshgrid(range(n_images), self._features, indexing="ij"))
        for start in range(0, len(row_j), JOBS_AT_ONCE):
            part = slice(start, start + JOBS_AT_ONCE)
            rows, features = row_j[part], feature_j[part]
            deltas = edits.deltas(rows, features, np.zeros(len(rows), dtype=bool))
            if not len(deltas.active):
                continue
            rows, features = rows[deltas.active], features[deltas.active]
            after_j = self._of_class(self._edited(batch_bchw, rows, deltas.delta_jtd), class_b[rows])
            total_bf[rows, features] = plain_b[rows] - after_j
            activation_bf[rows, features] = deltas.removed_j
        nowhere = np.zeros_like(total_bf)
        return ImageRelevance(total_bf, np.maximum(total_bf, 0), nowhere, nowhere, activation_bf)

    def _edited(self, batch_bchw: torch.Tensor, rows: npt.NDArray[np.integer], delta_jtd: torch.Tensor) -> torch.Tensor:
        import torch  # late: it takes a second to import

        at = torch.as_tensor(rows)

        def edit(acts_btd: torch.Tensor) -> torch.Tensor:
            acts_jtd = acts_btd[at.to(acts_btd.device)] if self._shares else acts_btd
            acts_jtd[:, self._place.tokens] += delta_jtd.to(acts_btd.device)
            return acts_jtd

        given_bchw = batch_bchw if self._shares else batch_bchw[at]
        return self._model.outputs.forward_logits(given_bchw, self._place.point.name, edit)

    @staticmethod
    def _of_class(logits_bc: torch.Tensor, class_b: torch.Tensor) -> Floats:
        found: Floats = logits_bc.gather(1, class_b[:, None].to(logits_bc.device))[:, 0].double().cpu().numpy()
        return found
