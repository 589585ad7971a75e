"""k-means with two clusters for many small sets of vectors at once, with scikit-learn's result for each.

What is reproduced is `KMeans(n_clusters=2, n_init=10, random_state=seed).fit(V)` on the float64 copy of each set V
[n, E]: k-means++ seeding with two trials, Lloyd's iterations until the centres move by less than 1e-4 · mean
variance, at most 300, and the run of least inertia. Two facts make it fast. The random numbers depend on n and the
seed alone: one `choice` and one `uniform(size=2)` for each initialisation, from one generator. And every step needs
only inner products of the centred vectors, so that all sets work on their Gram matrices [n, n] together.

Rounding decides nothing unseen. Where a decision hangs on less than `CLOSE` of the largest squared distance from the
mean (a random number between two vectors, a vector between two centres, two trials or two runs of the same inertia, a
movement at the tolerance) and the two ways end in different clusters, or where a cluster is empty, the set is marked
as uncertain, and the caller asks scikit-learn itself.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

N_INIT: Final = 10
N_TRIALS: Final = 2
"""scikit-learn's 2 + int(log(number of clusters))."""
TOLERANCE: Final = 1e-4
MAX_ITERATIONS: Final = 300
CLOSE: Final = 1e-11
"""Share of the largest squared distance below which a difference may be rounding: 500 times what sums over 512
coordinates usually lose."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class TwoMeans(NamedTuple):
    """The chosen clustering of b sets of n vectors.

    Attributes:
        weights_bkn: float64 [b, 2, n]; a centre is weights · V. 1 / size of the cluster for its vectors when the centre
            was last moved, 0 for the others.
        smaller_b: int64 [b], members of the smaller cluster.
        certain_b: bool [b]; false where scikit-learn may have decided otherwise, and the rest means nothing.
    """

    weights_bkn: Floats
    smaller_b: npt.NDArray[np.int64]
    certain_b: Bools


class Draws(NamedTuple):
    """Random numbers of all initialisations, r = 10: `first_r` the first seeds, `uniform_rt` of the trials [r, 2]."""

    first_r: npt.NDArray[np.int64]
    uniform_rt: Floats


class _Seeds(NamedTuple):
    """Second seeds of b sets and r runs: the chosen ones, and those that rounding could choose as well (else the same).

    `close_b` says where the random numbers themselves fall between two vectors.
    """

    second_br: npt.NDArray[np.int64]
    other_br: npt.NDArray[np.int64]
    close_b: Bools


class _Lloyd(NamedTuple):
    """Lloyd's result of r runs on b sets: labels bool [b, r, n] (true: second cluster), weights [b, r, 2, n]."""

    label_brn: Bools
    weights_brkn: Floats
    close_b: Bools


def draws(n: int, seed: int) -> Draws:
    """Return the random numbers that scikit-learn draws for a set of n vectors."""
    generator = np.random.RandomState(seed)
    first_r, uniform_rt = np.empty(N_INIT, np.int64), np.empty((N_INIT, N_TRIALS))
    for run in range(N_INIT):
        first_r[run] = generator.choice(n, p=np.full(n, 1.0) / n)
        uniform_rt[run] = generator.uniform(size=N_TRIALS)
    return Draws(first_r, uniform_rt)


def two_means(gram_bnn: Floats, width: int, drawn: Draws) -> TwoMeans:
    """Cluster b sets of n vectors each.

    Args:
        gram_bnn: float64 [b, n, n], inner products of the vectors less their set's mean; n ≥ 2.
        width: coordinates of the vectors, for the tolerance.
        drawn: of `draws`.
    """
    square_bn = np.einsum("bnn->bn", gram_bnn)
    slack_b = CLOSE * square_bn.max(axis=1)
    distance_bnn = np.maximum(square_bn[:, :, None] + square_bn[:, None, :] - 2 * gram_bnn, 0)
    seeds = _second_seeds(distance_bnn, drawn, slack_b)
    weights_brkn = _seed_weights(drawn.first_r, seeds.second_br, gram_bnn.shape[1])
    # Mean of the coordinates' variances: the trace, over n and over the coordinates.
    tolerance_b = TOLERANCE * square_bn.sum(axis=1) / (gram_bnn.shape[1] * width)
    lloyd = _lloyd(gram_bnn, weights_brkn, tolerance_b, slack_b)
    close_b = seeds.close_b | lloyd.close_b
    tied = np.flatnonzero((seeds.other_br != seeds.second_br).any(axis=1) & ~close_b)
    if len(tied):
        weights_brkn = _seed_weights(drawn.first_r, seeds.other_br[tied], gram_bnn.shape[1])
        other = _lloyd(gram_bnn[tied], weights_brkn, tolerance_b[tied], slack_b[tied])
        close_b[tied] = other.close_b | ~_ends_alike(lloyd, tied, other)
    best_b, ties_b = _best_runs(gram_bnn, square_bn, lloyd, slack_b)
    one_b = np.arange(len(gram_bnn))
    n_second_b = lloyd.label_brn[one_b, best_b].sum(axis=1)
    return TwoMeans(
        lloyd.weights_brkn[one_b, best_b],
        np.minimum(n_second_b, gram_bnn.shape[1] - n_second_b),
        ~(close_b | ties_b),
    )


