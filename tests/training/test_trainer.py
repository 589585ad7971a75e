"""The loop: planted features are recovered, thresholds and figures are what they say, resuming changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glasshouse.plugins.saes import own_format
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.training import checkpoint as checkpoints
from glasshouse.plugins.training.buffer import ShuffleBuffer
from glasshouse.plugins.training.figures import figures_of
from glasshouse.plugins.training.model import Trainee
from glasshouse.plugins.training.recipe import Recipe
from glasshouse.plugins.training.saving import save_trained
from glasshouse.plugins.training.trainer import Trained, Trainer, statistics
from glasshouse.schema.errors import ModelError, UsageError, WarehouseError
from glasshouse.warehouse.extraction.self_test import self_test

D, N_PLANTED, K = 32, 48, 4
RECIPE = Recipe("batchtopk", 64, K, (64,), steps=400, batch=256, learning_rate=5e-3)


def planted(n_rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [n, D] that are sums of 4 of 48 directions [48, D] around a mean, 7 units long."""
    directions_fd = torch.nn.functional.normalize(
        torch.randn(N_PLANTED, D, generator=torch.Generator().manual_seed(99)), dim=1
    )
    generator = torch.Generator().manual_seed(seed)
    chosen_nk = torch.rand(n_rows, N_PLANTED, generator=generator).topk(K, dim=1).indices
    weight_nk = 5 + 5 * torch.rand(n_rows, K, 1, generator=generator)
    noise_nd = 0.1 * torch.randn(n_rows, D, generator=generator)
    return (directions_fd[chosen_nk] * weight_nk).sum(1) + 7 + noise_nd, directions_fd


ROWS_ND, DIRECTIONS_FD = planted(8_000, 0)
HELD_OUT_ND, _ = planted(2_000, 1)


def run(recipe: Recipe, rows_nd: torch.Tensor = ROWS_ND, **how: Any) -> Trained:
    buffer = ShuffleBuffer(rows_nd.numpy(), recipe.batch, recipe.seed)
    return Trainer(buffer, recipe, HELD_OUT_ND, **how).run()


def recovered(trained: Trained) -> float:
    """Share of the planted directions that a decoder row has a cosine above .9 with."""
    cosine_fp = trained.form.w_dec_fd @ DIRECTIONS_FD.T
    return float((cosine_fp.max(0).values > 0.9).float().mean())


@pytest.mark.parametrize(
    ("kind", "prefixes", "share"), [("topk", (64,), 0.9), ("batchtopk", (64,), 0.9), ("matryoshka", (48, 64), 0.75)]
)
def test_planted_features_are_recovered_and_random_ones_are_not(
    kind: Any, prefixes: tuple[int, ...], share: float
) -> None:
    """Planted features are all of one rank, so a Matryoshka dictionary's prefixes cost it some of them."""
    recipe = replace(RECIPE, kind=kind, prefixes=prefixes, steps=800, learning_rate=1e-2)
    trained = run(recipe)
    untrained = run(replace(recipe, steps=1, learning_rate=1e-9))
    rng = np.random.default_rng(0)
    shuffled_nd = torch.from_numpy(rng.permuted(ROWS_ND.numpy(), axis=0))
    of_noise = run(recipe, shuffled_nd)
    assert recovered(trained) >= share
    assert recovered(untrained) <= 0.05 and recovered(of_noise) <= 0.1
    assert trained.figures.explained_variance > 0.9 > untrained.figures.explained_variance + 0.3
    assert trained.form.w_dec_fd.norm(dim=1).sub(1).abs().max() < 1e-5


def test_weights_that_overflow_say_what_to_change() -> None:
    """The loss of the only step is finite, since it is taken before the weights move."""
    with pytest.raises(ModelError, match=r"NaN or infinity after step 1\. Try a --learning-rate below 1e\+38"):
        run(replace(RECIPE, steps=1, learning_rate=1e38))


