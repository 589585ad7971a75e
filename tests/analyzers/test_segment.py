"""The analysis `segment` and its command on a small rendered world, against loops over the stored activations."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from kit.clip_space import N_FEATURES, clip_space
from PIL import Image
from polars.testing import assert_frame_equal

from glasshouse.plugins.analyzers import segment
from glasshouse.plugins.analyzers.clip_space import decoder
from glasshouse.plugins.analyzers.segment import Segment, drawn
from glasshouse.plugins.analyzers.space_models import encoder_of
from glasshouse.plugins.segmentation.drawing import colour_of, drawing
from glasshouse.plugins.segmentation.one import Ask, segmented
from glasshouse.plugins.segmentation.pixels import NOWHERE, UNKNOWN
from glasshouse.plugins.segmentation.texts import class_vectors
from glasshouse.plugins.testing.conformance import check_analyzer
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.intake.masks import decode_mask
from glasshouse.warehouse.warehouse import Warehouse

N = 7
COLOURS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    made = clip_space(tmp_path_factory.mktemp("segment"), N)
    made.extract("starter:clip", [("elsewhere", "blocks.2.resid_post", "patches", "neurons")])
    yield made
    made.close()


def run_of(warehouse, **parameters):
    (report,) = warehouse.analyze("segment", "here", **parameters)
    return warehouse.result_rows(report.run), report.run.notes


def chances_of(warehouse, names, templates):
    """Probabilities [images, 8, 8, classes], patch by patch from the stored activations."""
    view = AnalysisView(warehouse, "here")
    found, classes_ce = decoder(view), class_vectors(encoder_of(view), names, templates)
    maps_nft = np.array([[view.token_map(f, n).ravel() for f in range(N_FEATURES)] for n in range(N)], dtype=np.float64)
    vectors_nte = np.einsum("nft,fe->nte", maps_nft, found.vectors_fe) + found.bias_e
    logits = 100 * vectors_nte @ classes_ce.T / np.linalg.norm(vectors_nte, axis=2, keepdims=True)
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    chances = (powers / powers.sum(axis=2, keepdims=True)).reshape(N, 8, 8, -1)
    return chances, maps_nft, vectors_nte, found, classes_ce


def truths_of(warehouse, names, attribute):
    """Annotated classes [images, 64, 64]: small masks painted over large ones."""
    rows = warehouse.sql(
        "SELECT image_id, category, attributes::VARCHAR AS attributes, mask_height, mask_width, mask_rle "
        "FROM annotations WHERE mask_rle IS NOT NULL"
    )
    truths = np.full((N, 64, 64), NOWHERE)
    masks = [(decode_mask(r["mask_height"], r["mask_width"], r["mask_rle"]), r) for r in rows.to_dicts()]
    for mask_hw, row in sorted(masks, key=lambda one: -int(one[0].sum())):
        label = row["category"] if attribute == "category" else json.loads(row["attributes"] or "{}").get(attribute)
        truths[row["image_id"]][mask_hw] = names.index(label) if label in names else UNKNOWN
    return truths


def enlarged(chances_rlc):
    """Probabilities of the pixels, by Pillow's bilinear filter, which for enlarging is the same."""
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR))
        for plane in np.moveaxis(chances_rlc, 2, 0)
    ]
    return np.stack(planes, axis=-1)


def miou_of(truths, founds, n_classes, *, background):
    values = []
    for label in [*range(n_classes), *([NOWHERE] if background else [])]:
        counted = (truths != UNKNOWN) & ((truths != NOWHERE) | background)
        true, said = counted & (truths == label), counted & (founds == label)
        if true.any():
            values.append((true & said).sum() / (true | said).sum())
    return float(np.mean(values))


@pytest.mark.parametrize("n_background", [0, 2])
def test_mean_iou_is_that_of_the_decoded_concepts(warehouse, n_background):
    background = ("a plain background", "a grid background")[:n_background]
    threshold = 0.5 if n_background else 0.0
    given = {"attribute": "colour", "classes": COLOURS, "templates": ("a {} shape",)}
    _, notes = run_of(warehouse, **given, background=background, threshold=threshold)
    chances = chances_of(warehouse, [*COLOURS, *background], given["templates"])[0]
    truths = truths_of(warehouse, list(COLOURS), "colour")
    founds = np.empty((N, 64, 64), int)
    for n in range(N):
        pixels = enlarged(chances[n])
        best = pixels.argmax(axis=2)
        founds[n] = np.where((best < 3) & (pixels.max(axis=2) >= threshold), best, NOWHERE)
    expected = miou_of(truths, founds, 3, background=bool(n_background))
    assert notes["miou_concepts"] == pytest.approx(expected, abs=5e-3)
    assert ("background" in notes["classes"]) == bool(n_background)
    assert notes["n_images"] == len({n for n in range(N) if (truths[n] != NOWHERE).any()})
    assert 0 <= notes["miou_shuffled"] <= 1 and 0 < notes["miou_features"] <= 1
    for name, one in notes["classes"].items():
        if name != "background":
            assert one["n_pixels"] == (truths == COLOURS.index(name)).sum()


