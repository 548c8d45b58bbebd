"""The libraries nbrnn is compared with: which are there, and how each becomes a contender."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence

from . import jax_peer, keras_peer, onnx_peers, torch_peer
from .problem import Problem
from .timing import Contender, Step


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another library.

    Parameters
    ----------
    packages : tuple of str
        What must be installed.
    contenders : callable
        Makes contenders of a problem and a sequence of numbers of threads; raises ``Unsupported`` where the library
        doesn't do what is asked for.
    step : callable, optional
        Makes a single step of a problem, for streams.
    """

    packages: tuple[str, ...]
    contenders: Callable[[Problem, Sequence[int]], list[Contender]]
    step: Callable[[Problem], Step] | None = None

    def installed(self) -> bool:
        """Whether its packages are there (none of them is imported)."""
        there = all(importlib.util.find_spec(name) is not None for name in self.packages)
        return there and ("keras" not in self.packages or keras_peer.backend() is not None)

    def versions(self) -> dict[str, str]:
        """Versions of its packages."""
        return {name: _version(name) for name in self.packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as onnxruntime-gpu
        return "of unknown version"


PEERS = {
    "torch": Peer(("torch",), torch_peer.contenders, torch_peer.step),
    "onnxruntime": Peer(("onnxruntime", "onnx"), onnx_peers.onnxruntime, onnx_peers.onnxruntime_step),
    "openvino": Peer(("openvino", "onnx"), onnx_peers.openvino, onnx_peers.openvino_step),
    "jax": Peer(("jax", "jaxlib"), jax_peer.contenders),
    "keras": Peer(("keras",), keras_peer.contenders),
}


def installed() -> list[str]:
    """Names of the peers that are there."""
    return [name for name, peer in PEERS.items() if peer.installed()]