def _second_seeds(distance_bnn: Floats, drawn: Draws, slack_b: Floats) -> _Seeds:
    """Draw two trials for each set and run, and take the one that leaves less inertia.

    Two vectors that have nobody between them leave the same, which is common in small sets; it seldom matters then
    which is taken, since Lloyd's iterations end alike.
    """
    closest_brn = distance_bnn[:, drawn.first_r]
    sums_brn = np.cumsum(closest_brn, axis=2)
    drawn_brt = drawn.uniform_rt * sums_brn[:, :, -1:]
    apart_brtn = sums_brn[:, :, None, :] - drawn_brt[..., None]
    trial_brt = np.minimum((apart_brtn < 0).sum(axis=3), distance_bnn.shape[1] - 1)
    close_b = (np.abs(apart_brtn).min(axis=(1, 2, 3))) <= slack_b
    one_b = np.arange(len(distance_bnn))[:, None]
    potential_brt = np.stack(
        [np.minimum(closest_brn, distance_bnn[one_b, trial_brt[:, :, trial]]).sum(axis=2) for trial in range(N_TRIALS)],
        axis=2,
    )
    best_br1 = potential_brt.argmin(axis=2)[..., None]
    second_br, third_br = (np.take_along_axis(trial_brt, which, axis=2)[..., 0] for which in (best_br1, 1 - best_br1))
    is_tied_br = np.abs(potential_brt[:, :, 1] - potential_brt[:, :, 0]) <= slack_b[:, None]
    return _Seeds(second_br, np.where(is_tied_br, third_br, second_br), close_b)


def _seed_weights(first_r: npt.NDArray[np.int64], second_br: npt.NDArray[np.int64], n: int) -> Floats:
    weights_brkn = np.zeros((*second_br.shape, 2, n))
    weights_brkn[:, np.arange(len(first_r)), 0, first_r] = 1
    np.put_along_axis(weights_brkn[:, :, 1], second_br[..., None], 1, axis=2)
    return weights_brkn


def _lloyd(gram_bnn: Floats, weights_brkn: Floats, tolerance_b: Floats, slack_b: Floats) -> _Lloyd:
    """Move the centres of all runs of all sets until they rest; sets of which all runs rest are done with.

    A run that rests because its labels stay moves its centres by exactly 0, so the tolerance alone is asked.
    """
    n_sets, n_runs, _, n = weights_brkn.shape
    found = _Lloyd(np.zeros((n_sets, n_runs, n), bool), np.empty_like(weights_brkn), np.zeros(n_sets, bool))
    here, open_ar = np.arange(n_sets), np.ones((n_sets, n_runs), bool)
    weights, product = weights_brkn, _product(weights_brkn, gram_bnn)
    label_arn, close_ar = _labels(weights, product, slack_b)
    found.close_b[:] = close_ar.any(axis=1)
    for iteration in range(MAX_ITERATIONS):
        limit_a1, slack_a = tolerance_b[here, None], slack_b[here]
        moved, is_empty_ar = _means(label_arn)
        moved_product = _product(moved, gram_bnn[here])
        label_arn, close_ar = _labels(moved, moved_product, slack_a)
        shift_ar = _shifts(weights, product, moved, moved_product)
        close_ar |= is_empty_ar | ((shift_ar > 0) & (np.abs(shift_ar - limit_a1) <= slack_a[:, None]))
        found.close_b[here] |= (close_ar & open_ar).any(axis=1)
        rests_ar = (shift_ar <= limit_a1) | (iteration + 1 == MAX_ITERATIONS)
        sets, runs = np.nonzero(open_ar & rests_ar)
        found.label_brn[here[sets], runs] = label_arn[sets, runs]
        found.weights_brkn[here[sets], runs] = moved[sets, runs]
        open_ar &= ~rests_ar
        stays_a = open_ar.any(axis=1) & ~found.close_b[here]
        if not stays_a.any():
            break
        here, open_ar, label_arn = here[stays_a], open_ar[stays_a], label_arn[stays_a]
        weights, product = moved[stays_a], moved_product[stays_a]
    return found


