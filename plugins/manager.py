"""Finding plugins and asking them what they bring.

Rules: the built-ins are an explicit tuple; they go through the same hooks as a stranger's; nothing is ever loaded
from inside a warehouse folder; there is no global manager, each call of the command line builds its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from glasshouse.plugins import hookspecs
from glasshouse.plugins.contracts import EncoderLoader, LabelerLoader, Preset, Registry, SaeLoader
from glasshouse.schema.errors import GlasshouseError, PluginError, UsageError
from glasshouse.warehouse.contracts import Encoder, SparseAutoencoder
from glasshouse.warehouse.intake.records import Source

if TYPE_CHECKING:
    import click
    import duckdb

    from glasshouse.plugins.analyzer import Analyzer
    from glasshouse.plugins.runner import AnalysisReport, Runner
    from glasshouse.warehouse.warehouse import Progress, Warehouse

ENTRY_POINT_GROUP = "glasshouse"
NO_EXTERNAL_PLUGINS_VARIABLE = "GLASSHOUSE_NO_PLUGINS"

BUILTIN_PLUGINS = (
    "glasshouse.plugins.encoders.open_clip",
    "glasshouse.plugins.encoders.transformers",
    "glasshouse.plugins.encoders.timm",
    "glasshouse.plugins.encoders.torchvision",
    "glasshouse.plugins.encoders.python",
    "glasshouse.plugins.encoders.dinoised",
    "glasshouse.plugins.encoders.local",
    "glasshouse.plugins.saes.neurons",
    "glasshouse.plugins.saes.prisma",
    "glasshouse.plugins.saes.saelens",
    "glasshouse.plugins.saes.dictionary_learning",
    "glasshouse.plugins.saes.saev",
    "glasshouse.plugins.saes.overcomplete",
    "glasshouse.plugins.saes.msae",
    "glasshouse.plugins.saes.local",
    "glasshouse.plugins.sources.folder",
    "glasshouse.plugins.sources.table",
    "glasshouse.plugins.sources.coco",
    "glasshouse.plugins.sources.webdataset",
    "glasshouse.plugins.analyzers.plugin",
    "glasshouse.plugins.labelers.vocabulary",
    "glasshouse.plugins.labelers.gemini",
    "glasshouse.plugins.labelers.openai",
    "glasshouse.plugins.labelers.local",
    "glasshouse.plugins.sql_functions",
    "glasshouse.plugins.starter.plugin",
)


class Listed(NamedTuple):
    """One thing that a plugin brings."""

    kind: str
    name: str
    summary: str
    plugin: str
    version: str


class Plugins:
    """All plugins of one call: the built-ins, installed packages, and single files.

    Args:
        files: paths of single-file plugins (`--plugin FILE`).
        external: whether installed packages are asked too; $GLASSHOUSE_NO_PLUGINS switches them off.
    """

    def __init__(self, files: Sequence[Path] = (), *, external: bool = True) -> None:
        self._typed: set[str] = set()  # specs of encoders that the user has named
        self.manager = pluggy.PluginManager("glasshouse")
        self.manager.add_hookspecs(hookspecs)
        for name in BUILTIN_PLUGINS:
            self.manager.register(importlib.import_module(name), name)
        if external and not os.environ.get(NO_EXTERNAL_PLUGINS_VARIABLE):
            self._load_installed()
        for file in files:
            self._register(_load_file(file), str(file))
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"The plugin '{self._name_of(error.plugin)}' implements a hook that does not exist: {error}. "
                "See docs/plugins.md for the hooks there are."
            ) from error

    @cached_property
    def encoders(self) -> Registry[EncoderLoader]:
        """Encoder schemes by name."""
        return self._collect("encoder scheme", "register_encoders")

    @cached_property
    def saes(self) -> Registry[SaeLoader]:
        """SAE schemes by name."""
        return self._collect("SAE scheme", "register_saes")

    @cached_property
    def analyzers(self) -> Registry[Analyzer[Any]]:
        """Analyzers by name."""
        registry: Registry[Analyzer[Any]] = self._collect("analyzer", "register_analyzers")
        from glasshouse.plugins.declarations import check_declaration  # late, as in `runner`

        for name, analyzer, plugin in registry:
            check_declaration(name, analyzer, plugin)
        return registry

    @cached_property
    def labelers(self) -> Registry[LabelerLoader]:
        """Labelers by name."""
        return self._collect("labeler", "register_labelers")

    @cached_property
    def presets(self) -> Registry[Preset]:
        """Presets by name."""
        return self._collect("preset", "register_presets")

    @cached_property
    def sources(self) -> Registry[Source]:
        """Sources by name."""
        return self._collect("source", "register_sources")

    def load_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder from a spec that the user has typed: `SCHEME:REST`, or a local folder."""
        encoder: Encoder = self._load(self.encoders, spec, device)
        self._typed.update((spec, encoder.spec))
        return encoder

    def load_stored_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder from a spec that was read out of a warehouse or a model's file.

        Raises:
            ModelError: loading it would run code that the user has not named.
        """
        if spec not in self._typed:
            scheme, rest = self._split(spec, self.encoders)
            if scheme in self.encoders:
                self.encoders.get(scheme).check_stored(rest)
        encoder: Encoder = self._load(self.encoders, spec, device)
        return encoder

    def load_sae(self, spec: str, device: str = "cpu") -> SparseAutoencoder:
        """Load a sparse autoencoder from its spec, `SCHEME:REST`, `neurons`, or a local folder."""
        sae: SparseAutoencoder = self._load(self.saes, spec, device)
        return sae

    def _load(self, registry: Registry[Any], spec: str, device: str) -> Any:
        scheme, rest = self._split(spec, registry)
        loader = registry.get(scheme, "A spec reads SCHEME:NAME.")
        try:
            return loader.load(rest, device)
        except (GlasshouseError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PluginError(
                f"The plugin '{registry.owner(scheme)}' failed to load '{spec}': {type(error).__name__}: {error}"
            ) from error

    def source_list(self) -> list[Source]:
        """Every source; those of later plugins first, so that a stranger's can take over a file type."""
        return [source for _, source, _ in self.sources][::-1]

    def runner(
        self, warehouse: Warehouse, step: Callable[[str], Progress] = lambda title: lambda done, total: None
    ) -> Runner:
        """Return what runs analyses on a warehouse; `step` as in `Runner`."""
        # Late: pydantic and pyarrow take a third of a second, for which commands that analyse nothing should not wait.
        from glasshouse.plugins.runner import Runner

        return Runner(warehouse, self.analyzers, step)

    def analyze(
        self,
        warehouse: Warehouse,
        name: str,
        spaces: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
        step: Callable[[str], Progress] = lambda title: lambda done, total: None,
    ) -> list[AnalysisReport]:
        """Run an analysis, and what it requires, on the named spaces or on all finished ones that it fits."""
        return list(self.runner(warehouse, step).run_on(name, spaces, parameters, force=force))

    def prepare_connection(self, connection: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
        """Let every plugin add its SQL functions and macros to a reading connection."""
        self._each("prepare_connection", connection, warehouse)

    def listing(self) -> list[Listed]:
        """Everything the plugins bring, by kind."""
        versions = self._versions()
        registries: tuple[Registry[Any], ...] = (
            self.encoders,
            self.saes,
            self.presets,
            self.sources,
            self.analyzers,
            self.labelers,
        )
        return [
            Listed(registry.kind, name, value.summary, plugin, versions.get(plugin, ""))
            for registry in registries
            for name, value, plugin in registry
        ]

    def _versions(self) -> dict[str, str]:
        """The version of each plugin: the package's own for built-ins, the distribution's for installed ones."""
        own = metadata.version("glasshouse")
        versions = dict.fromkeys(BUILTIN_PLUGINS, own)
        for plugin, distribution in self.manager.list_plugin_distinfo():
            versions[self._name_of(plugin)] = distribution.version
        return versions

    def register_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands."""
        self._each("register_commands", cli)

    @staticmethod
    def _split(spec: str, registry: Registry[Any]) -> tuple[str, str]:
        """Take a spec apart; a path without a scheme belongs to the scheme `local`.

        Raises:
            UsageError: neither a scheme nor a path that exists.
        """
        scheme, colon, rest = spec.partition(":")
        if scheme not in registry and Path(spec).exists():
            return "local", spec
        if not colon and scheme not in registry:
            schemes = ", ".join(name for name, _, _ in registry)
            raise UsageError(f"'{spec}' is neither a folder nor a spec such as SCHEME:NAME. Schemes: {schemes}.")
        return scheme, rest

    def _collect(self, kind: str, hook: str) -> Registry[Any]:
        """Fill a registry plugin by plugin, so that a doubled name can say whose it is."""
        registry: Registry[Any] = Registry(kind)
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            self._call(implementation, hook, partial(_register_for, registry, implementation.plugin_name))
        return registry

    def _each(self, hook: str, *arguments: Any) -> None:
        """Call a hook plugin by plugin."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            self._call(implementation, hook, *arguments)

    @staticmethod
    def _call(implementation: pluggy.HookImpl, hook: str, *arguments: Any) -> None:
        """Call one plugin's part of a hook; a failure names the plugin.

        The plugin may take fewer arguments than the hook has, as pluggy allows.
        """
        names = getattr(hookspecs, hook).__code__.co_varnames
        given = dict(zip(names, arguments, strict=False))
        try:
            implementation.function(*(given[name] for name in implementation.argnames))
        except GlasshouseError:
            raise
        except Exception as error:
            raise PluginError(
                f"The plugin '{implementation.plugin_name}' failed in {hook}: {type(error).__name__}: {error}"
            ) from error

    def _load_installed(self) -> None:
        try:
            self.manager.load_setuptools_entrypoints(ENTRY_POINT_GROUP)
        except Exception as error:
            raise PluginError(
                f"An installed plugin cannot be loaded: {type(error).__name__}: {error}. "
                f"Uninstall it, or set {NO_EXTERNAL_PLUGINS_VARIABLE}=1 to go without."
            ) from error

    def _register(self, module: ModuleType, name: str) -> None:
        try:
            self.manager.register(module, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"The plugin '{name}' does not fit a hook: {error}") from error

    def _name_of(self, plugin: object) -> str:
        return self.manager.get_name(plugin) or repr(plugin)


def _register_for(registry: Registry[Any], plugin: str, name: str, value: object) -> None:
    registry.register(name, value, plugin)


def _load_file(file: Path) -> ModuleType:
    """Import one .py file as a plugin."""
    if not file.is_file():
        raise PluginError(f"There is no plugin file {file}.")
    # The path's hash keeps two files of one name apart.
    name = f"glasshouse_plugin_{file.stem}_{zlib.crc32(str(file.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is no Python file; --plugin takes a .py file.")
    module = importlib.util.module_from_spec(spec)
    # As an import would: pydantic and dataclasses look up the names in annotations there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"The plugin {file} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
