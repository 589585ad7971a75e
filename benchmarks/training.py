"""A step of training on vectors in memory, against the bare products of a dense forward and backward pass.

The limit is what a dense SAE's step cannot do without: x·W_encᵀ and z·W_dec, and the gradients of W_enc, W_dec and z.
No choice of codes, no loss, no optimizer. Ours does all of that, with one dense product and sparse sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, ratio
from glasshouse.plugins.training.model import Trainee
from glasshouse.plugins.training.recipe import Kind, Recipe
from glasshouse.plugins.training.trainer import statistics

SIZES = ((512, 8_192, 12, 4_096), (128, 512, 8, 1_024))
"""D, F, k and vectors a step: CFM's dictionary with a batch that fits here, and the starter's."""
QUICK = ((64, 256, 4, 256),)
KINDS: tuple[Kind, ...] = ("topk", "batchtopk", "matryoshka")
N_PREFIXES = 5
TARGET = 0.8
STEPS_APART = 2
"""Steps and products are timed in turn, so that a busy minute hits both."""


def run(setting: Setting) -> Iterator[Row]:
    """Yield for each size and kind the throughput as a share of the bare products'."""
    for width, n_features, k, batch in QUICK if setting.quick else SIZES:
        recipe = Recipe("topk", n_features, k, (n_features,), 10_000, batch, 1e-4)
        acts_nd = torch.randn(4 * batch, width, generator=torch.Generator().manual_seed(0))
        steps = {kind: _steps(recipe, kind, acts_nd) for kind in KINDS}
        products = _products(recipe, acts_nd[:batch])
        repeats = setting.repeats if n_features > 1_000 else 3 * setting.repeats
        times = interleaved({**steps, "products": products}, repeats)
        for kind in KINDS:
            seconds, bare = min(times[kind]) / STEPS_APART, min(times["products"]) / STEPS_APART
            share = ratio(times, "products", kind)
            yield Row(
                "training",
                f"{kind}, D {width}, F {n_features:,}, k {k}: steps of {batch:,} vectors",
                f"{batch / seconds:,.0f} vectors/s",
                f"{batch / bare:,.0f} vectors/s, bare dense products of forward and backward",
                share,
                f">= {TARGET}",
                share >= TARGET,
            )


def _steps(recipe: Recipe, kind: Kind, acts_nd: torch.Tensor) -> Callable[[], object]:
    """Two steps of a trainee that is past its first ones."""
    n_features, batch = recipe.n_features, recipe.batch
    sizes = tuple(n_features >> (N_PREFIXES - 1 - i) for i in range(N_PREFIXES))
    recipe = replace(recipe, kind=kind, prefixes=sizes if kind == "matryoshka" else (n_features,))
    trainee = Trainee(recipe, *statistics(acts_nd))
    batches = list(acts_nd.split(batch))  # type: ignore[no-untyped-call]
    for number in range(3):
        trainee.step(batches[number], number)

    def steps() -> None:
        for number in range(STEPS_APART):
            trainee.step(batches[number], 100 + number)

    return steps


def _products(recipe: Recipe, acts_nd: torch.Tensor) -> Callable[[], object]:
    """The same number of dense forward and backward passes, with nothing but their products."""
    generator = torch.Generator().manual_seed(1)
    w_enc_fd = torch.randn(recipe.n_features, acts_nd.shape[1], generator=generator)
    w_dec_fd = torch.randn(recipe.n_features, acts_nd.shape[1], generator=generator)

    def products() -> None:
        for _ in range(STEPS_APART):
            codes_nf = acts_nd @ w_enc_fd.T
            error_nd = codes_nf @ w_dec_fd
            code_gradient_nf = error_nd @ w_dec_fd.T
            _ = codes_nf.T @ error_nd
            _ = code_gradient_nf.T @ acts_nd

    return products
