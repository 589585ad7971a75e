"""Ablation against a forward pass with a hook of its own and an SAE written out, and what controls must show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from glasshouse.plugins.analyzers.ablation import Ablator, Jobs, load_model, shares_passes
from glasshouse.plugins.analyzers.ablation_edits import Change, TokenEdits
from glasshouse.plugins.analyzers.ablation_run import control_features
from glasshouse.plugins.analyzers.ablation_targets import Scored
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.starter.models import load_clip, pixels
from glasshouse.plugins.testing.fixtures import _built, small_warehouse  # noqa: F401
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

BLOCK = {"cls": 3, "patches": 2}
TEXTS = ("a circle", "a red shape", "a watermark")


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_clip()


@pytest.fixture(scope="module")
def texts_te() -> Any:
    """Unit vectors of TEXTS."""
    from glasshouse.plugins.starter.activations import text_embeddings
    from glasshouse.plugins.starter.models import clip_tokenizer

    return text_embeddings(load_clip(), clip_tokenizer(), list(TEXTS)).double().numpy()


@torch.no_grad()
def naive_pass(clip: Any, sae: Any, space: str, picture: Any, feature: int, rule: Any, *, rebuilt: bool = False) -> Any:
    """Unit embeddings of one picture before and after, and the largest change of the activation.

    `rule` gives the new activation from the old. Codes are formed densely, token by token, from the SAE's tensors.
    """
    form, largest = sae.form, [0.0]
    threshold = torch.clamp(form.threshold_f, min=0)

    def run(change: Any) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            new = output.clone()
            for token in range(0, 1) if space == "cls" else range(1, 65):
                x_d = output[0, token]
                inputs_d = x_d - form.b_dec_d if form.apply_b_dec_to_input else x_d
                code_f = torch.relu(inputs_d @ form.w_enc_df + form.b_enc_f)
                code_f = code_f * (code_f > threshold)
                base_d = code_f @ form.w_dec_fd + form.b_dec_d
                if rebuilt:
                    new[0, token] = base_d
                if change is not None and code_f[feature] > 0:
                    old = float(code_f[feature])
                    code_f[feature] = change(old)
                    largest[0] = max(largest[0], abs(change(old) - old))
                    new[0, token] += code_f @ form.w_dec_fd + form.b_dec_d - base_d
            return new

        handle = clip.visual.transformer.resblocks[BLOCK[space]].register_forward_hook(hook)
        try:
            return clip.encode_image(pixels(np.array(picture)[None]), normalize=True)[0].double().numpy()
        finally:
            handle.remove()

    return run(None), run(rule), largest[0]


@pytest.mark.parametrize("space", ["cls", "patches"])
@pytest.mark.parametrize("how", ["zero", "mean", "scale", "rebuilt"])
def test_equals_a_pass_with_a_hook_of_its_own(
    small_warehouse: Any,  # noqa: F811
    clip: Any,
    texts_te: Any,
    space: str,
    how: str,
) -> None:
    view = AnalysisView(small_warehouse, space)
    stats = view.statistics().sort("n_active", descending=True)
    features = [int(f) for f in stats["feature_id"][3:5]]
    given = {"rebuilt": {"reconstruction": True}, "scale": {"to": "scale", "scale": 2.5}, "mean": {"to": "mean"}}
    (report,) = small_warehouse.analyze(
        "ablate", space, features=tuple(features), texts=TEXTS, k=3, **given.get(how, {})
    )
    rows = small_warehouse.result_rows(report.run)
    assert sorted(set(rows["feature_id"])) == sorted(features)
    sae = load_model(view, "cpu").sae
    for feature in features:
        n_tokens = 64 if space == "patches" else 1
        maps = [small_warehouse.token_map(space, feature, i).sum() if n_tokens > 1 else None for i in range(60)]
        codes_n = small_warehouse.sparse_matrix(space).toarray()[:, feature]
        mean = float(sum(maps) if n_tokens > 1 else codes_n.sum()) / (60 * n_tokens)
        rule = {"mean": lambda old, mean=mean: mean, "scale": lambda old: 2.5 * old}.get(how, lambda old: 0.0)
        top = sorted(range(60), key=lambda i: (-codes_n[i], i))[:3]
        passes = [
            naive_pass(clip, sae, space, small_warehouse.picture(i), feature, rule, rebuilt=how == "rebuilt")
            for i in top
        ]
        effect_t = np.mean([texts_te @ after - texts_te @ before for before, after, _ in passes], axis=0)
        removed = sum(largest for _, _, largest in passes)
        own = rows.filter(rows["feature_id"] == feature)
        for t, text in enumerate(TEXTS):
            row = own.filter(own["target"] == text).row(0, named=True)
            assert row["effect"] == pytest.approx(effect_t[t], abs=2e-6)
            assert row["margin"] == pytest.approx(effect_t[t] - np.delete(effect_t, t).mean(), abs=4e-6)
            assert row["effect_per_unit"] == pytest.approx(3 * effect_t[t] / removed, abs=2e-6)
            assert row["rank"] == sum(other < row["margin"] for other in own["margin"])
        distances = [1 - float(before @ after) for before, after, _ in passes]
        assert own["embedding_change"][0] == pytest.approx(np.mean(distances), abs=2e-6) and own["n_images"][0] == 3
        assert own["removed"][0] == pytest.approx(removed / 3, rel=1e-4)
        assert max(map(abs, effect_t)) > 1e-4, "something happens at all"


def random_sae(normalization: str) -> CommonSae:
    rng = np.random.default_rng(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    form = CommonForm(
        w_enc_df=tensor(6, 10), b_enc_f=tensor(10), w_dec_fd=tensor(10, 6), b_dec_d=tensor(6),
        activation="relu", normalization=normalization, input_scale=1.7,
    )  # fmt: skip
    return CommonSae("test", form)


@pytest.mark.parametrize("normalization", ["none", "layer_norm"])
def test_what_is_added_is_the_difference_of_two_decodings(normalization: str) -> None:
    """Also where the SAE normalises each vector, so that its decoder alone is not the answer."""
    sae = random_sae(normalization)
    acts_btd = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    change = Change(0.5, np.linspace(0, 1, 10))
    row_j, feature_j = np.array([0, 2, 2, 1, 0]), np.array([1, 4, 1, 9, 1])
    is_random_j = np.array([False, False, True, False, True])
    deltas = TokenEdits(sae, acts_btd, change, 0).deltas(row_j, feature_j, is_random_j)
    found = {int(job): delta for job, delta in zip(deltas.active, deltas.delta_jtd, strict=True)}
    directions = []
    for job, (row, feature, is_random) in enumerate(zip(row_j, feature_j, is_random_j, strict=True)):
        for token in range(4):
            x_1d = acts_btd[row, token][None]
            codes = sae.encode(x_1d)
            dense_f = torch.zeros(10)
            dense_f[codes.feature.long()] = codes.value
            if dense_f[feature] == 0:
                assert job not in found or not found[job][token].any()
                continue
            new_f = dense_f.clone()
            new_f[feature] = 0.5 * new_f[feature] + change.value_f[feature]
            kept = torch.nonzero(new_f)[:, 0]
            edited = codes._replace(
                row=torch.zeros(len(kept), dtype=torch.int32), feature=kept.int(), value=new_f[kept]
            )
            expected_d = (sae.decode(edited, 1, x_1d) - sae.decode(codes, 1, x_1d))[0]
            if is_random:
                assert found[job][token].norm() == pytest.approx(expected_d.norm().item(), rel=1e-5)
                directions.append(found[job][token] / found[job][token].norm())
            else:
                torch.testing.assert_close(found[job][token], expected_d, atol=1e-5, rtol=1e-4)
    assert len(directions) > 1
    for direction in directions:
        torch.testing.assert_close(direction, directions[0])


def test_a_feature_that_is_silent_is_left_out() -> None:
    sae = random_sae("none")
    acts_btd = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(1))
    codes = sae.encode(acts_btd[0])
    silent = next(f for f in range(10) if f not in codes.feature.tolist())
    edits = TokenEdits(sae, acts_btd, Change(0, np.zeros(10)), 0)
    deltas = edits.deltas(np.array([0, 0]), np.array([silent, int(codes.feature[0])]), np.zeros(2, dtype=bool))
    assert deltas.active.tolist() == [1]


def test_sharing_the_start_of_the_pass_changes_nothing(small_warehouse: Any) -> None:  # noqa: F811
    view = AnalysisView(small_warehouse, "patches")
    model = load_model(view, "cpu")
    assert shares_passes(model)
    batch_bchw = torch.stack([model.encoder.preprocess(small_warehouse.picture(i)) for i in range(4)])
    image_j = np.array([0, 0, 1, 3, 3, 3])
    jobs = Jobs(image_j, np.arange(6), np.array([False, True] * 3))
    shared, apart = (Ablator(model, Change(0, np.zeros(view.n_features))) for _ in range(2))
    apart.shares = False
    one, other = (ablator.edited(batch_bchw, image_j, jobs)[1] for ablator in (shared, apart))
    assert len(one.job) and (one.job == other.job).all()
    np.testing.assert_allclose(one.after_ne, other.after_ne, atol=1e-5)
    inner = model._replace(point=next(p for p in model.encoder.hook_points() if p.name == "blocks.1.mlp"))
    assert not shares_passes(inner), "the residual stream joins the neurons again"


def test_margins_are_within_the_attribute() -> None:
    scored = Scored(["a", "b", "c", "alone"], ["x", "x", "x", "y"], lambda e: e)
    found = scored.margins(np.array([[1.0, 2.0, 6.0, 5.0]]))
    np.testing.assert_allclose(found, [[1 - 4, 2 - 3.5, 6 - 1.5, 5 - 3]])


def test_the_control_is_as_frequent() -> None:
    n_active_f = np.array([0, 5, 100, 101, 99, 5, 0, 1000, 98, *range(900, 920)])
    found = control_features(n_active_f, [2, 1, 7], 0)
    assert found[2] in {3, 4, 8, 1, 5, *range(9, 29)} and found[2] != 2 and found[7] >= 9
    assert found == control_features(n_active_f, [2, 1, 7], 0)
    assert control_features(np.array([3, 0]), [0], 0) == {}


def test_by_a_probe_and_by_the_embedding_alone(small_warehouse: Any) -> None:  # noqa: F811
    with pytest.raises(UsageError, match=r"no probe of the encoder's own embedding.*--attribute size"):
        small_warehouse.analyze("ablate", "cls", output="probe", attributes=("size",))
    small_warehouse.analyze("probe", "cls", attribute="size", min_images=2)
    (report,) = small_warehouse.analyze("ablate", "cls", output="probe", attributes=("size",), n=3, k=2)
    rows = small_warehouse.result_rows(report.run)
    assert set(rows["target"]) == {"small", "large"} and set(rows["attribute"]) == {"size"}
    (report,) = small_warehouse.analyze("ablate", "cls", output="embedding", n=3, k=2)
    alone = small_warehouse.result_rows(report.run)
    assert alone["target"].null_count() == alone.height == 3
    assert (alone["embedding_change"] > 0).all() and "embedding moves by" in report.run.notes["summary"]
    both = small_warehouse.sql("SELECT DISTINCT output FROM ablate WHERE space = 'cls'")
    assert set(both["output"]) == {"probe", "embedding"}


def test_what_is_refused(small_warehouse: Any) -> None:  # noqa: F811
    with pytest.raises(UsageError, match=r"'odd' was imported"):
        small_warehouse.analyze("ablate", "odd")
    with pytest.raises(UsageError, match=r"--scale counts with --to scale only"):
        small_warehouse.analyze("ablate", "cls", scale=2.0)
    with pytest.raises(UsageError, match=r"Nothing is labelled with 'flavour'"):
        small_warehouse.analyze("ablate", "cls", attributes=("flavour",))
    last, pooled = (
        ("last", "blocks.3.resid_post", "patches", "neurons"),
        ("p", "blocks.2.resid_post", "mean", "neurons"),
    )
    small_warehouse.extract("starter:clip", [last, pooled])
    with pytest.raises(UsageError, match=r"does not depend on the tokens of the space 'last'.*earlier hook point"):
        small_warehouse.analyze("ablate", "last")
    with pytest.raises(UsageError, match=r"pooled over tokens \(mean\)"):
        small_warehouse.analyze("ablate", "p")
