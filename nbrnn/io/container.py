"""Files of named arrays with metadata: whole and as they were written, or refused.

A file is one of safetensors (https://github.com/huggingface/safetensors), readable by anything that reads those.  What
nbrnn adds stands in its ``__metadata__`` under ``nbrnn``, as JSON::

    {"version": 1, "sha256": "...", "metadata": {...}}

The digest is over all arrays and the metadata; safetensors itself has none.  Nothing in a file is ever run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Path = str | os.PathLike[str]

KEY, VERSION = "nbrnn", 1

#: What files are called while they are written, as a pattern of ``glob``; a process that is killed may leave one.
TEMPORARY = ".nbrnn-*.tmp"

#: Kinds of arrays, as safetensors calls them.
TYPES = {"BOOL": "bool", "F32": "float32", "F64": "float64"}
TYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata to a file, which afterwards is on the disk, whole.

    They go to a temporary file in the same folder, ``.nbrnn-<random>.tmp``, which then takes the place of the old
    file in one step.  So whenever the process may die, there is either the old file or the new one.  What is written
    follows from the arguments to the byte.

    Parameters
    ----------
    path : str or path-like
        If it is a link, the file that it leads to is replaced.
    tensors : mapping of str to ndarray
        Of bool, signed or unsigned integers, float32 or float64; of any shape, strides and byte order.
    metadata : mapping of str to anything that JSON can hold
        Nested mappings with str for keys, lists, tuples, str, bool, None, int of any size, float; NumPy's scalars and
        arrays too.  See ``read`` for how they come back.

    Raises
    ------
    TypeError, ValueError
        Something of another kind, or a name that isn't printable.
    ImportError
        The package safetensors isn't installed.
    OSError
        The file can't be written; the old one is as it was, and no temporary is left.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from nbrnn.io import container
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     container.write(folder + "/a", {"w": np.arange(3.0)}, {"step": 7, "lr": 0.1})
    ...     container.read(folder + "/a")
    ({'w': array([0., 1., 2.])}, {'step': 7, 'lr': 0.1})
    """
    save = _safetensors().numpy.save
    target = os.path.realpath(os.fspath(path))
    arrays = {name: _array(name, a) for name, a in _items(tensors, "tensors")}
    try:
        plain = _plain(dict(_items(metadata, "metadata")), "metadata")
    except RecursionError:
        raise ValueError("metadata must not be nested that deep, or contain itself") from None
    note = {"version": VERSION, "sha256": _digest(arrays, plain), "metadata": plain}
    # One entry: safetensors writes several in an order that is another each time.
    _replace(target, save(arrays, metadata={KEY: _dumps(note)}))


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what ``write`` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    tensors : dict of str to ndarray
        In the order of their names; new arrays, C-contiguous and in native byte order.
    metadata : dict
        Tuples and arrays have become lists, NumPy's scalars Python's numbers.  Integers and floats are as they were,
        infinities and signed zeros among them; a NaN is a NaN, without the bits that its kind may hide.

    Raises
    ------
    FileNotFoundError, OSError
        There is no such file, or it can't be read.
    ValueError
        The file is empty, cut, damaged, or of another kind.
    ImportError
        The package safetensors isn't installed.
    """
    name = os.fspath(path)
    _safetensors()
    # Not mapped into memory: a file that another process cuts would crash this one.
    with open(name, "rb") as file:
        _header(file.read(9), os.fstat(file.fileno()).st_size, name)  # first: it may be anything, and huge
        file.seek(0)
        return parse(file.read(), name)


def parse(data: bytes, name: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """As ``read``, of a file's bytes; the name is for errors."""
    deserialize = _safetensors().deserialize
    length = _header(data[:9], len(data), name)
    try:
        note = _note(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"{name!r} is damaged, or was not written by nbrnn: no entry {KEY!r} in its header") from None
    if note["version"] != VERSION:
        raise ValueError(f"{name!r} has version {note['version']!r} of the format, and this nbrnn reads {VERSION}")
    try:
        entries = deserialize(data)
        arrays = {key: _tensor(entry) for key, entry in sorted(entries, key=lambda pair: pair[0])}
    except Exception as reason:  # safetensors has errors of its own
        raise ValueError(f"{name!r} is damaged or cut: {reason}") from None
    if _digest(arrays, note["metadata"]) != note["sha256"]:
        raise ValueError(f"{name!r} is damaged: its digest is not that of what it holds")
    return arrays, note["metadata"]


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("files need the package safetensors: pip install 'nbrnn[io]'") from None
    return safetensors