def test_the_table_has_what_each_concept_contributes_to_each_class(warehouse):
    given = {"attribute": "colour", "classes": COLOURS, "templates": ("a {} shape",), "features": False}
    rows, notes = run_of(warehouse, **given)
    assert "miou_features" not in notes
    chances, maps_nft, vectors_nte, found, classes_ce = chances_of(warehouse, COLOURS, given["templates"])
    masked = [n for n in range(N) if (truths_of(warehouse, list(COLOURS), "colour")[n] != NOWHERE).any()]
    class_nt = chances.reshape(N, 64, 3).argmax(axis=2)
    expected = {}
    for c, name in enumerate(COLOURS):
        members = [(n, t) for n in masked for t in range(64) if class_nt[n, t] == c]
        for f in range(N_FEATURES):
            toward = float(classes_ce[c] @ found.vectors_fe[f])
            pieces = [maps_nft[n, f, t] * toward / np.linalg.norm(vectors_nte[n, t]) for n, t in members]
            n_active = sum(maps_nft[n, f, t] > 0 for n, t in members)
            if n_active:
                expected[f, name] = (sum(pieces) / len(members), n_active, len(members))
    assert len(expected) > N_FEATURES
    assert {(r["feature_id"], r["class_name"]) for r in rows.iter_rows(named=True)} == set(expected)
    totals = {name: sum(max(v[0], 0) for (_, n), v in expected.items() if n == name) for name in COLOURS}
    for row in rows.iter_rows(named=True):
        mean, n_active, n_class = expected[row["feature_id"], row["class_name"]]
        assert (row["n_patches"], row["n_class_patches"]) == (n_active, n_class)
        assert row["contribution"] == pytest.approx(mean, rel=1e-3, abs=1e-6)
        assert row["share"] == pytest.approx(max(mean, 0) / totals[row["class_name"]], rel=1e-3, abs=1e-6)
    shown = warehouse.sql(
        "SELECT feature_id, class_name, share FROM features WHERE space = 'here' AND share IS NOT NULL"
    )
    best = rows.sort("share", descending=True).unique("feature_id", keep="first", maintain_order=True)
    joined = shown.join(best, on="feature_id", suffix="_best")
    assert shown.height == best.height and (joined["share"] == joined["share_best"]).all()


def test_pieces_and_the_whole_are_the_same(warehouse, monkeypatch):
    given = {"attribute": "colour", "classes": COLOURS}
    at_once = run_of(warehouse, **given)
    monkeypatch.setattr(segment, "MAX_ACTIVATIONS", 1)
    monkeypatch.setattr(segment, "MASKS_AT_ONCE", 2)
    (report,) = warehouse.analyze("segment", "here", **given, force=True)
    assert report.is_new
    assert report.run.notes == at_once[1]
    key = ["feature_id", "class_name"]
    assert_frame_equal(warehouse.result_rows(report.run).sort(key), at_once[0].sort(key))


def test_windows_of_a_picture_of_one_window_say_what_the_space_says(warehouse):
    given = {"attribute": "colour", "classes": COLOURS, "templates": ("a {} shape",)}
    stored, in_windows = run_of(warehouse, **given), run_of(warehouse, **given, windows=True)
    for name in ("miou_concepts", "miou_features"):
        assert in_windows[1][name] == pytest.approx(stored[1][name], abs=0.01)
    merged = stored[0].join(in_windows[0], on=["feature_id", "class_name"], suffix="_w")
    assert merged.height > 0.9 * stored[0].height
    np.testing.assert_allclose(merged["contribution"], merged["contribution_w"], atol=1e-3)


