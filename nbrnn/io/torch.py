"""Networks of torch.nn, as modules or as what their ``state_dict`` gives.

torch itself is never imported: a module is known by the name of its class, a tensor by having ``detach``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import cells, layers
from ..embedding import Embedding
from ..networks import Sequential
from ..normalise import LayerNorm
from ..pointwise import Dropout, Linear
from .network import fill

Array = NDArray[Any]

#: torch.nn's activations that a Linear can end with.
ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh", "ReLU": "relu"}

#: Recurrent layers by their number of gates.
KINDS = {1: "RNN", 3: "GRU", 4: "LSTM"}

#: A parameter of a recurrent stack: where the stack is, what it is, and for which layer and direction (a cell: none).
RECURRENT = re.compile(r"(.*?)((?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(_l\d+(?:_reverse)?)?)", re.DOTALL)


def from_torch(
    module_or_state_dict: Any,
    *,
    prefix: str | None = None,
    nonlinearity: str | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
) -> Any:
    """A network with the architecture and a copy of the parameters of one of torch.nn.

    Parameters
    ----------
    module_or_state_dict : torch.nn module, or mapping of str to tensor or ndarray
        A module: RNN, GRU, LSTM, their cells, Linear, Embedding, LayerNorm, Dropout, or a Sequential of those, in
        which Softmax (over the last axis), Sigmoid, Tanh or ReLU may follow a Linear.  A mapping: the parameters of one
        recurrent stack or cell, under torch's names after any prefix; what it is, its sizes, layers, directions,
        biases, projection and dtype follow from names and shapes.
    prefix : str, optional
        For a mapping with more in it: only names that begin so count.
    nonlinearity : "tanh" or "relu", optional
        For a mapping of plain recurrent layers, which doesn't tell; None: "tanh".
    batch_first : bool, optional
        For a mapping of layers; None: False.
    dropout : float, optional
        For a mapping of layers: the probability between them; None: 0.

    Returns
    -------
    net : layer, cell or network
        Of the tensors' dtype, float32 or float64.  It has no train and eval mode: a call never drops, ``forward``
        always does.

    Raises
    ------
    TypeError
        A class of module that has no counterpart, by its name; tensors that are neither float32 nor float64.
    ValueError
        A setting that has no counterpart; a tensor that is missing or that isn't used, by its name; several stacks.

    Notes
    -----
    torch's recurrent modules return pairs, so that a Sequential of torch's with one in it can't run there.  Here it is
    what one would mean by it: y goes to the next part.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.LSTM(3, 5, num_layers=2, proj_size=2, rng=0)
    >>> state_dict = {"encoder.rnn." + name: a for name, a in layer.params.items()}
    >>> again = nbrnn.from_torch(state_dict)
    >>> again
    <LSTM(3, 5, num_layers=2, proj_size=2, dtype=float32): 280 parameters>
    >>> bool((again.flat == layer.flat).all())
    True
    """
    options = {"nonlinearity": nonlinearity, "batch_first": batch_first, "dropout": dropout}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(module_or_state_dict, Mapping):
        return _from_names(module_or_state_dict, prefix, given)
    if prefix is not None:
        given["prefix"] = prefix
    if not any(cls.__module__ == "torch.nn.modules.module" for cls in type(module_or_state_dict).__mro__):
        kind = type(module_or_state_dict).__name__
        raise TypeError(
            f"module_or_state_dict must be a module of torch.nn or a mapping of names to tensors, got {kind}"
        )
    if given:
        raise ValueError(f"{', '.join(given)} must be None for a module, which tells by itself")
    net = _from_module(module_or_state_dict, _dtype_of(module_or_state_dict))
    _refuse_ties(module_or_state_dict)
    return net


# Modules


def _refuse_ties(module: Any) -> None:
    """Two tensors in one place, or one module in two, would be two here."""
    places: dict[int, str] = {}
    for name, tensor in module.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in places:
            raise ValueError(f"{places[tensor.data_ptr()]} and {name} are one tensor, and would be two here")
        places[tensor.data_ptr()] = name


def _dtype_of(module: Any) -> np.dtype[Any]:
    """Of all its tensors that can be used; torch's default where it has none.  (Of others, their modules will tell.)"""
    dtypes = {_kind(tensor) for tensor in module.state_dict().values()} & {"float32", "float64"}
    return _one(dtypes or {"float32"})


