"""Which class a patch belongs to, and which concepts say so.

As in CFM: codes @ W_dec + b_dec is a CLIP vector of the patch; its cosines with the classes, times 100, are the logits
of a softmax. A concept contributes activation × (W_dec row · class) / ‖vector‖ to the cosine of a class: over all
concepts, and the bias in the same way, the contributions add up to the cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.analyzers.clip_space import Decoder

SHARPNESS = 100.0
"""Factor on the cosines before the softmax."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def decoded(codes_tf: scipy.sparse.csr_array, decoder: Decoder) -> Floats:
    """Return the CLIP vectors [patches, E] that codes stand for, not normalised."""
    vectors_te: Floats = codes_tf @ decoder.vectors_fe + decoder.bias_e
    return vectors_te


def probabilities(vectors_te: Floats, classes_ce: Doubles) -> Floats:
    """Return the probability of each class [patches, classes]; a vector of zeros is nothing more than anything else."""
    length_t1 = np.linalg.norm(vectors_te, axis=1, keepdims=True)
    logits_tc = SHARPNESS * (vectors_te @ classes_ce.T.astype(np.float32)) / np.where(length_t1 > 0, length_t1, 1)
    logits_tc -= logits_tc.max(axis=1, keepdims=True)
    np.exp(logits_tc, out=logits_tc)
    chances_tc: Floats = (logits_tc / logits_tc.sum(axis=1, keepdims=True)).astype(np.float32)
    return chances_tc


def best_class(chances_tc: Floats, threshold: float) -> Ints:
    """Return the most probable class of each patch; -1 where none is as probable as the threshold."""
    best_t: Ints = np.where(chances_tc.max(axis=1) < threshold, -1, chances_tc.argmax(axis=1))
    return best_t


@dataclass
class Contributions:
    """Sums over the patches of each class, patch by patch as they come.

    Attributes:
        decoder: of the space.
        classes_ce: unit vectors of the classes.
    """

    decoder: Decoder
    classes_ce: Doubles

    def __post_init__(self) -> None:
        n_classes, n_features = len(self.classes_ce), len(self.decoder.vectors_fe)
        self._strength_cf: Doubles = np.zeros((n_classes, n_features))
        self.n_active_cf: Ints = np.zeros((n_classes, n_features), dtype=np.int64)
        self.n_patches_c: Ints = np.zeros(n_classes, dtype=np.int64)

    def add(self, codes_tf: scipy.sparse.csr_array, vectors_te: Floats, class_t: npt.NDArray[np.integer]) -> None:
        """Count patches.

        Args:
            codes_tf: activations, 0 where silent.
            vectors_te: what they decode to.
            class_t: of each patch; negative where it belongs to none.
        """
        import scipy.sparse  # late: a tenth of a second

        kept_t = np.flatnonzero(class_t >= 0)
        of_class = class_t[kept_t]
        n_classes = len(self.classes_ce)
        member_ct = scipy.sparse.csr_array(
            (np.ones(len(kept_t)), (of_class, kept_t)), shape=(n_classes, codes_tf.shape[0])
        )
        length_t = np.linalg.norm(vectors_te, axis=1).astype(np.float64)
        weight_ct = member_ct.multiply(1 / np.where(length_t > 0, length_t, 1)[None, :]).tocsr()
        self._strength_cf += (weight_ct @ codes_tf.astype(np.float64)).toarray()
        self.n_active_cf += (member_ct @ (codes_tf > 0).astype(np.float64)).toarray().astype(np.int64)
        self.n_patches_c += np.bincount(of_class, minlength=n_classes)

    def mean_cf(self) -> Doubles:
        """Mean contribution [classes, features] to the cosine with a class, over the patches of that class."""
        toward_cf = self.classes_ce @ self.decoder.vectors_fe.astype(np.float64).T
        mean_cf: Doubles = self._strength_cf * toward_cf / np.maximum(self.n_patches_c, 1)[:, None]
        return mean_cf

    def share_cf(self) -> Doubles:
        """Each feature's share of all that speaks for a class [classes, features]; 0 where it speaks against it."""
        favour_cf = np.maximum(self.mean_cf(), 0)
        total_c1 = favour_cf.sum(axis=1, keepdims=True)
        share_cf: Doubles = favour_cf / np.where(total_c1 > 0, total_c1, 1)
        return share_cf