# What can be written


def _items(given: Any, name: str) -> list[tuple[str, Any]]:
    """Of a mapping with str for keys."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping of str to values, got {type(given).__name__}")
    for key in given:
        if not isinstance(key, str):
            raise TypeError(f"keys of {name} must be str, got {key!r} ({type(key).__name__})")
    return list(given.items())


def _array(name: str, a: Any) -> Array:
    """C-contiguous, in native byte order."""
    what = f"tensors[{name!r}]"
    if not name.isprintable() or name in ("", "__metadata__"):
        raise ValueError(f"names of tensors must be printable, and not '' or '__metadata__', got {name!r}")
    if not isinstance(a, np.ndarray | np.generic) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{what} must be a NumPy array, got {type(a).__name__}")
    if a.dtype.name not in TYPES.values():
        raise TypeError(f"{what} must be of booleans, integers, float32 or float64, got {a.dtype}")
    return np.asarray(a, np.dtype(a.dtype.name), order="C")  # ascontiguousarray has no 0-d


def _plain(value: Any, name: str) -> Any:
    """Of dict, list, str, bool, None, int and float only; an error for what JSON would change or can't hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in _items(value, name)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{n}]") for n, item in enumerate(value)]
    for kind in (bool, int, float, str):  # enumerations and other subclasses become what they stand for
        if isinstance(value, kind):
            return kind(value)
    if value is not None:
        raise TypeError(f"{name} must be something that JSON can hold, got {type(value).__name__}")
    return None


def _dumps(value: Any) -> str:
    """The one text for a value: floats in the fewest digits that give them back, all but ASCII escaped."""
    return json.dumps(value, separators=(",", ":"))


def _digest(arrays: Mapping[str, Array], metadata: Any) -> str:
    """SHA-256 of ``[name, dtype, shape]`` and the bytes of each array, by name, then of the metadata."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = arrays[name]
        digest.update(_dumps([name, a.dtype.name, a.shape]).encode() + b"\n")
        digest.update(a.astype(a.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)
    digest.update(_dumps(metadata).encode())
    return digest.hexdigest()


# What was read


def _header(start: bytes, size: int, name: str) -> int:
    """Length of the header, from the first nine bytes."""
    length = int.from_bytes(start[:8], "little")
    if not start:
        raise ValueError(f"{name!r} is empty")
    if len(start) < 9 or start[8:] != b"{" or length > size - 8:
        raise ValueError(f"{name!r} is cut, damaged, or of another kind: it has no header of safetensors")
    return length


def _note(text: str) -> dict[str, Any]:
    """What ``write`` noted in the header."""
    note = json.loads(text)
    # One text for one value: so a flipped bit is seen even where JSON has two ways to say a thing.
    if _dumps(note) != text or not isinstance(note["metadata"], dict) or set(note) != {"version", "sha256", "metadata"}:
        raise ValueError
    return note


def _tensor(entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in TYPES:
        raise ValueError(f"dtype {entry['dtype']} is none that nbrnn writes")
    dtype, shape = np.dtype(TYPES[entry["dtype"]]), tuple(entry["shape"])
    if len(entry["data"]) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(entry['data'])} bytes for shape {shape} of {dtype.name}")
    if dtype == np.bool_ and np.frombuffer(entry["data"], np.uint8).max(initial=0) > 1:
        raise ValueError("a boolean is neither 0 nor 1")
    return np.frombuffer(entry["data"], dtype.newbyteorder("<")).reshape(shape).astype(dtype)


# Files


def _replace(target: str, data: bytes) -> None:
    """Put a file in the place of another, in one step that lasts."""
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, TEMPORARY.replace("*", secrets.token_hex(8)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder", folder)
    # Permissions as of any new file; Windows would change ends of lines without O_BINARY.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the names of its files last; not every system and file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows; or a folder that may be written to but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as reason:
        if reason.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
