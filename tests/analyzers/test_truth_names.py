"""Names, captions and impurity on the starter world, on a world on which nothing was chosen; controls beside them.

The rule for differences, the templates and the number of concepts of a caption were settled on the world of seed 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from kit.patch_space import make_patch_space

from benchmarks.truth import names
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.activations import clip_activations
from glasshouse.plugins.starter.dictionary import Dictionary
from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.showing.pictures import pictures
from glasshouse.warehouse.warehouse import Warehouse

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

N, SEED = 700, 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Scenes with masks; spaces `patches`, `shuffled` (its maps on other images) and `untrained`; the world's words."""
    folder = tmp_path_factory.mktemp("names")
    plugins = Plugins(external=False)
    write_world(folder / "world", N, SEED)
    rendered = folder / "world"
    warehouse = Warehouse.create(folder / "w.glasshouse", plugins)
    warehouse.add([rendered / "images"], labels=[rendered / "labels.csv"], annotations=[rendered / "annotations.json"])
    preset = plugins.presets.get("starter")
    chosen = [(space.name, space.hook, space.tokens, space.sae) for space in preset.spaces if space.name == "patches"]
    warehouse.extract(preset.encoder, chosen, "clip")
    codes_ntf = token_codes(warehouse, "patches")
    make_patch_space(warehouse, "shuffled", codes_ntf[np.random.default_rng(0).permutation(N)], (8, 8))
    make_patch_space(warehouse, "untrained", untrained_codes(warehouse), (8, 8))
    for space in ("patches", "shuffled", "untrained"):
        warehouse.analyze("concepts", space)
    (folder / "words.txt").write_text("\n".join(ALL_VALUES), encoding="utf-8")
    yield warehouse, str(folder / "words.txt")
    warehouse.close()


def token_codes(warehouse: Any, space: str) -> np.ndarray[Any, Any]:
    reader = warehouse.space(space)
    codes_ntf = np.zeros((N, 64, reader.n_features), dtype=np.float32)
    with reader.connection() as connection:
        found = connection.sql("SELECT image_id, token, feature_id, value FROM token_activations").fetchnumpy()
    codes_ntf[found["image_id"], found["token"], found["feature_id"]] = found["value"]
    return codes_ntf


@torch.no_grad()
def untrained_codes(warehouse: Any) -> np.ndarray[Any, Any]:
    seen_nhwc = np.stack([np.asarray(picture) for _, picture in pictures(warehouse, range(N))])
    acts = clip_activations(new_clip(clip_vocab_size(), 0), seen_nhwc)
    dictionary = Dictionary.load(data_folder("control-sae-patches"))
    return np.stack([dictionary.encode(tokens_td).numpy() for tokens_td in acts.patches_ntd])


def measured(scenes: Any, space: str, method: str) -> tuple[names.NameTruth, names.ApartTruth]:
    warehouse, words = scenes
    rows = names.name_rows(warehouse, space, words, method)
    shown = names.values_shown(warehouse, "patches" if space == "shuffled" else space)
    rows = {feature: rows.get(feature, NO_NAME) for feature in range(len(shown))}
    found = names.right_names(rows, shown), names.right_differences(rows, shown)
    print(space, method, *found)
    return found


NO_NAME = {"name": "", "difference": None, "parent_feature_id": None, "distinguishing_name": ""}


def test_names_of_pure_features_are_right(scenes: Any) -> None:
    plain, apart = measured(scenes, "patches", "plain")
    published, _ = measured(scenes, "patches", "published")
    assert plain.n_pure >= 60 and plain.n_values >= 25
    assert plain.right >= 0.85 and plain.strict >= 0.78, plain
    assert plain.mixed <= 0.15, "names of other features"
    assert 0.45 <= published.right < plain.right, "on concept vectors the family drowns the feature"
    assert apart.n >= 15 and apart.right >= 0.7 and apart.mixed <= 0.2, apart
    assert apart.unique > apart.own_unique, "which tells siblings apart where their own names do not"


def test_names_of_features_that_mean_nothing_are_not(scenes: Any) -> None:
    shuffled, _ = measured(scenes, "shuffled", "plain")
    assert shuffled.right <= 0.2, "the same features, each map on another image"
    untrained, _ = measured(scenes, "untrained", "plain")
    plain, _ = measured(scenes, "patches", "plain")
    assert untrained.n_values < plain.n_values / 2, "most of its features are the same few backgrounds"
    assert untrained.mixed > 0.5 > plain.mixed, "so that the names of other features are right too"


def test_captions_speak_of_their_own_image(scenes: Any) -> None:
    warehouse, words = scenes
    warehouse.analyze("names", "patches", vocabulary=words, force=True)
    found = names.right_captions(warehouse, "patches", range(100))
    print(found)
    assert found.precision >= 0.65 and found.recall >= 0.38
    assert found.precision_shuffled <= 0.4 and found.recall_shuffled <= 0.25


def test_pure_features_of_a_colour_or_shape_are_active_on_it(scenes: Any) -> None:
    """Of each value the feature of least impurity; the control is chosen in the same way, from shuffled masks."""
    warehouse, _ = scenes
    for attribute, target in (("colour", 0.3), ("category", 0.6)):
        (report,) = warehouse.analyze("impurity", "patches", attribute=attribute)
        rows = warehouse.result_rows(report.run).filter(pl.col("n_patches") >= 100)
        best = rows.drop_nulls("category").group_by("category").agg(pl.col("impurity").min())["impurity"].mean()
        mixed = (
            rows.drop_nulls("category_shuffled").group_by("category_shuffled").agg(pl.col("impurity_shuffled").min())
        )
        print(attribute, best, mixed["impurity_shuffled"].mean())
        assert best <= target and mixed["impurity_shuffled"].mean() >= 0.75
