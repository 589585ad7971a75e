"""What a plugin registers: loaders for encoders, SAEs and labelers, presets; and the registries that hold them.

The protocols of the loaded things, `Encoder` and `SparseAutoencoder`, are the warehouse's (`warehouse/contracts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from glasshouse.plugins.labeling import Labeler, LabelerOptions
from glasshouse.schema.errors import PluginError, unknown_name
from glasshouse.warehouse.contracts import Encoder, SparseAutoencoder, TokenPolicy

Value = TypeVar("Value")


@dataclass(frozen=True)
class EncoderLoader:
    """How the specs of one scheme become encoders.

    Attributes:
        load: called with the spec's part after `scheme:` and the device (`cpu`, `cuda`); imports its library itself.
        summary: one line for listings, with an example spec.
        check_stored: called with the same part before a spec is loaded that nobody has typed, but that was read out of
            a warehouse or a model's file. A loader that runs code which its specs name raises a ModelError here unless
            the user has agreed to it.
    """

    load: Callable[[str, str], Encoder]
    summary: str
    check_stored: Callable[[str], None] = lambda name: None


@dataclass(frozen=True)
class SaeLoader:
    """How the specs of one scheme become sparse autoencoders; `load` as in `EncoderLoader`."""

    load: Callable[[str, str], SparseAutoencoder]
    summary: str


@dataclass(frozen=True)
class LabelerLoader:
    """How a name becomes a labeler.

    Attributes:
        load: called with the options of one run; imports its client library and reads keys from the environment itself.
        summary: one line for listings.
        resolve: fills in what the options leave open (model, base_url), so that it is recorded; checks what can be
            checked without loading anything.
        sees_pictures: whether it wants the pictures of a feature; where not, none are opened.
        is_remote: whether it asks a service: then loading it is quick, and `--dry-run` says what the cache answers.
    """

    load: Callable[[LabelerOptions], Labeler]
    summary: str
    resolve: Callable[[LabelerOptions], LabelerOptions] = lambda options: options
    sees_pictures: bool = True
    is_remote: bool = True


@dataclass(frozen=True)
class PresetSpace:
    """One space of a preset, as `glasshouse extract` would be told it."""

    name: str
    hook: str
    tokens: TokenPolicy
    sae: str


@dataclass(frozen=True)
class Preset:
    """Several spaces of one encoder under one name."""

    encoder: str
    spaces: tuple[PresetSpace, ...]
    summary: str


class Registry(Generic[Value]):
    """Names and what they stand for, filled by one hook. Knows which plugin brought what."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[Value, str]] = {}

    def register(self, name: str, value: Value, plugin: str) -> None:
        """Add one name.

        Raises:
            PluginError: the name is taken; both plugins are named.
        """
        if name in self._entries:
            other = self._entries[name][1]
            raise PluginError(
                f"The plugins '{other}' and '{plugin}' both register the {self.kind} '{name}'. "
                "Uninstall or rename one of them."
            )
        self._entries[name] = (value, plugin)

    def get(self, name: str, hint: str = "") -> Value:
        """Return what `name` stands for.

        Raises:
            UsageError: no such name; the known ones are listed.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries, hint)
        return self._entries[name][0]

    def owner(self, name: str) -> str:
        """Return the plugin that registered `name`."""
        return self._entries[name][1]

    def __iter__(self) -> Iterator[tuple[str, Value, str]]:
        """Yield (name, value, plugin) in the order of registration."""
        for name, (value, plugin) in self._entries.items():
            yield name, value, plugin

    def __contains__(self, name: str) -> bool:
        return name in self._entries
