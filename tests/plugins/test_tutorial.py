"""The tutorial of docs/plugins.md as written: its files, installed into an environment of their own, and its tests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
PACKAGE = "glasshouse-selectivity"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment that has glasshouse's dependencies and nothing else but pip."""
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    # The libraries are borrowed, not installed again: torch alone is most of a gigabyte.
    borrowed = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(found.stdout.strip()) / "borrowed.pth").write_text(borrowed)
    script = folder / "bin" / "glasshouse"
    script.write_text(f"#!{python}\nfrom glasshouse.cli.main import run\nrun()\n")
    script.chmod(0o755)
    return folder


def run(environment: Path, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "GLASSHOUSE_NO_PLUGINS"}
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_tutorial_works_as_written(environment: Path, tmp_path: Path) -> None:
    (project,) = blocks("toml")
    module, tests, _ = blocks("python")
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "pyproject.toml").write_text(project)
    (folder / "glasshouse_selectivity.py").write_text(module)
    assert 25 <= len(module[module.index("class SelectivityParameters") :].splitlines()) <= 40
    lines = [line.removeprefix("$ ") for line in blocks("console")[0].splitlines()]
    for line in lines:
        words = shlex.split(line)
        if words[0] == "pip":
            # What a user's pip would fetch is borrowed here.
            words = [str(environment / "bin" / "python"), "-m", "pip", *words[1:], "--no-deps", "--no-build-isolation"]
        done = run(environment, words, tmp_path)
        assert done.returncode == 0, (line, done.stderr)
    assert len(done.stdout.splitlines()) == 6, done.stdout
    assert run(environment, ["glasshouse", "analyze", "selectivity", "--attribute", "shape"], tmp_path).stdout.count(
        "nothing to do"
    ) == len(("cls", "dinoised", "patches"))
    listed = run(environment, ["glasshouse", "plugins"], tmp_path).stdout
    (row,) = [line for line in listed.splitlines() if "selectivity" in line]
    assert row.split()[0] == "analyzer" and row.split()[-1] == "0.1"
    wrong = run(environment, ["glasshouse", "analyze", "selectivity", "--attribute", "colr"], tmp_path)
    assert wrong.returncode == 2 and "Did you mean 'colour'?" in wrong.stderr and "Traceback" not in wrong.stderr
    (folder / "conftest.py").write_text('pytest_plugins = ["glasshouse.plugins.testing.fixtures"]\n')
    (folder / "test_selectivity.py").write_text(tests)
    words = [str(environment / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = run(environment, words, folder)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def test_the_value_it_names_is_the_one_by_hand(tmp_path: Path) -> None:
    """The tutorial's formula, against the definition in plain Python."""
    import numpy as np

    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.testing.small import small_warehouse

    file = tmp_path / "glasshouse_selectivity.py"
    file.write_text(blocks("python")[0])
    warehouse = small_warehouse(tmp_path / "s.glasshouse", Plugins([file], external=False))
    warehouse.analyze("selectivity", "cls", attribute="colour")
    acts_nk = warehouse.sparse_matrix("cls").toarray()
    labels = warehouse.sql("SELECT image_id, value FROM image_labels WHERE attribute = 'colour'")
    values = sorted(set(labels["value"]))
    members = [labels.filter(value=value)["image_id"].to_list() for value in values]
    means_vk = np.array([acts_nk[images].mean(axis=0, dtype=float) for images in members])
    for feature, value, selectivity in warehouse.sql("SELECT feature_id, value, selectivity FROM selectivity").rows():
        best = int(means_vk[:, feature].argmax())
        rest = np.delete(means_vk[:, feature], best).mean()
        top = means_vk[best, feature]
        assert value == values[best] and selectivity == pytest.approx((top - rest) / (top + rest), abs=1e-9)
    warehouse.close()
