"""Reading tensors out of PyTorch checkpoints that hold other objects too, without running any of their code.

A pickle is a program: unpickling calls whatever it names. Here only the functions that rebuild tensors can be named;
every other class or function becomes a placeholder that accepts anything and does nothing.
"""

from __future__ import annotations

import pickle
import types
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from glasshouse.plugins.hub import one_line
from glasshouse.schema.errors import ModelError

HOW_TO_CONVERT = (
    "Convert it where it comes from: torch.save({'state_dict': {name: tensor, ...}}, FILE), or write glasshouse's own "
    "format with glasshouse.plugins.saes.own_format.write."
)

_STORAGES = frozenset(
    f"{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Short", "Char", "Byte", "Bool")
)
_ALLOWED = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        *(("torch", name) for name in _STORAGES),
    }
)


class Placeholder:
    """Stands for an object of a class that is not let through; takes whatever a pickle does to it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Placeholder:
        """Accept any arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _item: Any) -> None:
        """Take an item of a list and forget it."""

    def extend(self, _items: Any) -> None:
        """Take items of a list and forget them."""

    def add(self, _item: Any) -> None:
        """Take an item of a set and forget it."""


class _InertUnpickler(pickle.Unpickler):
    """Knows the names that tensors need; everything else is a fresh placeholder class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        # A class of its own for each: a pickle may set attributes on what it names.
        return type("Placeholder", (Placeholder,), {"__slots__": ()})


def load_tensors(file: Path) -> Any:
    """Load what `torch.save` wrote, tensors as tensors, all other objects as `Placeholder`.

    Raises:
        ModelError: no such file, no checkpoint, or one that cannot be read without running its code.
    """
    import torch  # late: it takes a second to import

    if not file.is_file():
        raise ModelError(f"There is no checkpoint {file}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what else the file may be; an error follows anyhow
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass  # it holds something besides tensors; or it is none
    except Exception as error:  # torch raises whatever its readers raise
        raise ModelError(f"{file} is no PyTorch checkpoint: {one_line(error)}. {HOW_TO_CONVERT}") from error
    _check_archive(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_inert_module())
    except Exception as error:
        raise ModelError(
            f"{file} cannot be read without running the code that it holds ({one_line(error)}). {HOW_TO_CONVERT}"
        ) from error


def load_state_dict(stream: BinaryIO, file: Path) -> Any:
    """Load tensors from an open file, from where it stands; nothing but tensors may be in it.

    Raises:
        ModelError: it holds something else, or is no checkpoint; `file` is its name in the message.
    """
    import torch  # late: it takes a second to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file} holds more than tensors, which is not read. {HOW_TO_CONVERT}") from error
    except Exception as error:  # torch raises whatever its readers raise
        raise ModelError(f"{file} holds no PyTorch state dict: {one_line(error)}.") from error


def _check_archive(file: Path) -> None:
    """Let through only the archives whose one pickle is read with our unpickler.

    torch has other readers, for TorchScript and for files from before 2020, which would not use it throughout. It is
    torch's own list of the archive's entries that is looked at: another reader's might differ.
    """
    import torch  # late: it takes a second to import

    try:
        names = set(torch._C.PyTorchFileReader(str(file)).get_all_records())
    except RuntimeError as error:
        raise ModelError(
            f"{file} is no PyTorch checkpoint, or one in the format of before 2020. {HOW_TO_CONVERT}"
        ) from error
    if "constants.pkl" in names or "data.pkl" not in names:
        raise ModelError(f"{file} holds a program (TorchScript) and not only tensors. {HOW_TO_CONVERT}")


def _inert_module() -> Any:
    """What torch.load takes as `pickle_module`: nothing in it unpickles but the unpickler above."""
    module = types.ModuleType("inert_pickle")

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise pickle.UnpicklingError("only the zip format is read")

    vars(module).update(Unpickler=_InertUnpickler, load=refuse, loads=refuse)
    return module