def test_the_threshold_gives_k_features_on_the_vectors_of_the_buffer() -> None:
    trained = run(replace(RECIPE, steps=60))
    codes = CommonSae("found", trained.form).encode(ROWS_ND)
    assert len(codes.value) / len(ROWS_ND) == pytest.approx(K, abs=2e-3)
    sae = Trainee(RECIPE, ROWS_ND.mean(0), 1.0)
    sae.threshold = 1e9
    pre_nf = (ROWS_ND - ROWS_ND.mean(0)) @ sae.w_enc_fd.detach().T
    expected = pre_nf.flatten().sort(descending=True).values[len(ROWS_ND) * K]
    assert sae.threshold_for(ROWS_ND) == pytest.approx(float(expected), rel=1e-5), "also from a far guess"


def test_figures_are_those_of_plain_formulas_and_of_the_self_test() -> None:
    trained = run(replace(RECIPE, kind="matryoshka", prefixes=(8, 32, 64), steps=60))
    sae = CommonSae("found", trained.form, prefixes=(8, 32, 64))
    found = figures_of(sae, HELD_OUT_ND)
    tested = self_test(sae, HELD_OUT_ND)
    assert tested is not None
    for name in ("explained_variance", "l0", "cosine"):
        assert getattr(found, name) == pytest.approx(getattr(tested, name), abs=1e-6)
    form = trained.form
    pre_nf = (HELD_OUT_ND - form.b_dec_d) @ form.w_enc_df + form.b_enc_f
    codes_nf = pre_nf * (pre_nf > form.threshold_f)
    total = (HELD_OUT_ND - HELD_OUT_ND.mean(0)).square().sum()
    for size in (8, 32, 64):
        residual_nd = HELD_OUT_ND - codes_nf[:, :size] @ form.w_dec_fd[:size] - form.b_dec_d
        assert found.prefixes[str(size)] == pytest.approx(float(1 - residual_nd.square().sum() / total), abs=1e-4)
    assert found.dead_share == float((~(codes_nf > 0).any(0)).float().mean())
    assert found.prefixes["8"] < found.prefixes["32"] < found.prefixes["64"] == found.explained_variance


def test_units_of_the_input_do_not_matter_to_training() -> None:
    """A factor of a power of two is folded away exactly."""
    recipe = replace(RECIPE, steps=30)
    plain, large = run(recipe), run(recipe, ROWS_ND * 1_024)
    for name, value in plain.form.tensors().items():
        factor = 1.0 if name.startswith("w_") else 1_024.0
        assert torch.equal(large.form.tensors()[name], value * factor), name


def test_dead_features_come_back_only_with_the_auxiliary_loss() -> None:
    """Features that the others always outdo are never chosen; the auxiliary loss teaches them what is left over."""
    dead_share = {}
    for weight in (0.0, 1 / 32):
        recipe = replace(RECIPE, steps=300, auxiliary_weight=weight, dead_after=2_560)
        trainer = Trainer(ShuffleBuffer(ROWS_ND.numpy(), 256, 0), recipe, HELD_OUT_ND)
        with torch.no_grad():
            trainer.trainee.b_enc_f[16:] = -0.2
        dead_share[weight] = trainer.run().figures.dead_share
    assert dead_share[0.0] > dead_share[1 / 32] + 0.2, dead_share


def test_decoder_rows_stay_unit_and_parallel_gradients_are_taken_out() -> None:
    trainee = Trainee(RECIPE, *statistics(ROWS_ND))
    trainee.step(ROWS_ND[:256], 200)
    assert trainee.w_dec_fd.grad is not None
    along_f = torch.linalg.vecdot(trainee.w_dec_fd.grad, torch.nn.functional.normalize(trainee.w_dec_fd.detach()))
    assert trainee.w_dec_fd.grad.norm() > 1e-3
    # One step turned the rows a little after the gradient was taken.
    assert along_f.abs().max() < 0.05 * trainee.w_dec_fd.grad.norm()
    assert torch.allclose(trainee.w_dec_fd.norm(dim=1), torch.ones(64), atol=1e-6)