def _from_module(module: Any, dtype: np.dtype[Any]) -> Any:
    name = type(module).__name__
    if _activation(module) is not None:
        raise TypeError(f"{name} has no counterpart by itself: it must follow a Linear in a Sequential")
    if not type(module).__module__.startswith("torch.nn.modules.") or name not in CONVERTERS:
        raise TypeError(
            f"{type(module).__module__}.{name} has no counterpart: give one of torch.nn's {', '.join(CONVERTERS)}, or "
            "the state_dict() of a recurrent one"
        )
    return CONVERTERS[name](module, dtype)


def _filled(make: Callable[..., Any], module: Any, *names: str, **more: Any) -> Any:
    """The class called with those attributes of the module, with the module's parameters."""
    net = make(**{name: getattr(module, name) for name in names}, **more)
    fill(net, {name: _array(name, tensor) for name, tensor in module.state_dict().items()})
    return net


def _recurrent(module: Any, dtype: np.dtype[Any]) -> Any:
    more = {"RNN": ("nonlinearity",), "LSTM": ("proj_size",)}.get(type(module).__name__, ())
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", *more)
    return _filled(getattr(layers, type(module).__name__), module, *names, dtype=dtype)


def _cell(module: Any, dtype: np.dtype[Any]) -> Any:
    names = ("input_size", "hidden_size", "bias") + ("nonlinearity",) * (type(module).__name__ == "RNNCell")
    return _filled(getattr(cells, type(module).__name__), module, *names, dtype=dtype)


def _linear(module: Any, dtype: np.dtype[Any], activation: str | None = None) -> Any:
    more = {"bias": module.bias is not None, "activation": activation, "dtype": dtype}
    return _filled(Linear, module, "in_features", "out_features", **more)


def _embedding(module: Any, dtype: np.dtype[Any]) -> Any:
    for name, plain in (("max_norm", None), ("scale_grad_by_freq", False)):
        if getattr(module, name) != plain:
            raise ValueError(
                f"{name} of Embedding must be {plain}, got {getattr(module, name)!r}: it has no counterpart"
            )
    return _filled(Embedding, module, "num_embeddings", "embedding_dim", "padding_idx", dtype=dtype)


def _layer_norm(module: Any, dtype: np.dtype[Any]) -> Any:
    if len(module.normalized_shape) != 1:
        raise ValueError(f"normalized_shape of LayerNorm must be one axis, got {tuple(module.normalized_shape)}")
    if (module.weight is None) != (module.bias is None):
        raise ValueError("LayerNorm must have a bias beside its weight, got none")
    return _filled(LayerNorm, module, "eps", "elementwise_affine", dim=module.normalized_shape[0], dtype=dtype)


def _dropout(module: Any, dtype: np.dtype[Any]) -> Any:
    return Dropout(module.p)


def _sequential(module: Any, dtype: np.dtype[Any]) -> Any:
    parts: list[Any] = []
    before = None
    for part in module:
        activation = _activation(part)
        if activation is not None and type(before).__name__ == "Linear":
            parts[-1] = _linear(before, dtype, activation)
        else:
            parts.append(_from_module(part, dtype))
        before = part
    return Sequential(*parts)


def _activation(module: Any) -> str | None:
    """What Linear calls it, if it is one."""
    name = type(module).__name__
    if name not in ACTIVATIONS or not type(module).__module__.startswith("torch.nn.modules."):
        return None
    if name == "Softmax" and module.dim != -1:
        raise ValueError(f"dim of Softmax must be -1, the last axis, got {module.dim}")
    return ACTIVATIONS[name]


CONVERTERS = {
    "RNN": _recurrent, "GRU": _recurrent, "LSTM": _recurrent, "RNNCell": _cell, "GRUCell": _cell, "LSTMCell": _cell,
    "Linear": _linear, "Embedding": _embedding, "LayerNorm": _layer_norm, "Dropout": _dropout,
    "Sequential": _sequential,
}  # fmt: skip


# Names and tensors


