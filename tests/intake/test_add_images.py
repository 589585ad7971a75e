"""Pictures into the catalogue: identity, order, repetition, change, and everything that is no picture."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glasshouse.schema.errors import SourceError, WarehouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.intake import images as images_module
from glasshouse.warehouse.intake.pictures import decode, measure, read_bytes

Add = Callable[..., Any]
Query = Callable[..., list[Any]]
Write = Callable[..., Path]


def test_what_is_stored_of_a_picture(tmp_path: Path, run_add: Add, query: Query, write_png: Write) -> None:
    file = write_png(tmp_path / "photos" / "a.png", 1, size=(31, 17))
    data = file.read_bytes()
    report = run_add(tmp_path / "photos")
    assert (report.n_new_images, report.n_failed, report.is_clean) == (1, 0, True)
    row = query("SELECT * FROM images")[0]
    path = file.as_posix()
    assert row[:8] == (0, hashlib.sha256(data).hexdigest(), path, 31, 17, "PNG", "RGB", len(data))
    assert row[8:] == pytest.approx(tuple(measure(decode(data))), abs=1e-6)
    assert query("SELECT * FROM image_paths") == [(path, 0, None, None, None, None, (tmp_path / "photos").as_posix())]
    assert query("SELECT * FROM intakes") == [((tmp_path / "photos").as_posix(), "images", 1, 1, 0, 0)]


def test_numbers_follow_the_order_of_names_whatever_the_threads(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write, another_warehouse: Path, dump: Callable[..., Any]
) -> None:
    for number in range(30):
        write_png(tmp_path / "p" / f"{number:02d}.png", number, size=(200 - 6 * number, 200 - 6 * number))
    run_add(tmp_path / "p", n_workers=4)
    assert query("SELECT right(path, 6) FROM images ORDER BY image_id") == [f"{number:02d}.png" for number in range(30)]
    run_add(tmp_path / "p", n_workers=1, root=another_warehouse)
    assert query("SELECT * FROM images ORDER BY ALL") == query(
        "SELECT * FROM images ORDER BY ALL", root=another_warehouse
    )


def test_the_same_picture_twice_is_one_image_with_two_paths(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    write_png(tmp_path / "p" / "b" / "same.png", 1)
    write_png(tmp_path / "p" / "a" / "same.png", 1)
    write_png(tmp_path / "p" / "c" / "same.png", 2)
    report = run_add(tmp_path / "p")
    assert (report.n_new_images, report.n_duplicate_pictures) == (2, 1)
    assert query("SELECT image_id, right(path, 10) FROM image_paths ORDER BY path") == [
        (0, "a/same.png"),
        (0, "b/same.png"),
        (1, "c/same.png"),
    ]
    assert query("SELECT right(path, 10) FROM images ORDER BY image_id") == ["a/same.png", "c/same.png"]


def test_again_changes_nothing(
    tmp_path: Path, warehouse: Path, run_add: Add, write_png: Write, dump: Callable[..., Any]
) -> None:
    for number in range(5):
        write_png(tmp_path / "p" / f"{number}.png", number % 3)
    (tmp_path / "p" / "bad.png").write_bytes(b"")
    first = run_add(tmp_path / "p")
    before = dump(warehouse)
    again = run_add(tmp_path / "p")
    assert dump(warehouse) == before
    assert (first.n_new_images, first.n_known, again.n_new_images, again.n_known) == (3, 0, 0, 5)
    assert first.n_failed == again.n_failed == 1 and not again.is_clean


def test_more_pictures_later_get_the_next_numbers(tmp_path: Path, run_add: Add, query: Query, write_png: Write) -> None:
    write_png(tmp_path / "one" / "z.png", 1)
    write_png(tmp_path / "two" / "a.png", 2)
    run_add(tmp_path / "one")
    report = run_add(tmp_path / "two", tmp_path / "one", tmp_path / "two")
    assert (report.n_new_images, report.n_known) == (1, 1)
    assert query("SELECT image_id, right(path, 5) FROM images ORDER BY image_id") == [(0, "z.png"), (1, "a.png")]


def test_a_file_that_changed_is_a_new_image(tmp_path: Path, run_add: Add, query: Query, write_png: Write) -> None:
    file = write_png(tmp_path / "p" / "a.png", 1)
    run_add(tmp_path / "p")
    write_png(file, 2)
    report = run_add(tmp_path / "p")
    assert report.changed_paths == [file.as_posix()] and report.n_new_images == 1 and report.n_known == 0
    assert query("SELECT image_id FROM image_paths") == [1]
    assert query("SELECT count(*) FROM images") == [2]
    assert run_add(tmp_path / "p").changed_paths == []


def test_paths_inside_the_warehouse_are_relative(
    warehouse: Path, run_add: Add, query: Query, write_png: Write, png: Callable[..., bytes]
) -> None:
    write_png(warehouse / "pictures" / "a.png", 4)
    run_add(warehouse / "pictures")
    assert query("SELECT path, source FROM image_paths") == [("pictures/a.png", "pictures")]
    assert read_bytes("pictures/a.png", None, None, None, None, warehouse) == png(4)
    moved = warehouse.rename(warehouse.with_name("moved.glasshouse"))
    assert run_add(moved / "pictures", root=moved).n_known == 1


def test_real_files(tmp_path: Path, run_add: Add, query: Query, png: Callable[..., bytes]) -> None:
    """Wrong endings and odd modes are used; what is no picture is a failure with its reason; the run goes on."""
    folder = tmp_path / "p"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 20, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., 0]).save(folder / "a-gif.jpg", "GIF")
    Image.fromarray(noise).save(folder / "b-rgba.png")
    Image.fromarray(noise[..., :3]).quantize(16).save(folder / "c-palette.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "d-16bit.png")
    Image.fromarray(noise, "CMYK").save(folder / "e-cmyk.jpg")
    Image.fromarray(noise[:10, :, :3].copy()).save(folder / "f-rotated.jpg", exif=exif)
    frames = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(folder / "g-animated.gif", save_all=True, append_images=frames[1:])
    (folder / "h-trailing.png ").write_bytes(png(9))
    (folder / "i-no-ending").write_bytes(png(10))
    Image.fromarray(noise[..., :3].copy()).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (folder / "q-truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "r-empty.jpg").write_bytes(b"")
    (folder / "s-text.jpg").write_bytes(b"404 not found")
    (folder / "t-link.jpg").symlink_to("absent.jpg")
    report = run_add(folder)
    found = query(
        "SELECT right(path, length(path) - length(source) - 1), format, mode FROM images "
        "JOIN image_paths USING (path) ORDER BY images.image_id"
    )
    assert found == [
        ("a-gif.jpg", "GIF", "P"),
        ("b-rgba.png", "PNG", "RGBA"),
        ("c-palette.png", "PNG", "P"),
        ("d-16bit.png", "PNG", "I;16"),
        ("e-cmyk.jpg", "JPEG", "CMYK"),
        ("f-rotated.jpg", "JPEG", "RGB"),
        ("g-animated.gif", "GIF", "P"),
        ("h-trailing.png ", "PNG", "RGB"),
        ("i-no-ending", "PNG", "RGB"),
    ]
    assert query("SELECT width, height FROM images WHERE path LIKE '%f-rotated.jpg'") == [(10, 20)]
    failed = query("SELECT right(path, length(path) - length(source) - 1), stage, reason FROM failures ORDER BY path")
    assert [(name, stage) for name, stage, _ in failed] == [
        ("q-truncated.jpg", "add"),
        ("r-empty.jpg", "add"),
        ("s-text.jpg", "add"),
        ("t-link.jpg", "add"),
    ]
    reasons = [reason for _, _, reason in failed]
    assert reasons[0].startswith("truncated: ")
    assert reasons[1:] == [
        "empty file",
        "not a picture: it starts with the text '404 not found'",
        "it is a link to absent.jpg, which is not there",
    ]
    assert report.n_failed == 4 and len(report.failure_examples) == 4


def test_a_failure_that_was_mended_is_no_failure_any_more(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"")
    run_add(tmp_path / "p")
    assert query("SELECT count(*) FROM failures") == [1]
    write_png(tmp_path / "p" / "a.png", 1)
    assert run_add(tmp_path / "p").is_clean
    assert query("SELECT count(*) FROM failures") == [0]


def test_the_same_broken_bytes_twice_are_two_failures(tmp_path: Path, run_add: Add, query: Query) -> None:
    (tmp_path / "p").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "p" / name).write_bytes(b"broken, both of us")
    assert run_add(tmp_path / "p").n_failed == 2
    assert query("SELECT count(DISTINCT path) FROM failures") == [2]


def test_a_name_that_is_no_utf8_is_a_failure(
    tmp_path: Path, run_add: Add, query: Query, png: Callable[..., bytes]
) -> None:
    (tmp_path / "p").mkdir()
    with open(bytes(tmp_path / "p") + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
        file.write(png(1))
    run_add(tmp_path / "p")
    assert query("SELECT right(path, 12), reason FROM failures") == [
        ("\\xff\\xfe.png", "its name is no valid UTF-8; rename it")
    ]


def test_transactions_do_not_change_the_result(
    tmp_path: Path,
    warehouse: Path,
    another_warehouse: Path,
    run_add: Add,
    write_png: Write,
    dump: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(40):
        write_png(tmp_path / "p" / f"{number:02d}.png", number % 17)
    run_add(tmp_path / "p")
    monkeypatch.setattr(images_module, "BATCH_SIZE", 3)
    run_add(tmp_path / "p", root=another_warehouse)
    assert dump(warehouse) == dump(another_warehouse)
    with Catalogue(warehouse).reading() as one, Catalogue(another_warehouse).reading() as other:
        for table in ("images", "image_paths"):  # as they lie on disk, too
            assert one.sql(f'FROM "{table}"').fetchall() == other.sql(f'FROM "{table}"').fetchall()


def test_progress_counts_every_picture(tmp_path: Path, run_add: Add, write_png: Write) -> None:
    for number in range(3):
        write_png(tmp_path / "p" / f"{number}.png", number)
    seen: list[tuple[int, int | None]] = []
    run_add(tmp_path / "p", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_path_that_is_not_there_stops_before_anything_is_written(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    write_png(tmp_path / "p" / "a.png", 1)
    with pytest.raises(SourceError, match=r"^There is no file or folder .*nothing\. Check the path"):
        run_add(tmp_path / "p", tmp_path / "nothing")
    assert query("SELECT count(*) FROM images") == [0]


def test_what_holds_no_pictures_is_noted(tmp_path: Path, run_add: Add, query: Query) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("image\n")
    report = run_add(tmp_path / "empty", f"{tmp_path}/empty/", tmp_path / "t.csv")
    assert report.notes == [f"{tmp_path}/empty holds no pictures.", f"{tmp_path}/t.csv holds no pictures."]
    assert query("SELECT source, n_rows FROM intakes") == [(f"{tmp_path}/empty", 0), (f"{tmp_path}/t.csv", 0)]


def test_loops_of_links_and_files_that_may_not_be_read(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    write_png(tmp_path / "p" / "a.png", 1)
    (tmp_path / "p" / "loop.png").symlink_to("loop.png")
    (tmp_path / "t.csv").write_text(f"file\n{'x' * 5000}.png\np\n")
    assert run_add(tmp_path / "p", tmp_path / "t.csv").n_new_images == 1
    reasons = query("SELECT reason FROM failures ORDER BY reason")
    assert reasons == ["File name too long", "Too many levels of symbolic links", "it is a folder"]


def test_no_warehouse_is_one_clear_line(tmp_path: Path, run_add: Add) -> None:
    with pytest.raises(WarehouseError, match="is not a warehouse"):
        run_add(tmp_path, root=tmp_path / "no.glasshouse")


def test_warehouses_are_not_pictures_of_themselves(
    tmp_path: Path, warehouse: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    write_png(tmp_path / "a.png", 1)
    write_png(warehouse / "cache" / "copy.png", 2)
    shutil.copytree(warehouse, tmp_path / "other.glasshouse")
    run_add(tmp_path)
    assert query("SELECT path FROM image_paths") == [(tmp_path / "a.png").as_posix()]


def test_every_path_leads_back_to_its_bytes(
    tmp_path: Path, warehouse: Path, run_add: Add, query: Query, write_png: Write, png: Callable[..., bytes]
) -> None:
    """Files, slices of tars and copies from compressed tars, by what `image_paths` says of them."""
    write_png(tmp_path / "p" / "a.png", 1)
    write_png(warehouse / "own" / "b.png", 2)
    for name in ("t.tar", "t.tgz"):
        with tarfile.open(tmp_path / name, "w:gz" if name == "t.tgz" else "w") as tar:
            for number in range(3):
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(png(number + len(name)))
                tar.addfile(member, io.BytesIO(png(number + len(name))))
    report = run_add(tmp_path / "p", warehouse / "own", tmp_path / "t.tar", tmp_path / "t.tgz")
    rows = query(
        "SELECT p.path, container, byte_offset, p.byte_count, cached, sha256 "
        "FROM image_paths p JOIN images i USING (image_id)"
    )
    assert len(rows) == 8 and report.n_duplicate_pictures == 3
    for *place, sha256 in rows:
        assert hashlib.sha256(read_bytes(*place, root=warehouse)).hexdigest() == sha256
    assert {(bool(container), bool(cached)) for _, container, _, _, cached, _ in rows} == {
        (False, False),
        (True, False),
        (False, True),
    }


def test_what_a_table_lists_and_is_absent_is_a_failure(
    tmp_path: Path, run_add: Add, query: Query, write_png: Write
) -> None:
    write_png(tmp_path / "a.png", 1)
    write_png(tmp_path / "b.png", 2)
    (tmp_path / "t.csv").write_text("file\nb.png\nabsent.png\n./a.png\nb.png\n")
    report = run_add(tmp_path / "t.csv")
    assert (report.n_new_images, report.n_repeated, report.n_failed) == (2, 1, 1)
    assert query("SELECT right(path, 5) FROM images ORDER BY image_id") == ["b.png", "a.png"]
    assert query("SELECT path, reason FROM failures") == [((tmp_path / "absent.png").as_posix(), "no such file")]
    assert query("SELECT n_rows, n_used, n_rejected FROM intakes") == [(4, 3, 1)]


def test_two_members_of_one_name_are_no_quiet_choice(
    tmp_path: Path, run_add: Add, query: Query, png: Callable[..., bytes]
) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for seed in (1, 2):
            member = tarfile.TarInfo("a.png")
            member.size = len(png(seed))
            tar.addfile(member, io.BytesIO(png(seed)))
    for _ in range(2):
        report = run_add(tmp_path / "t.tar")
        assert report.n_failed == 1 and not report.changed_paths
    assert query("SELECT reason FROM failures") == [
        "another picture has the same path in this call; the first one counts"
    ]


def test_members_that_moved_within_their_tar_are_found_again(
    tmp_path: Path, warehouse: Path, run_add: Add, query: Query, png: Callable[..., bytes]
) -> None:
    for order in ((1, 2), (2, 1)):
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            for seed in order:
                member = tarfile.TarInfo(f"{seed}.png")
                member.size = len(png(seed))
                tar.addfile(member, io.BytesIO(png(seed)))
        report = run_add(tmp_path / "t.tar")
    assert report.n_known == 2 and report.n_new_images == 0 and not report.changed_paths
    for name, container, offset, count in query("SELECT path, container, byte_offset, byte_count FROM image_paths"):
        assert read_bytes(name, container, offset, count, None, warehouse) == png(int(name[-5]))