def _ends_alike(lloyd: _Lloyd, sets_t: npt.NDArray[np.int64], other: _Lloyd) -> Bools:
    """Say of each of some sets whether all its runs end with the same two clusters and centres [t]."""
    own, others = (
        np.concatenate([found.weights_brkn, np.stack([~found.label_brn, found.label_brn], axis=2)], axis=3)
        for found in (_Lloyd(lloyd.label_brn[sets_t], lloyd.weights_brkn[sets_t], lloyd.close_b[sets_t]), other)
    )
    same_tr, swapped_tr = ((own == compared).all(axis=(2, 3)) for compared in (others, others[:, :, ::-1]))
    return np.asarray((same_tr | swapped_tr).all(axis=1))


def _product(weights_brkn: Floats, gram_bnn: Floats) -> Floats:
    """Inner products of each centre with each vector [b, r, 2, n]."""
    n_sets, n_runs, n_clusters, n = weights_brkn.shape
    return (weights_brkn.reshape(n_sets, n_runs * n_clusters, n) @ gram_bnn).reshape(weights_brkn.shape)


def _labels(weights_brkn: Floats, product_brkn: Floats, slack_b: Floats) -> tuple[Bools, Bools]:
    """Say which vectors are nearer to the second centre [b, r, n], and where a vector is nearly between both [b, r]."""
    norm_brk = np.einsum("brkn,brkn->brk", weights_brkn, product_brkn)
    nearer_brn = (norm_brk[:, :, 1] - norm_brk[:, :, 0])[..., None] - 2 * (
        product_brkn[:, :, 1] - product_brkn[:, :, 0]
    )
    return nearer_brn < 0, np.abs(nearer_brn).min(axis=2) <= slack_b[:, None]


def _means(label_brn: Bools) -> tuple[Floats, Bools]:
    """Return the weights of the clusters' means [b, r, 2, n], and where a cluster is empty [b, r]."""
    member_brkn = np.stack([~label_brn, label_brn], axis=2).astype(np.float64)
    size_brk = member_brkn.sum(axis=3)
    member_brkn /= np.maximum(size_brk, 1)[..., None]
    return member_brkn, (size_brk == 0).any(axis=2)


def _shifts(weights: Floats, product: Floats, moved: Floats, moved_product: Floats) -> Floats:
    """Sum of the squared distances [b, r] by which the two centres have moved."""
    old = np.einsum("brkn,brkn->br", weights, product)
    new = np.einsum("brkn,brkn->br", moved, moved_product)
    shift_br: Floats = old + new - 2 * np.einsum("brkn,brkn->br", moved, product)
    return shift_br


def _best_runs(
    gram_bnn: Floats, square_bn: Floats, lloyd: _Lloyd, slack_b: Floats
) -> tuple[npt.NDArray[np.int64], Bools]:
    """Return the run of least inertia of each set [b], and whether two different clusterings have nearly the same.

    As in scikit-learn, a run with the clustering of the best so far never takes its place.
    """
    product = _product(lloyd.weights_brkn, gram_bnn)
    norm_brk = np.einsum("brkn,brkn->brk", lloyd.weights_brkn, product)
    distance_brkn = square_bn[:, None, None, :] - 2 * product + norm_brk[..., None]
    inertia_br = np.where(lloyd.label_brn, distance_brkn[:, :, 1], distance_brkn[:, :, 0]).sum(axis=2)
    best_b, close_b, one_b = np.zeros(len(gram_bnn), np.int64), np.zeros(len(gram_bnn), bool), np.arange(len(gram_bnn))
    for run in range(1, inertia_br.shape[1]):
        unequal_bn = lloyd.label_brn[:, run] != lloyd.label_brn[one_b, best_b]
        is_other_b = unequal_bn.any(axis=1) & ~unequal_bn.all(axis=1)
        gain_b = inertia_br[one_b, best_b] - inertia_br[:, run]
        close_b |= is_other_b & (np.abs(gain_b) <= slack_b * gram_bnn.shape[1])
        best_b = np.where(is_other_b & (gain_b > 0), run, best_b)
    return best_b, close_b
