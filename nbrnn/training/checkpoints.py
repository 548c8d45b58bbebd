"""Checkpoints of a run: what is written, where, and whether it belongs to the run at hand."""

from __future__ import annotations

import functools
import inspect
import math
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io import container

Array = NDArray[Any]

#: Of what is written: grows when that changes.
FORMAT = 1

#: Written last, and the one before: whatever happens while one is written, another is whole.
KEPT = 2


class Folder:
    """The checkpoints of one run, numbered as they are written; the last two are kept.

    Parameters
    ----------
    path : str or path-like
        A folder; made if it isn't there.
    """

    def __init__(self, path: Any) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint_dir must be a path, got {type(path).__name__}")
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"checkpoint_dir must be a folder, got a file: {self.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.path.glob(container.TEMPORARY):  # of a run that was killed while it wrote
            file.unlink(missing_ok=True)
        self._damaged: set[pathlib.Path] = set()

    def _files(self) -> dict[int, pathlib.Path]:
        """By number, rising."""
        found = {}
        for file in self.path.iterdir():
            if match := re.fullmatch(r"checkpoint-(\d+)\.safetensors", file.name):
                found[int(match[1])] = file
        return dict(sorted(found.items()))

    def read(self) -> Any:
        """What was written last and can be read; None where nothing has been written.

        Raises
        ------
        ValueError
            There are checkpoints, and none can be read.
        """
        files = list(reversed(self._files().values()))
        for file in files:
            try:
                tensors, metadata = container.read(file)
            except (ValueError, OSError) as error:
                self._damaged.add(file)
                if file != files[-1]:
                    warnings.warn(
                        f"{file} can't be read, the one before is used: {error}", RuntimeWarning, stacklevel=4
                    )
                continue
            return unpack(metadata, tensors)
        if files:
            raise ValueError(
                f"checkpoint_dir must hold a checkpoint that can be read, or none at all; damaged are "
                f"{', '.join(map(str, reversed(files)))}"
            )
        return None

    def write(self, value: Any) -> None:
        """Write another; when it is safe on disk, those before the last two go."""
        tensors: dict[str, Array] = {}
        metadata = pack(value, tensors)
        files = self._files()
        number = max(files, default=-1) + 1
        container.write(self.path / f"checkpoint-{number:06d}.safetensors", tensors, metadata)
        kept = [file for file in files.values() if file not in self._damaged][1 - KEPT :]
        for file in files.values():
            if file not in kept:
                file.unlink(missing_ok=True)


def pack(value: Any, tensors: dict[str, Array], path: str = "") -> Any:
    """A value of arrays, numbers, texts, lists, tuples and dicts as one for JSON; arrays go to ``tensors``."""
    if isinstance(value, np.ndarray):
        tensors[path] = value
        return {"#": "array", "at": path}
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {"#": "float", "is": str(number)}
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, tuple):
        return {"#": "tuple", "of": pack(list(value), tensors, path)}
    if isinstance(value, list):
        return [pack(inner, tensors, f"{path}.{q}") for q, inner in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == "#":
                raise TypeError(f"keys of what a checkpoint holds must be texts, got {key!r} in {path or 'it'}")
        return {key: pack(inner, tensors, f"{path}.{key}" if path else key) for key, inner in value.items()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(
        f"what a checkpoint holds must be arrays, numbers, texts, lists, tuples or dicts, got {type(value).__name__} "
        f"for {path}"
    )


def unpack(value: Any, tensors: Mapping[str, Array]) -> Any:
    """What ``pack`` was given."""
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    match value.get("#"):
        case "array":
            return tensors[value["at"]]
        case "float":
            return float(value["is"])
        case "tuple":
            return tuple(unpack(value["of"], tensors))
    return {key: unpack(inner, tensors) for key, inner in value.items()}


def digest(contents: Any) -> str:
    """A short text that differs where the arrays in lists and tuples do: CRC-32 of kinds, shapes and numbers."""

    def add(value: Any, crc: int) -> int:
        if isinstance(value, list | tuple):
            return functools.reduce(lambda sum_, inner: add(inner, sum_), value, zlib.crc32(b"%d" % len(value), crc))
        array = np.asarray(value)
        if array.dtype.hasobject:  # None, where there are no lengths
            return zlib.crc32(repr(value).encode(), crc)
        crc = zlib.crc32(f"{array.dtype}{array.shape}".encode(), crc)
        return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"", crc)

    return f"{add(contents, 0):08x}"


def settings_of(thing: Any, apart: Any = None) -> dict[str, Any]:
    """What an optimiser or a schedule was made with: its kind, and what is kept under the constructor's names.

    Schedules within a schedule are among it, but not ``apart``, its optimiser.
    """
    names = ["base", *inspect.signature(type(thing)).parameters]  # base: a schedule's first learning rate
    found = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    inner = {name: value for name, value in found.items() if hasattr(value, "step") and value is not apart}
    nested = {name: settings_of(value, apart) for name, value in inner.items()}
    plain = {name: v for name, v in found.items() if isinstance(v, bool | int | float | str | tuple | None)}
    return {"kind": type(thing).__name__, **plain, **nested}


def name_of(function: Callable[..., Any] | None) -> Any:
    """A callable's name, with the arguments that a partial has bound."""
    if isinstance(function, functools.partial):
        bound = [plain(a) for a in function.args], {k: plain(a) for k, a in function.keywords.items()}
        return [name_of(function.func), *bound]
    return None if function is None else getattr(function, "__name__", type(function).__name__)


def plain(value: Any) -> str:
    """A setting as text, without what differs from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterable[str]:
    """What differs between two descriptions of runs."""
    for name in dict.fromkeys([*there, *here]):
        before, now = there.get(name), here.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from (f"{name}: {line}" for line in differences(before, now))
        elif plain(before) != plain(now):
            yield f"{name} was {plain(before)}, is {plain(now)}"