def test_classes_are_the_labels_of_masks_unless_they_are_named(warehouse):
    (report,) = warehouse.analyze("segment", "here", images=3)
    labels = warehouse.sql("SELECT DISTINCT category FROM annotations WHERE mask_rle IS NOT NULL ORDER BY category")
    assert list(report.run.parameters["classes"]) == labels["category"].to_list()
    assert report.run.notes["n_images"] == 3
    figures = [f"{report.run.notes[f'miou_{kind}']:.3f}" for kind in ("concepts", "features", "shuffled")]
    assert re.findall(r"\d\.\d{3}", report.run.notes["summary"]) == figures


def test_no_images_means_all_of_them():
    ids = np.arange(5, 25)
    assert drawn(ids, 0, 0) == drawn(ids, 20, 0) == ids.tolist()
    assert len(set(drawn(ids, 7, 0))) == 7 and set(drawn(ids, 7, 0)) < set(ids.tolist())


def test_patches_below_the_threshold_count_for_no_class(warehouse):
    given = {"attribute": "colour", "classes": COLOURS, "templates": ("a {} shape",), "features": False}
    rows, _ = run_of(warehouse, **given, threshold=0.6)
    masked = [n for n in range(N) if (truths_of(warehouse, list(COLOURS), "colour")[n] != NOWHERE).any()]
    chances = chances_of(warehouse, COLOURS, given["templates"])[0][masked].reshape(-1, 3)
    n_patches = {
        name: int(((chances.argmax(1) == c) & (chances.max(1) >= 0.6)).sum()) for c, name in enumerate(COLOURS)
    }
    found = dict(rows.select("class_name", "n_class_patches").iter_rows())
    assert found == {name: n for name, n in n_patches.items() if n} and sum(found.values()) < len(chances)
    one = segmented(warehouse, warehouse.picture(0), "here", Ask(COLOURS, threshold=0.99))
    sure = chances_of(warehouse, COLOURS, ("a {}",))[0][0].max(axis=2) >= 0.99
    assert sum(part.n_patches for part in one.parts) == sure.sum() < 64
    with pytest.raises(UsageError, match="--threshold must be a number"):
        segmented(warehouse, warehouse.picture(0), "here", Ask(COLOURS, threshold=float("nan")))


def test_without_masks_only_contributions_are_found(warehouse, tmp_path):
    view = AnalysisView(warehouse, "here")
    with pytest.raises(UsageError, match=r"no|No image .* has masks with 'nonsense'.*--classes"):
        warehouse.analyze("segment", "here", attribute="nonsense")
    rows, notes = run_of(warehouse, attribute="nonsense", classes=("red shape", "blue shape"))
    assert rows.height and notes == {"n_images": N, "n_unreadable": 0}
    assert view.n_images == N


def test_spaces_and_parameters_that_do_not_fit(warehouse):
    for space, parameters, message in (
        ("elsewhere", {}, "'segment' needs a space of patches in CLIP's space"),
        ("here", {"classes": ("red", "red")}, "twice"),
        ("here", {"classes": ("red",), "templates": ("a shape",)}, "{}"),
        ("here", {"classes": ("red",), "background": ("red",)}, "twice"),
        ("here", {"threshold": 1.0}, "--threshold"),
        ("here", {"threshold": float("nan")}, "--threshold"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            warehouse.analyze("segment", space, **parameters)
        assert "\n" not in str(caught.value)


def test_pictures_that_are_gone_are_counted(tmp_path):
    made = clip_space(tmp_path, 4)
    path = made.images()["path"][1]
    (tmp_path / "world" / "images" / path.rsplit("/", 1)[-1]).unlink()
    _, notes = run_of(made, attribute="colour", classes=COLOURS)
    assert notes["n_unreadable"] == 1 and notes["miou_concepts"] > 0
    assert notes["incomplete"] == "1 of 4 pictures could not be read"
    for file in (tmp_path / "world" / "images").glob("*.png"):
        file.unlink()
    with pytest.raises(ModelError, match=r"4 of 4 pictures could not be read: .* so nothing was stored"):
        made.analyze("segment", "here", attribute="colour", classes=COLOURS, force=True)
    (run,) = [run for run in made.runs() if run.is_latest]
    assert run.notes == notes, "the good result stays"
    made.close()


def test_conformance(warehouse):
    assert check_analyzer("segment", Segment(), warehouse, {"classes": COLOURS, "attribute": "colour"}) == ["here"]


@pytest.fixture
def run(warehouse, glasshouse):
    def call(*arguments, code=0):
        result = glasshouse("segment", *arguments, "-w", str(warehouse.root))
        assert result.returncode == code, result.stderr
        return result

    return call


def test_the_command_says_where_classes_are_and_by_which_concepts(run, tmp_path):
    file = tmp_path / "classes.png"
    found = run(
        "0", "--classes", "red, blue,green", "--template", "a {} shape", "--background", "a plain background",
        "--json", "--png", file, "-k", "2",
    )  # fmt: skip
    assert found.stderr == f"Wrote {file}.\n"
    found = json.loads(found.stdout)
    assert [part["name"] for part in found["classes"]] == ["red", "blue", "green"]
    assert sum(part["area"] for part in found["classes"]) + found["background"] == pytest.approx(1)
    assert found["seen"] == 1 and found["space"] == "here"
    for part in found["classes"]:
        shares = [concept["share"] for concept in part["concepts"]]
        assert len(shares) <= 2 and shares == sorted(shares, reverse=True)
        assert bool(shares) == (part["n_patches"] > 0)
    with Image.open(file) as drawn:
        assert drawn.format == "PNG" and drawn.width > 768 and len(drawn.getcolors(1 << 20)) > 3


def test_the_command_says_what_the_encoder_does_not_see(run, tmp_path):
    wide_picture().save(tmp_path / "wide.png")
    found = run(str(tmp_path / "wide.png"), "--classes", "red,blue")
    assert "sees 32% of the picture; --windows" in found.stderr
    assert found.stderr.endswith("name what is none of them with --background.\n")
    assert found.stdout.startswith("class") and "here:" in found.stdout and "%" in found.stdout


def wide_picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 250, 3), dtype=np.uint8))


