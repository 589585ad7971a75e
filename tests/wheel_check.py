"""Builds the wheel, unpacks it where no source lies beside it, and runs the command from it.

A subpackage or a data file that the build forgets works from a checkout and is missing for everybody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (wheel,) = Path(folder).glob("*.whl")
        installed = Path(folder) / "installed"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
        missing = [str(path) for path in shipped() if not (installed / "glasshouse" / path).is_file()]
        if missing:
            sys.exit(f"the wheel lacks {', '.join(missing)}")
        # -S -E would hide the dependencies too; instead the source's own finder is switched off.
        code = (
            "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
            f"sys.path.insert(0, {str(installed)!r}); import glasshouse.schema; "
            f"assert glasshouse.schema.__file__.startswith({str(installed)!r}), glasshouse.schema.__file__; "
            "from glasshouse.cli.main import run; run()"
        )
        for words in (["--version"], ["--help"], ["demo", "--images", "50", "--dir", "d.glasshouse"], ["check"]):
            done = subprocess.run(
                [sys.executable, "-c", code, *words], cwd=folder, env={**os.environ, "GLASSHOUSE_NO_PLUGINS": "1"},
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode != 0:
                sys.exit(f"from the wheel, `glasshouse {' '.join(words)}` failed:\n{done.stderr}")
        size = wheel.stat().st_size / 1e6
        print(f"the wheel ({size:.1f} MB) brings everything and works: 4 passed")


def shipped() -> list[Path]:
    """Every file of the packages that must be in the wheel, as a path below `glasshouse`."""
    found = []
    for part in ("schema", "warehouse", "plugins", "cli"):
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.append(path.relative_to(ROOT))
    return found


if __name__ == "__main__":
    main()
