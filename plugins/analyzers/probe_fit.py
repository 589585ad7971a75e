"""Linear probes without bias, one class against the rest: fitting, choosing the regularisation, measuring.

Each class is a logistic regression of its own: logit = Σ weight × input. The regularisation is the strongest whose
score on the validation images is (nearly) the best; then both parts are learned from together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.probe_targets import Bools, Ints, Targets
from glasshouse.warehouse.splits import TEST, TRAIN, VALIDATION

Floats = npt.NDArray[np.floating]

GRID: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Values of C, the inverse strength of the regularisation, in rising order."""

PATIENCE: Final = 2
"""Values of C in a row without a better score after which weaker regularisation is not tried; for L2, since L1 leaves
classes without any weight at first."""

MAX_ITERATIONS: Final = 300


class Scores(NamedTuple):
    """Figures of a probe on one part: share of images whose first class is one of theirs, mean average precision."""

    accuracy: float
    mean_ap: float
    ap_c: Floats


@dataclass(frozen=True)
class Probe:
    """A fitted probe: weights [inputs, classes] of the scaled inputs, the C that was chosen, how it was chosen."""

    weights_fc: Floats
    c: float
    tried: dict[float, float]
    n_unfinished: int
    """Fits that had not converged after MAX_ITERATIONS."""


def fit(
    inputs: Any,
    targets: Targets,
    penalty: Literal["l1", "l2"],
    *,
    slack: float = 0.0,
    c: float | None = None,
    step: Callable[[], None] = lambda: None,
) -> Probe:
    """Fit a probe on the training and validation images; C is chosen on the latter unless it is given.

    Args:
        inputs: [images of the targets, inputs], scaled; a CSR matrix or an array, float64.
        targets: classes and parts.
        penalty: `l1` leaves few inputs with a weight, `l2` gives all of them small ones.
        slack: validation score that may be given up for a stronger regularisation.
        c: the regularisation, where it is settled.
        step: called after each class.
    """
    train, validation = targets.rows(TRAIN), targets.rows(VALIDATION)
    tried: dict[float, float] = {}
    unfinished = 0
    for value in GRID if c is None else ():
        weights_fc, n = _weights(inputs[train], targets.true_nc[train], penalty, value, step)
        unfinished += n
        logits_nc = inputs[validation] @ weights_fc
        tried[value] = selection_score(logits_nc, targets.true_nc[validation])
        best = max(tried, key=lambda key: tried[key])
        n_since = len(tried) - 1 - list(tried).index(best)
        if tried[best] == 1 or (penalty == "l2" and n_since >= PATIENCE):
            break
    chosen = c if c is not None else next(v for v in tried if tried[v] >= max(tried.values()) - slack)
    both = targets.rows(TRAIN, VALIDATION)
    weights_fc, n = _weights(inputs[both], targets.true_nc[both], penalty, chosen, step)
    return Probe(weights_fc, chosen, tried, unfinished + n)


def _weights(
    inputs: Any, true_nc: Bools, penalty: Literal["l1", "l2"], c: float, step: Callable[[], None]
) -> tuple[Floats, int]:
    """Fit every class; return the weights [inputs, classes] and how many fits did not converge."""
    from sklearn.exceptions import ConvergenceWarning  # late: it takes a second to import
    from sklearn.linear_model import LogisticRegression

    weights_fc = np.zeros((inputs.shape[1], true_nc.shape[1]))
    unfinished = 0
    # Coordinate descent is far quicker than SAGA on sparse inputs with L1, L-BFGS on dense ones with L2.
    solver, ratio = ("liblinear", 1.0) if penalty == "l1" else ("lbfgs", 0.0)
    for number in range(true_nc.shape[1]):
        is_class_n = true_nc[:, number]
        if is_class_n.any() and not is_class_n.all():
            model = LogisticRegression(
                solver=solver, l1_ratio=ratio, C=c, fit_intercept=False, max_iter=MAX_ITERATIONS, random_state=0
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(inputs, is_class_n)
            unfinished += any(issubclass(one.category, ConvergenceWarning) for one in caught)
            weights_fc[:, number] = model.coef_[0]
        step()
    return weights_fc, unfinished


def selection_score(logits_nc: Floats, true_nc: Bools) -> float:
    """Return what C is chosen by: accuracy, and where images have several classes the mean average precision."""
    scores = scores_of(logits_nc, true_nc)
    return scores.mean_ap if (true_nc.sum(axis=1) > 1).any() else scores.accuracy


def first_class(logits_nc: Floats) -> Ints:
    """Return each image's class of largest logit; of equal ones the class with most training images, the first."""
    return np.asarray(np.argmax(logits_nc, axis=1))


def scores_of(logits_nc: Floats, true_nc: Bools) -> Scores:
    """Measure logits against what is true; the average precision of a class that no image has is NaN."""
    from sklearn.metrics import average_precision_score  # late: it takes a second to import

    hit = true_nc[np.arange(len(true_nc)), first_class(logits_nc)].mean()
    ap_c = np.array(
        [
            average_precision_score(true_nc[:, number], logits_nc[:, number]) if true_nc[:, number].any() else np.nan
            for number in range(true_nc.shape[1])
        ]
    )
    return Scores(float(hit), float(np.nanmean(ap_c)), ap_c)


def scores_on_test(probe: Probe, inputs: Any, targets: Targets) -> Scores:
    """Measure a probe on the test images."""
    test = targets.rows(TEST)
    return scores_of(inputs[test] @ probe.weights_fc, targets.true_nc[test])


def shuffled(targets: Targets, seed: int) -> Targets:
    """Return the targets with the classes of training and validation images dealt out anew; those of test stay."""
    rng = np.random.default_rng(seed)
    true_nc = targets.true_nc.copy()
    for part in (TRAIN, VALIDATION):
        rows = targets.rows(part)
        true_nc[rows] = true_nc[rng.permutation(rows)]
    return targets._replace(true_nc=true_nc)
