"""Pictures of what the diagnostics give, and of the history of a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from .differences import GradientCheck
from .flow import GradientFlow
from .gates import Saturation
from .spectrum import JacobianSpectrum

#: Shut, in between, open.
SHADES = ("#3b6fb6", "#e3e3e3", "#c8553d")


def plot(result: Any, ax: Any = None, **options: Any) -> Any:
    """Draw a result of ``nbrnn.diagnostics``, or the history of a training.

    Parameters
    ----------
    result : GradientFlow, JacobianSpectrum, Saturation, GradientCheck or a history
        What is drawn: norms of dL/dh_t over t, on a logarithmic axis; singular values of dh_T/dh_t over t, likewise;
        for each gate how much of it is saturated low and high; the error of each array beside the tolerance; loss and
        validation over the epochs, and the norm of the gradients on an axis of its own at the right.
    ax : matplotlib Axes, optional
        Where it is drawn; None: in a new figure of pyplot's.
    **options
        For what is drawn as lines (all but Saturation and GradientCheck, where they go to the bars): matplotlib's, such
        as ``color`` or ``alpha``.  ``label`` stands before the names in the legend, for several results in one picture.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        result isn't of a kind that can be drawn.
    ImportError
        matplotlib isn't installed.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> from matplotlib.figure import Figure
    >>> layer = nbrnn.GRU(2, 4, rng=0)
    >>> flow = nbrnn.diagnostics.gradient_flow(layer, np.ones((9, 1, 2), np.float32), dy=np.ones((9, 1, 4), np.float32))
    >>> ax = nbrnn.diagnostics.plot(flow, Figure().add_subplot())
    >>> ax.get_ylabel(), ax.get_yscale()
    ('norm of dL/dh_t', 'log')
    """
    draw = next((f for kind, f in DRAWN.items() if isinstance(result, kind)), None)
    if draw is None and all(isinstance(getattr(result, name, None), list) for name in ("loss", "validation", "norm")):
        draw = _history
    if draw is None:
        raise TypeError(
            "result must be a GradientFlow, JacobianSpectrum, Saturation or GradientCheck, or the history of a "
            f"training, got {type(result).__name__}"
        )
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'nbrnn[plot]', or pip install matplotlib") from None
    from matplotlib.axes import Axes

    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(layout="constrained")
    elif not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes, got {type(ax).__name__}")
    draw(result, ax, **options)
    return ax


def _named(label: str | None, name: str) -> str:
    return name if label is None else f"{label} {name}".strip()


def _flow(flow: GradientFlow, ax: Any, label: str | None = None, **options: Any) -> None:
    steps = np.arange(flow.norms.shape[1])
    colors: dict[str, Any] = {}
    for name, norms in zip(flow.names, flow.norms, strict=True):
        # Both directions of a layer in one colour.
        layer = name.removesuffix("_reverse")
        style = {"lw": 1.6, "ls": "--" if name.endswith("_reverse") else "-"}
        style |= {"color": colors[layer]} if layer in colors else {}
        alone = "" if label is not None and len(flow.names) == 1 else name
        shown = np.where(norms > 0, norms, np.nan)  # a logarithmic axis has no place for 0
        (line,) = ax.plot(steps, shown, **(style | {"label": _named(label, alone)} | options))
        colors[layer] = line.get_color()
    ax.set_yscale("log")
    ax.set(xlabel="step t", ylabel="norm of dL/dh_t", title="Gradient flow")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")


def _spectrum(spectrum: JacobianSpectrum, ax: Any, label: str | None = None, **options: Any) -> None:
    what = "dh_T/dh_t" if spectrum.of == "h" else "d(state)_T/d(state)_t"
    carried = "h" if spectrum.of == "h" else "the state"
    values = np.where(np.isfinite(spectrum.log10), spectrum.log10, np.nan)
    count = values.shape[1]
    largest = {"lw": 2.0, "zorder": 3, "label": _named(label, "largest" if count > 1 else "")}
    (line,) = ax.plot(spectrum.t, values[:, 0], **(largest | options))
    if count > 2:
        median = {"color": line.get_color(), "lw": 1.5, "ls": "--", "zorder": 3, "label": _named(label, "median")}
        ax.plot(spectrum.t, values[:, count // 2], **(median | options))
    ax.plot(spectrum.t, values[:, 1:], **({"color": line.get_color(), "lw": 0.7, "alpha": 0.35} | options))
    ax.axhline(0, color="0.5", lw=0.8, zorder=0)
    ax.yaxis.set_major_formatter(_power_of_ten)
    ax.set(
        xlabel="step t",
        ylabel=f"singular values of {what}",
        title=f"What {carried} at T = {spectrum.t[-1]} knows of {carried} at t",
    )
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")


def _power_of_ten(value: float, _: Any) -> str:
    """The label of log10 = value."""
    return "1" if value == 0 else f"$10^{{{value:g}}}$"


def _saturation(result: Saturation, ax: Any, **options: Any) -> None:
    names = list(result.gates)
    low, high = (np.array([np.mean(getattr(gate, side)) for gate in result.gates.values()]) for side in ("low", "high"))
    start = np.zeros(len(names))
    for part, shade, label in zip((low, 1 - low - high, high), SHADES, ("low", "between", "high"), strict=True):
        ax.barh(names, part, left=start, **({"color": shade, "label": label, "height": 0.75} | options))
        start = start + part
    ax.set_ylim(max(len(names), 3) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), [f"{name} ({gate.activation})" for name, gate in result.gates.items()])
    ax.set(xlim=(0, 1), xlabel="fraction of activations", title="Saturation of gates")
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _check(result: GradientCheck, ax: Any, **options: Any) -> None:
    names = list(result.errors)
    finite = [error for error in result.errors.values() if 0 < error < np.inf]
    least = min([1e-12, *finite]) / 10
    errors = np.clip(list(result.errors.values()), least, 1e3)
    colors = [SHADES[2] if error > result.tolerance else SHADES[0] for error in result.errors.values()]
    ax.barh(names, errors - least, left=least, **({"color": colors, "height": 0.7} | options))
    ax.axvline(result.tolerance, color="0.3", ls="--", lw=1)
    ax.set_ylim(max(len(names), 3) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.set_xlim(least, max(10 * result.tolerance, 2 * errors.max(initial=0)))
    label = f"largest relative error (dashed: tolerance {result.tolerance:g})"
    ax.set(xlabel=label, title="Gradients against differences")


def _history(history: Any, ax: Any, label: str | None = None, **options: Any) -> None:
    epochs = np.arange(1, len(history.loss) + 1)
    (line,) = ax.plot(epochs, history.loss, **({"lw": 1.8, "label": _named(label, "loss")} | options))
    if history.validation:
        style = {"color": line.get_color(), "ls": "--", "lw": 1.8, "label": _named(label, "validation")}
        ax.plot(epochs[-len(history.validation) :], history.validation, **(style | options))
    if getattr(history, "best", None) is not None:
        ax.axvline(epochs[history.best], color=line.get_color(), ls=":", lw=1.2, label=_named(label, "best epoch"))
    positive = [value for value in (*history.loss, *history.validation) if value > 0]
    if len(positive) == len(history.loss) + len(history.validation) and positive:
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="loss", title="Training")
    ax.grid(alpha=0.3)
    handles, labels = ax.get_legend_handles_labels()
    if history.norm:
        right = ax.twinx()
        norm = {"color": "0.6", "lw": 1.0, "label": _named(label, "gradient norm")}
        right.plot(epochs[-len(history.norm) :], history.norm, **(norm | options))
        right.set(ylabel="largest norm of the gradients", yscale="log")
        ax.set_zorder(right.get_zorder() + 1)  # the loss before the norms
        ax.patch.set_visible(False)
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    ax.legend(handles, labels, fontsize="small")


#: How each kind of result is drawn.
DRAWN: dict[type, Any] = {
    GradientFlow: _flow,
    JacobianSpectrum: _spectrum,
    Saturation: _saturation,
    GradientCheck: _check,
}
