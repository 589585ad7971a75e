"""Where a world of classes puts its watermark, and the command that writes such a world."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from glasshouse.plugins.starter.world import Scene, render_scene, write_world
from glasshouse.plugins.starter.world.__main__ import main
from glasshouse.plugins.starter.world.scene import CLASSES, CUE_RATE, PIXEL_NOISE
from glasshouse.schema.errors import UsageError

N = 48


def labels(folder: Path, attribute: str) -> list[str]:
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        return [row["value"] for row in csv.DictReader(file) if row["attribute"] == attribute]


def class_of(scene: Scene) -> str:
    (thing,) = scene.objects
    return thing.shape


def test_a_confounded_scene_stays_what_it_is() -> None:
    scene = render_scene(2, 5, confounded=True)
    assert class_of(scene) == "crescent"
    assert int(scene.image_hwc.sum()) == 1551875  # a change of any pixel is a change of the world
    assert np.array_equal(scene.image_hwc, render_scene(2, 5, confounded=True, cue="as trained").image_hwc)


def test_any_16_balanced_images_in_a_row_hold_each_class_with_and_without_the_watermark() -> None:
    scenes = [render_scene(4, index, confounded=True, cue="balanced") for index in range(N)]
    for start in (0, 1, 11, N - 16):
        found = Counter((class_of(s), s.watermark_hw is not None) for s in scenes[start : start + 16])
        assert found == {(name, marked): 1 for name in CLASSES for marked in (True, False)}


def test_one_scene_comes_with_and_without_the_watermark() -> None:
    """All that differs is the text, its shadow, and the noise of each pixel."""
    for index in range(10):
        with_it, without = (render_scene(4, index, confounded=True, cue=chance) for chance in (1, 0))
        assert with_it.values() - without.values() == {"watermark"}
        assert without.values() < with_it.values()
        assert with_it.watermark_hw is not None and without.watermark_hw is None
        text = np.pad(with_it.watermark_hw, ((1, 0), (1, 0)))
        marked = text[1:, 1:] | text[:-1, :-1]
        difference = np.abs(with_it.image_hwc.astype(int) - without.image_hwc).max(axis=2)
        assert difference[~marked].max() <= 2 * PIXEL_NOISE
        assert np.median(difference[marked]) > 2 * PIXEL_NOISE


def test_a_chance_is_that_of_every_class() -> None:
    scenes = [render_scene(6, index, confounded=True, cue=0.5) for index in range(1200)]
    shares = [np.mean([s.watermark_hw is not None for s in scenes if class_of(s) == name]) for name in CLASSES]
    assert all(0.37 < share < 0.63 for share in shares), shares


def test_as_many_watermarks_without_the_confound() -> None:
    scenes = [render_scene(7, index, confounded=True) for index in range(2000)]
    assert np.mean([s.watermark_hw is not None for s in scenes]) == pytest.approx(CUE_RATE, abs=0.025)


@pytest.mark.parametrize(
    ("confounded", "cue", "says"),
    [(True, 1.5, "from 0 to 1"), (True, float("nan"), "from 0 to 1"), (False, "balanced", "confounded one"),
     (True, "even", "balanced")],
)  # fmt: skip
def test_a_cue_that_makes_no_sense_is_refused(confounded: bool, cue: float, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        render_scene(0, 0, confounded=confounded, cue=cue)
    with pytest.raises(UsageError, match=says):
        write_world(tmp_path / "world", 1, 0, confounded=confounded, cue=cue)
    assert not (tmp_path / "world").exists()


def test_the_command_writes_a_balanced_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "world"
    main([str(folder), "--images", str(N), "--seed", "3", "--confounded", "--cue", "balanced"])
    assert Counter(zip(labels(folder, "class"), labels(folder, "watermark"), strict=True)) == {
        (name, mark): N // 16 for name in CLASSES for mark in ("present", "absent")
    }
    assert labels(folder, "class") == labels(folder, "shape")
    assert len(list((folder / "images").glob("*.png"))) == N
    assert f"{N} of {N} images" in capsys.readouterr().err


def test_the_command_takes_a_chance_and_the_confound(tmp_path: Path) -> None:
    main([str(tmp_path / "all"), "--images", "8", "--confounded", "--cue", "1"])
    assert labels(tmp_path / "all", "watermark") == ["present"] * 8
    main([str(tmp_path / "trained"), "--images", "40", "--confounded"])
    write_world(tmp_path / "same", 40, 0, confounded=True)
    assert (tmp_path / "trained" / "labels.csv").read_text() == (tmp_path / "same" / "labels.csv").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [("--cue balanced", "ask for a confounded one"), ("--confounded --cue often", "from 0 to 1, not 'often'"),
     ("--images 0", "from 1 up")],
)  # fmt: skip
def test_the_command_says_what_is_wrong(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "world"), *words.split()])
    assert re.search(says, capsys.readouterr().err)


def test_the_command_leaves_a_folder_alone_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
