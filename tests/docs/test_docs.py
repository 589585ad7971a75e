"""Documentation that cannot drift: commands and their options, hooks, and what the README types."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from glasshouse.cli.analyze import AnalyzeGroup
from glasshouse.cli.main import cli
from glasshouse.plugins import hookspecs
from glasshouse.plugins.manager import Plugins

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, prefix: str = "glasshouse") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group) and not isinstance(command, AnalyzeGroup):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def sections(file: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_and_option_is_documented_and_no_other() -> None:
    documented = sections("docs/commands.md")
    real = dict(commands(cli))
    assert sorted(documented) == sorted(real)
    for name, command in real.items():
        options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts + p.secondary_opts}
        rows = re.findall(r"^\| (.+?) \|", documented[name], flags=re.MULTILINE)
        named = {option for row in rows for option in re.findall(r"`(--?[a-z0-9-]+)`", row)}
        assert named == options, name


def test_every_analysis_and_parameter_is_documented_and_no_other() -> None:
    """docs/analyses.md has a section for each built-in analyzer, with its parameters in a table."""
    documented = sections("docs/analyses.md")
    real = {name: analyzer for name, analyzer, _ in Plugins(external=False).analyzers}
    assert sorted(name for name in documented if name == name.lower()) == sorted(real)
    for name, analyzer in real.items():
        named = set(re.findall(r"^\| `--(?:no-)?([a-z-]+)`", documented[name], flags=re.MULTILINE))
        assert named == {field.replace("_", "-") for field in analyzer.parameters.model_fields}, name
        assert analyzer.summary and (type(analyzer).__doc__ or "").strip(), name
        assert all(field.description for field in analyzer.parameters.model_fields.values()), name


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in commands(cli)
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help and not parameter.show_default
    ]
    assert silent == []


def hook_names() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "glasshouse_spec")]


def test_every_hook_has_a_section_and_a_test() -> None:
    documented = sections("docs/plugins.md")
    tests = (ROOT / "tests" / "plugins" / "test_hooks.py").read_text(encoding="utf-8")
    assert sorted(documented) == sorted(hook_names())
    for name in hook_names():
        assert f"def test_hook_{name}(" in tests, name


def console_lines(file: str) -> list[str]:
    """Return the commands after `$ ` in the console blocks of a page."""
    blocks = re.findall(
        r"^```console\n(.+?)^```", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_what_the_readme_types_works(glasshouse: Any, tmp_path: Path) -> None:
    lines = [words for line in console_lines("README.md") if (words := shlex.split(line))[0] == "glasshouse"]
    assert len(lines) >= 6
    assert glasshouse("demo", "--images", "120").returncode == 0
    from conftest import write_pictures

    write_pictures(tmp_path / "photos", 12)
    for words in lines:
        done = glasshouse(*words[1:])
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout or "Wrote" in done.stderr, words
    for page in ("README.md", "docs/warehouse.md"):
        for code in re.findall(
            r"^```python\n(.+?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, (page, done.stderr)


def test_links_and_named_files_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for target in re.findall(r"(?<![\w/.-])docs/[\w./-]+\.md", text):
            assert (ROOT / target).exists(), f"{page.name} names {target}"
