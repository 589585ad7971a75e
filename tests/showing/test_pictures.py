"""Pictures of images from wherever their bytes are."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pictures
from PIL import Image

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.showing.pictures import pictures as many
from glasshouse.warehouse.warehouse import Warehouse


def test_the_picture_is_the_file(warehouse: Warehouse, pictures: Path) -> None:
    for image in (0, "00007.png", 29):
        path = warehouse.root / warehouse.images()["path"][warehouse.image_id(image)]
        np.testing.assert_array_equal(np.asarray(warehouse.picture(image)), np.asarray(Image.open(path)))
    with pytest.raises(UsageError, match="There is no image 30"):
        warehouse.picture(30)


def test_an_empty_warehouse_says_what_to_do(tmp_path: Path) -> None:
    empty = Warehouse.create(tmp_path / "empty.glasshouse")
    with pytest.raises(UsageError, match=r"has no images yet. Add some with `glasshouse add FOLDER`"):
        empty.picture(0)
    empty.close()


def test_a_member_of_a_tar(warehouse: Warehouse, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "more", 1, first=500)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(path, "a.png")
    warehouse.add([tmp_path / "shard.tar"])
    np.testing.assert_array_equal(np.asarray(warehouse.picture(30)), np.asarray(Image.open(path)))


def test_a_picture_that_is_gone_says_so_and_hides_no_other(warehouse: Warehouse, pictures: Path) -> None:
    (pictures / "00003.png").unlink()
    write_pictures(pictures, 1, first=900)[0].replace(pictures / "00004.png")
    with pytest.raises(SourceError, match=r"The picture of image 3 \(.*00003.png\) is not there: "):
        warehouse.picture(3)
    with pytest.raises(SourceError, match="has changed since"):
        warehouse.picture("00004.png")
    found = dict(many(warehouse, [5, 3, 2, 5]))
    assert list(found) == [2, 3, 5]
    assert isinstance(found[3], SourceError) and isinstance(found[2], Image.Image)
