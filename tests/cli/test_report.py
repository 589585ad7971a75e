"""`glasshouse report` as it is typed."""

from __future__ import annotations

from pathlib import Path

from conftest import Run, write_pictures
from kit.pages import Page


def test_a_report_and_the_mistakes_around_it(tmp_path: Path, glasshouse: Run) -> None:
    write_pictures(tmp_path / "pictures", 12)
    glasshouse("init", "w.glasshouse")
    done = glasshouse("report")
    assert done.returncode == 2 and "glasshouse add" in done.stderr
    glasshouse("add", "pictures")
    done = glasshouse(
        "extract", "--encoder", "toy:0", "--space", "p", "--hook", "blocks.1.resid_post", "--embed", "toy"
    )
    assert done.returncode == 0, done.stderr

    done = glasshouse("report", "-o", "out.html", "-n", "3", "-k", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Wrote out.html (") and done.stdout == ""
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert sum(tag == "article" for tag, _ in page.tags) == 3
    assert sum(tag == "img" for tag, _ in page.tags) == 6

    for words, message in (
        (("--space", "q"), "There is no space 'q'"),
        (("--search", "red"), "No embedding here can be compared with texts"),
        (("-o", "missing/out.html"), "There is no folder missing for out.html. Make it first"),
        (("-o", "pictures"), "pictures is a folder. Name a file in it, e.g. pictures/report.html."),
    ):
        done = glasshouse("report", *words)
        assert done.returncode in (1, 2), words
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr

    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    done = glasshouse("report", "-n", "3", "-k", "2")
    n_shown = done.stderr.splitlines()[1].split()[0]
    assert done.returncode == 0 and 2 <= int(n_shown) <= 6
    assert done.stderr.endswith(f"\n{n_shown} of {n_shown} pictures could not be opened and are missing.\n")