def _from_names(mapping: Mapping[Any, Any], prefix: str | None, options: dict[str, Any]) -> Any:
    """The stack or cell whose parameters those are."""
    for name in mapping:
        if not isinstance(name, str):
            raise TypeError(f"names of tensors must be str, got {name!r} ({type(name).__name__})")
    chosen = [name for name in mapping if name.startswith(prefix or "")]
    found = {name: match for name in chosen if (match := RECURRENT.fullmatch(name))}
    places = sorted({match[1] for match in found.values()})
    where = f" that begins with {prefix!r}" if prefix else ""
    if not places:
        raise ValueError(f"there must be a recurrent stack{where}, got tensors {_shown(mapping)}")
    if len(places) > 1:
        raise ValueError(f"there must be one recurrent stack{where}, got {_shown(places)}: choose one with prefix=")
    unused = [name for name in chosen if name not in found]
    if unused:
        raise ValueError(f"tensors not used: {_shown(unused)}; prefix={places[0]!r} chooses the recurrent stack")
    return _stack({match[2]: _array(name, mapping[name]) for name, match in found.items()}, places[0], options)


def _stack(tensors: dict[str, Array], place: str, options: dict[str, Any]) -> Any:
    """The layers, or the cell, of those tensors: what they are follows from those of the first layer."""
    ends = {re.sub("^[a-z]+_[a-z]+", "", name) for name in tensors}
    is_cell = "" in ends
    first = "" if is_cell else "_l0"
    for name in ("weight_ih" + first, "weight_hh" + first):
        if name not in tensors:
            raise ValueError(f"tensor missing: {place}{name}")
    I = _matrix(tensors, "weight_ih" + first, place)[1]
    rows, K = _matrix(tensors, "weight_hh" + first, place)
    projected = "weight_hr" + first in tensors
    H = _matrix(tensors, "weight_hr" + first, place)[1] if projected else K
    kind = KINDS.get(rows // H if H and rows % H == 0 else 0)
    if kind is None or (projected and (kind != "LSTM" or is_cell)):
        wanted = f"4 blocks of {H} rows, as it has a projection" if projected else f"1, 3 or 4 blocks of {H} rows"
        raise ValueError(f"{place}weight_hh{first} must have {wanted}, got {rows} rows")
    allowed = ("nonlinearity",) * (kind == "RNN") + ("batch_first", "dropout") * (not is_cell)
    for name in options:
        if name not in allowed:
            raise ValueError(f"{name} must be None for {kind}{'Cell' * is_cell}, which has no such argument")
    settings = options | {"bias": any(name.startswith("bias") for name in tensors), "dtype": _dtype(tensors)}
    if is_cell:
        net = getattr(cells, kind + "Cell")(I, K, **settings)
    else:
        L = len({end.removesuffix("_reverse") for end in ends})  # if others are named than these, filling says so
        settings |= {"num_layers": L, "bidirectional": any(end.endswith("_reverse") for end in ends)}
        settings |= {"proj_size": K} if projected else {}
        net = getattr(layers, kind)(I, H, **settings)
    fill(net, tensors, place)
    return net


def _matrix(tensors: Mapping[str, Array], name: str, place: str) -> tuple[int, int]:
    """Its rows and columns."""
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"tensor {place}{name} must be a matrix, got shape {shape}")
    return shape


def _array(name: str, tensor: Any) -> Array:
    """A tensor, or an array, of float32 or float64."""
    kind = _kind(tensor)
    if kind in ("float16", "bfloat16"):
        raise TypeError(f"tensor {name} must be float32 or float64, got {kind}: convert it, as by .to(torch.float32)")
    if kind not in ("float32", "float64", ">f4", ">f8", "<f4", "<f8"):
        raise TypeError(f"tensor {name} must be a tensor or an array of float32 or float64, got {kind}")
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)


def _kind(tensor: Any) -> str:
    """Name of its dtype, or of its class."""
    return str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")


def _dtype(tensors: Mapping[str, Array]) -> np.dtype[Any]:
    """The one of all."""
    return _one({a.dtype.name for a in tensors.values()})


def _one(dtypes: set[str]) -> np.dtype[Any]:
    if len(dtypes) != 1:
        raise ValueError(f"all tensors must be of one dtype, got {', '.join(sorted(dtypes))}")
    return np.dtype(dtypes.pop())


def _shown(names: Any) -> str:
    """The first few of them."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:8] + [f"and {len(listed) - 8} more"] * (len(listed) > 8)) or "none"