class Stop:
    """Says stop after some steps, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kind", ["topk", "matryoshka"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, kind: Any) -> None:
    prefixes = (16, 64) if kind == "matryoshka" else (64,)
    recipe = replace(RECIPE, kind=kind, prefixes=prefixes, steps=120, dead_after=2_000)
    undisturbed = run(recipe)
    for n_before in (1, 37, 61, 120):
        folder = tmp_path / f"{n_before}"
        folder.mkdir()
        trainer = Trainer(ShuffleBuffer(ROWS_ND.numpy(), 256, 0), recipe, HELD_OUT_ND, folder=folder)
        assert trainer.run(Stop(n_before)).stopped == (n_before < 120)
        found = checkpoints.load(folder)
        assert found is not None and found.values["step"] == n_before
        again = Trainer(ShuffleBuffer(ROWS_ND.numpy(), 256, 0), recipe, HELD_OUT_ND, folder=folder)
        again.resume(found)
        resumed = again.run()
        for name, value in undisturbed.form.tensors().items():
            assert torch.equal(resumed.form.tensors()[name], value), (n_before, name)
        assert resumed.figures == undisturbed.figures and resumed.curves == undisturbed.curves
        lines = (folder / "curves.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == undisturbed.curves


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    rows_nd = ROWS_ND.clone()
    recipe = replace(RECIPE, steps=40)
    trainer = Trainer(ShuffleBuffer(rows_nd.numpy(), 256, 0), recipe, HELD_OUT_ND, folder=tmp_path, checkpoint_every=5)
    rows_nd[trainer.buffer._order[256 * 12]] = float("inf")
    with pytest.raises(ModelError, match=r"loss of step 13 is (nan|inf).*checkpoint of step 10 is kept.*learning-rate"):
        trainer.run()
    found = checkpoints.load(tmp_path)
    assert found is not None and found.values["step"] == 10
    assert all(bool(value.isfinite().all()) for value in found.tensors.values())
    assert bool(trainer.trainee.w_enc_fd.isfinite().all()), "the step changed nothing"


def test_activations_that_nothing_can_be_learnt_from() -> None:
    with pytest.raises(ModelError, match="mean squared norm of the activations is 0"):
        run(RECIPE, torch.zeros(600, D))


def test_the_saved_dictionary_reproduces_its_figures(tmp_path: Path) -> None:
    trained = run(replace(RECIPE, kind="matryoshka", prefixes=(16, 64), steps=60))
    origin = {"hook": "h", "tokens": "cls", "encoder": "toy:0"}
    for half in (False, True):
        said = save_trained(tmp_path / str(half), trained, HELD_OUT_ND, origin, {"images": 3}, half=half)
        loaded = own_format.load(tmp_path / str(half), "cpu", "loaded")
        assert figures_of(loaded, HELD_OUT_ND) == said
        assert loaded.about["self_test"] == said.as_dict()
        about = loaded.about["training"]
        assert (about["images"], about["seed"], about["steps"]) == (3, 0, 60)
        assert (loaded.prefixes, loaded.hook, loaded.tokens) == ((16, 64), "h", "cls")


def test_other_settings_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"f is of another training: seed 0 there and 1 here, l0 3 there and 4 here"):
        checkpoints.check_same({"seed": 0, "l0": 3, "batch": 2}, {"seed": 1, "l0": 4, "batch": 2}, "f")


def test_a_broken_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path) is None
    (tmp_path / checkpoints.FILE_NAME).write_bytes(b"no checkpoint")
    with pytest.raises(WarehouseError, match="cannot be read as a checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_learns_what_the_cpu_learns() -> None:
    trained = run(RECIPE, device="cuda")
    assert recovered(trained) >= 0.9
    assert trained.figures.explained_variance == pytest.approx(run(RECIPE).figures.explained_variance, abs=0.02)


def test_statistics_of_the_input() -> None:
    mean_d, scale = statistics(ROWS_ND)
    scaled = ROWS_ND.numpy().astype(np.float64) * scale
    assert (scaled**2).sum(1).mean() == pytest.approx(1, abs=1e-6)
    assert np.allclose(mean_d.numpy(), ROWS_ND.numpy().astype(np.float64).mean(0), atol=1e-5)