def test_windows_see_all_of_a_picture(warehouse):
    one, all_of_it = (
        segmented(warehouse, wide_picture(), "here", Ask(("red", "blue"), windows=windows)) for windows in (False, True)
    )
    assert one.seen == pytest.approx(0.32) and all_of_it.seen == 1
    assert one.class_hw.shape == all_of_it.class_hw.shape == (80, 250)
    assert sum(part.n_patches for part in one.parts) == 64
    assert sum(part.n_patches for part in all_of_it.parts) == 6 * 64  # windows at 0, 4, 8, 12, 16 and 17
    assert (one.class_hw[:, :80] == UNKNOWN).all() and (one.class_hw[:, 100:140] >= 0).all()


def test_drawings_show_classes_background_and_what_is_not_seen(warehouse):
    ask = Ask(("red", "blue"), ("a {} shape",), threshold=0.99, k=1)
    found = segmented(warehouse, wide_picture(), "here", ask)
    found.class_hw[10:20, 100:110], found.class_hw[30:40, 100:110], found.class_hw[50:60, 100:110] = 0, 1, NOWHERE
    drawn = np.asarray(drawing(found)).astype(int)
    pixels, factor = np.asarray(found.picture).astype(int), 3
    for (y, x), colour, part in (
        ((15, 105), colour_of(0), 0.55), ((35, 105), colour_of(1), 0.55), ((55, 105), (255, 255, 255), 0.6),
        ((15, 5), (0, 0, 0), 0.65),
    ):  # fmt: skip
        expected = pixels[y, x] * (1 - part) + np.array(colour) * part
        np.testing.assert_allclose(drawn[16 + y * factor + 1, 16 + x * factor + 1], expected, atol=1)
    assert len({colour_of(number) for number in range(60)}) == 60
    large = segmented(warehouse, Image.new("RGB", (2000, 30)), "here", Ask(("red",)))
    assert drawing(large).width == 768 + 3 * 16 + 360


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "--classes", ","], "Name at least one class"),
        (["nowhere.jpg", "--classes", "red"], "There is no file 'nowhere.jpg'"),
        (["0", "--classes", "red", "--space", "elsewhere"], "needs a space of patches in CLIP's space"),
        (["0", "--classes", "red", "--space", "nothing"], "no space 'nothing'"),
        (["0", "--classes", "red", "--png", "x.jpg"], "Call it x.png"),
        (["0", "--classes", "red", "--png", "no/where.png"], "There is no folder no"),
    ],
)
def test_mistakes_of_the_command_are_one_line(run, arguments, message):
    result = run(*arguments, code=2)
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_the_space_must_be_clear(glasshouse, tmp_path):
    Warehouse.create(tmp_path / "e.glasshouse").close()
    result = glasshouse("segment", "0", "--classes", "red", "-w", str(tmp_path / "e.glasshouse"))
    assert result.returncode == 2 and "No space of this warehouse is in CLIP's space" in result.stderr
