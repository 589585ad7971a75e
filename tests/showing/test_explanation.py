"""Explanations: the contributions are the logit, and what is said and drawn is what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glasshouse.plugins.testing.fixtures import _built, small_warehouse  # noqa: F401
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.showing.explanation import ROLES, explain
from glasshouse.warehouse.showing.explanation_sheet import explanation_sheet

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture
def probed(small_warehouse: Any) -> Any:  # noqa: F811
    small_warehouse.analyze("probe", "patches", attribute="background_colour", min_images=2)
    small_warehouse.analyze("probe", "cls", attribute="size", min_images=2, raw=False)
    return small_warehouse


@pytest.mark.parametrize(("space", "attribute"), [("patches", "background_colour"), ("cls", "size")])
def test_contributions_are_weight_times_activation_and_sum_to_the_logit(
    probed: Any, space: str, attribute: str
) -> None:
    acts_nf = probed.sparse_matrix(space).toarray().astype(float)
    weights = probed.sql(
        "SELECT class, feature_id, weight FROM probe WHERE space = $space AND attribute = $attribute",
        {"space": space, "attribute": attribute},
    )
    for image in range(0, 60, 7):
        found = explain(probed, image, space, attribute)
        naive: dict[str, dict[int, float]] = {name: {} for name in found.logits}
        for name, feature, weight in weights.rows():
            if acts_nf[image, feature] > 0:
                naive[name][feature] = weight * acts_nf[image, feature]
        for name, logit in found.logits.items():
            assert logit == pytest.approx(sum(naive[name].values()), rel=1e-6, abs=1e-9)
        assert sum(part.contribution for part in found.parts) == pytest.approx(found.logits[found.predicted])
        assert sum(p.contribution_runner_up for p in found.parts) == pytest.approx(found.logits[found.runner_up])
        ranked = sorted(found.logits.values(), reverse=True)
        assert [found.logits[found.predicted], found.logits[found.runner_up]] == ranked[:2]
        for part in found.parts:
            assert part.activation == pytest.approx(acts_nf[image, part.feature_id])
            assert part.contribution == pytest.approx(naive[found.predicted].get(part.feature_id, 0))
        assert {p.feature_id for p in found.parts} == {*naive[found.predicted], *naive[found.runner_up]}
        sizes = [abs(part.difference) for part in found.parts]
        assert sizes == sorted(sizes, reverse=True)


def test_what_the_image_is_labelled_with_and_the_concepts_names(probed: Any) -> None:
    found = explain(probed, 3, "patches")
    probed.analyze("concepts", "patches")
    probed.analyze("labels", "patches", features=(found.parts[0].feature_id,))
    first = {"feature": found.parts[0].feature_id}
    query = "SELECT label FROM labels WHERE space = 'patches' AND feature_id = $feature ORDER BY run_id DESC"
    again = explain(probed, 3, "patches")
    assert again.parts[0].name == probed.sql(query, first)["label"][0]
    true = probed.sql("SELECT value FROM image_labels WHERE image_id = 3 AND attribute = 'background_colour'")
    assert again.true_classes == true["value"].to_list() and not again.is_stale
    assert "labelled " + true["value"][0] in again.head()[0]


def test_the_newest_probe_is_taken_and_a_stale_one_says_so(probed: Any, tmp_path: Path) -> None:
    assert (explain(probed, 0).space, explain(probed, 0).attribute) == ("cls", "size")
    assert explain(probed, 0, attribute="background_colour").space == "patches"
    file = tmp_path / "more.csv"
    file.write_text("image,attribute,value\nimages/000000.png,size,tiny\n")
    probed.add(labels=[file])
    assert explain(probed, 0).is_stale and "stale" in "".join(explain(probed, 0).head())
    assert explain(probed, 0).role == "unknown", "the split may have changed"


def test_how_good_the_probe_is_and_what_the_image_was_to_it(probed: Any) -> None:
    from glasshouse.plugins.analyzers.probe_targets import targets_of
    from glasshouse.plugins.view import AnalysisView

    found = {image: explain(probed, image, "patches", "background_colour") for image in range(60)}
    (run,) = [run for run in probed.runs() if run.run_id == found[0].run_id]
    targets = targets_of(AnalysisView(probed, "patches"), "background_colour", 2, 0)
    role_of = dict(zip(targets.image_n.tolist(), targets.part_n.tolist(), strict=True))
    words = ("learned", "learned", "test")
    expected = {image: words[role_of[image]] if image in role_of else "neither" for image in found}
    assert {image: one.role for image, one in found.items()} == expected and {*expected.values()} >= {"learned", "test"}
    quality = found[0].as_dict()["quality"]
    assert quality == {name: run.notes[name] for name in quality} and len(quality) == 4
    assert f"accuracy {run.notes['accuracy']:.3f} on {run.notes['n_test']} test images" in found[0].head()[2]
    assert all(ROLES[one.role] in one.head() for one in found.values())


def test_an_image_without_active_concepts_gets_the_most_frequent_class(probed: Any) -> None:
    acts_nf = np.zeros((60, 3), dtype=np.float32)
    acts_nf[:50, 0] = 1
    probed.import_features("thin", acts_nf, list(range(60)))
    (report,) = probed.analyze("probe", "thin", attribute="size", min_images=2, raw=False, c=1.0)
    found = explain(probed, 55, "thin")
    assert found.predicted == report.run.notes["classes"][0] and not found.parts
    assert "No concept" in "".join(found.head()) and set(found.logits.values()) == {0.0}


def test_what_is_refused(probed: Any) -> None:
    with pytest.raises(
        UsageError, match=r"no such probe; there are .*size on cls.*probe --space patches --attribute s"
    ):
        explain(probed, 0, "patches", "size")
    with pytest.raises(UsageError, match="no image 99"):
        explain(probed, 99)
    probed.import_features("few", np.eye(5, dtype=np.float32), list(range(5)))
    with pytest.raises(UsageError, match="no space 'nope'"):
        explain(probed, 0, "nope")


def test_the_sheet_has_a_heat_map_and_an_example_of_each_concept(probed: Any) -> None:
    found = explain(probed, 3, "patches")
    sheets = [np.asarray(explanation_sheet(probed, found, k)) for k in (1, 2, 5)]
    assert sheets[0].shape[1] <= sheets[2].shape[1]
    assert sum((sheet != 255).any(axis=2).sum() > 10_000 for sheet in sheets) == 3
    plain = probed.picture(3).resize((384, 384), Image.Resampling.NEAREST)
    whole = sheets[1]
    rows = [y for y in range(whole.shape[0] - 384) if np.array_equal(whole[y, 24:408], np.asarray(plain)[0])]
    assert rows and np.array_equal(whole[rows[0] : rows[0] + 384, 24:408], np.asarray(plain)), "the image itself"


def test_the_command(probed: Any, glasshouse: Any, tmp_path: Path) -> None:
    probed.close()
    done = glasshouse("explain", "3", "--space", "patches", "-k", "2", "--png", "why.png", "-w", str(probed.root))
    assert done.returncode == 0, done.stderr
    assert "background_colour" in done.stdout and "logit" in done.stdout and "more" in done.stdout
    with Image.open(tmp_path / "why.png") as sheet:
        assert sheet.size[0] >= 760
    data = json.loads(glasshouse("explain", "3", "--space", "patches", "--json", "-w", str(probed.root)).stdout)
    assert sum(part["contribution"] for part in data["parts"]) == pytest.approx(data["logits"][data["predicted"]])
    wrong = glasshouse("explain", "3", "--png", "why.jpg", "-w", str(probed.root))
    assert wrong.returncode == 2 and "why.png" in wrong.stderr
