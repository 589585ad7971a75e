"""The stored schema against its golden file, and the rules that SQL in the code keeps."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import duckdb
import pytest

from glasshouse.warehouse.catalogue import migrate, migrations

ROOT = Path(__file__).parents[2]
PARTS = ("schema", "warehouse", "plugins", "cli")

_spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
assert _spec is not None and _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


def test_the_schema_is_the_golden_one() -> None:
    assert golden.current() == golden.GOLDEN.read_text(encoding="utf-8"), (
        "after a migration: make golden, read the diff"
    )


@pytest.mark.parametrize("version", range(len(migrations()) + 1))
def test_every_older_version_ends_at_the_same_schema(tmp_path: Path, version: int) -> None:
    path = tmp_path / "catalog.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, "
            "applied_at TIMESTAMP NOT NULL)"
        )
        for number, name, sql in migrations()[:version]:
            connection.execute(sql)
            connection.execute("INSERT INTO schema_migrations VALUES (?, ?, now()::TIMESTAMP)", [number, name])
    assert migrate(path) == [name for _, name, _ in migrations()[version:]]
    assert f"-- catalog.duckdb\n\n{golden.catalogue_schema(path)}\n" == golden.current().split("-- spaces/")[0]


def sources() -> list[Path]:
    return sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


def test_no_value_is_written_into_sql_text() -> None:
    """f-strings may reach a database only through the quoting functions."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if not is_call or node.func.attr not in ("execute", "sql", "executemany") or not node.args:
                continue
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.FormattedValue) and not _is_quoted(part.value):
                    found.append(f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part.value)}")
    assert found == []


# Expressions that are SQL text already, each built from quoted parts in the same function or the one it names.
QUOTED_CALLS = {"identifier", "literal", "result_table", "_alias", "_empty"}
QUOTED_NAMES = {"own_name", "listing", "keep", "type_text"}  # type_text: as DuckDB itself describes a column


def _is_quoted(value: ast.expr) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in QUOTED_CALLS
    return isinstance(value, ast.Name) and value.id in QUOTED_NAMES


ALLOWED_IMPORTS = {
    "schema": {"schema"},
    "warehouse": {"schema", "warehouse"},
    "plugins": {"schema", "warehouse", "plugins"},
    "cli": {"schema", "warehouse", "plugins", "cli"},
}


def test_imports_run_one_way() -> None:
    """schema < warehouse < plugins < cli. Types only (`if TYPE_CHECKING`) may name what is handed in."""
    wrong = []
    for path in sources():
        part = path.relative_to(ROOT).parts[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if part == "schema" else ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("glasshouse.") and name.split(".")[1] not in ALLOWED_IMPORTS[part]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_every_package_is_named_in_the_build() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {
        ".".join(("glasshouse", *path.parent.relative_to(ROOT).parts))
        for path in sources()
        if path.name == "__init__.py"
    }
    assert sorted(listed) == sorted(on_disk)
    without_init = {path.parent for path in sources()} - {
        path.parent for path in sources() if path.name == "__init__.py"
    }
    assert without_init == set()


def test_files_stay_short() -> None:
    long = {str(path.relative_to(ROOT)): n for path in sources() if (n := len(path.read_text().splitlines())) > 330}
    assert long == {}
