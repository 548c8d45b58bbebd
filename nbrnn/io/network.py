"""Networks in files: ``save`` and ``load``, and a network's architecture as data."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._version import __version__
from ..module import Parametric
from . import container
from .container import Path

#: Before the names of nbrnn's own classes, so that a user's of the same name is never taken for one.
OURS = "nbrnn."


def save(net: Parametric, path: Path) -> None:
    """Save a network, its parameters and its architecture, to a file that ``load`` makes the same network of.

    The file is one of safetensors: anything that reads those can read the parameters, by the names of ``net.params``.
    It is written to a temporary file beside it and then put in place in one step: whenever the process may die, there
    is either the old file or the new one.  What is on a GPU is copied to the host for it; ``load`` gives a network on
    the CPU.

    Parameters
    ----------
    net : layer, cell or network
        Of nbrnn, or of a class of your own that keeps each argument of its constructor under that name.
    path : str or path-like

    Raises
    ------
    TypeError
        ``net`` isn't a layer or network, or has an argument that can't be written.
    ImportError
        The package safetensors isn't installed.
    OSError
        The file can't be written; an old one is as it was.

    Notes
    -----
    An initialiser that is a function isn't kept: all it gave is in the parameters.  The state of generators isn't
    kept either.

    Examples
    --------
    >>> import nbrnn, os, tempfile
    >>> net = nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nbrnn.save(net, os.path.join(folder, "net.safetensors"))
    ...     again = nbrnn.load(os.path.join(folder, "net.safetensors"))
    >>> again
    <Sequential: 162 parameters>
      0: <GRU(3, 5, dtype=float32): 150 parameters>
      1: <Linear(5, 2, dtype=float32): 12 parameters>
    >>> bool((again.flat == net.flat).all())
    True
    """
    description = describe(net)
    parameters = net._parameters
    tensors = net.params if parameters.machine is None else parameters.views_of(parameters.numpy())
    container.write(path, tensors, {"network": description, "nbrnn": __version__})


def load(path: Path, *, classes: Mapping[str, type[Parametric]] | None = None) -> Any:
    """Load a network that ``save`` saved.

    Parameters are as they were to the bit, and so is what the network computes.  Its generators, for dropout, are
    fresh ones: give ``forward`` one where that must be repeated.  Nothing in a file is run: it names classes of nbrnn,
    or of ``classes``, and their arguments.  (A file from a stranger can still ask for a very large network.)

    Parameters
    ----------
    path : str or path-like
    classes : mapping of str to class, optional
        Your own layers by the names of their classes: ``classes={"MyLayer": MyLayer}``.

    Returns
    -------
    net : layer, cell or network

    Raises
    ------
    FileNotFoundError, OSError
        There is no such file, or it can't be read.
    ValueError
        The file is cut, damaged, of another kind, or needs a class or an argument that isn't known.
    ImportError
        The package safetensors isn't installed.
    """
    known = _known(classes)
    tensors, metadata = container.read(path)
    try:
        if "network" not in metadata:
            raise ValueError(f"it holds {', '.join(metadata) or 'nothing'}, and no network")
        net = build(metadata["network"], known)
        fill(net, tensors)
    except (ValueError, TypeError, RecursionError) as reason:  # of constructors too: here it is the file that is wrong
        raise ValueError(f"{os.fspath(path)!r} can't be loaded: {reason}") from reason
    return net


def describe(net: Parametric) -> dict[str, Any]:
    """A network's architecture, of what JSON can hold: ``{"class": name, "arguments": {...}}``, with parts inside.

    Raises
    ------
    TypeError
        It isn't a network, or has an argument that can't be described.
    """
    if not isinstance(net, Parametric):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    cls = type(net)
    name = OURS + cls.__name__ if public().get(cls.__name__) is cls else cls.__name__
    arguments = {key: _plain(value, key, cls.__name__) for key, value in net._architecture().items()}
    return {"class": name, "arguments": arguments}


def build(description: Any, classes: Mapping[str, type[Parametric]]) -> Any:
    """A network of that description, with fresh parameters.

    Parameters
    ----------
    description : dict
        From ``describe``.
    classes : mapping of str to class
        All that may be made, by the names that descriptions have for them.

    Raises
    ------
    ValueError, TypeError
        A class or an argument isn't known, or a constructor refuses an argument.
    """
    if not _is_description(description):
        raise ValueError("its architecture isn't one that nbrnn wrote")
    name = description["class"]
    if name not in classes:
        hint = "this nbrnn has no such class" if name.startswith(OURS) else f"give classes={{{name!r}: ...}}"
        raise ValueError(f"it needs the class {name!r}: {hint}")
    cls = classes[name]
    parameters = inspect.signature(cls).parameters
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for key, value in description["arguments"].items():
        if key not in parameters or key == "rng":
            raise ValueError(f"{name!r} has no argument {key!r}, which the file gives")
        value = _made(value, classes)
        if parameters[key].kind is inspect.Parameter.VAR_POSITIONAL:
            positional = value
        else:
            keywords[key] = value
    return cls(*positional, **keywords)


def fill(net: Parametric, tensors: Mapping[str, Any], place: str = "") -> None:
    """Set all parameters of a network to arrays of the same names, shapes and dtype; place: for errors, before names.

    Raises
    ------
    ValueError
        An array is missing, or too many, or of another shape or dtype.
    """
    differences = {"missing": set(net.params) - set(tensors), "not used": set(tensors) - set(net.params)}
    wrong = [
        f"tensors {what}: " + ", ".join(place + n for n in sorted(names))
        for what, names in differences.items()
        if names
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    for name, mine in net.params.items():
        given = tensors[name]
        if given.dtype.name != mine.dtype.name or given.shape != mine.shape:
            raise ValueError(
                f"tensor {place}{name} must be {mine.dtype} of shape {mine.shape}, "
                f"got {given.dtype} of shape {given.shape}"
            )
    for name in net.params:
        net.params[name] = tensors[name]


def public() -> dict[str, type[Parametric]]:
    """The classes of nbrnn's public face that are layers or networks, by name.

    They stand above this module, and others may come: so they are looked up by name when they are needed.
    """
    nbrnn = importlib.import_module(__name__.split(".")[0])
    things = {name: getattr(nbrnn, name) for name in nbrnn.__all__}
    return {name: t for name, t in things.items() if isinstance(t, type) and issubclass(t, Parametric)}


def _known(classes: Mapping[str, type[Parametric]] | None) -> dict[str, type[Parametric]]:
    """All classes that may be made, by the names that files have for them."""
    own = {} if classes is None else classes
    if not isinstance(own, Mapping):
        raise TypeError(f"classes must be a mapping of names to classes, got {type(own).__name__}")
    for name, cls in own.items():
        if not isinstance(cls, type) or not issubclass(cls, Parametric):
            raise TypeError(f"classes[{name!r}] must be a class of layers or networks, got {cls!r}")
    return dict(own) | {OURS + name: cls for name, cls in public().items()}


def _plain(value: Any, name: str, cls: str) -> Any:
    """An argument as JSON can hold it."""
    if isinstance(value, Parametric):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name, cls) for item in value]
    if name == "dtype":
        return np.dtype(value).name
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name.endswith("_init"):  # matters for the initial values only, and those are gone
        return None
    raise TypeError(f"{name} of {cls} can't be saved: it must be a number, a string, None or a network, got {value!r}")


def _is_description(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class"), str) and isinstance(value.get("arguments"), dict)


def _made(value: Any, classes: Mapping[str, type[Parametric]]) -> Any:
    """The way back from ``_plain``."""
    if isinstance(value, list):
        return [_made(item, classes) for item in value]
    return build(value, classes) if isinstance(value, dict) else value
