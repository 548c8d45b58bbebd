"""``nbrnn demo``: forecast the yearly sunspot numbers one year ahead.

The years from 1959 on are held back.  A GRU's training is stopped where it forecasts 1919-1958 best from the years
before; then a few are trained anew on all years before 1959, and their forecasts averaged.  Beside it stand the naive
forecast (next year will be as this one) and a linear autoregression, fitted by SciPy to the same numbers, whose order
is chosen in the same way.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import importlib.util
import pathlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import losses
from ._progress import Progress
from .layers import GRU
from .networks import Sequential
from .optim import Adam, clip_grad_norm
from .pointwise import Dropout, Linear

Array = NDArray[Any]

VALIDATION, TEST = 1919, 1959
NETWORKS, LONGEST, EVERY = 6, 300, 10


def sunspots() -> tuple[Array, Array]:
    """Years and yearly mean sunspot numbers, 1700-2008."""
    text = importlib.resources.files(__package__).joinpath("data/sunspots.csv").read_text()
    years, numbers = np.array([line.split(",") for line in text.splitlines()[1:]], float).T
    return years.astype(int), numbers


@dataclasses.dataclass
class Scale:
    """The square root evens out the peaks; then mean 0 and deviation 1, of the first ``known`` numbers."""

    numbers: Array
    known: int

    def __post_init__(self) -> None:
        roots = np.sqrt(self.numbers)
        self.mean, self.deviation = roots[: self.known].mean(), roots[: self.known].std()
        self.scaled = (roots - self.mean) / self.deviation

    def back(self, z: Array) -> Array:
        """Numbers from scaled ones."""
        numbers: Array = np.maximum(0.0, z * self.deviation + self.mean) ** 2
        return numbers


def rmse(forecast: Array, truth: Array) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((forecast - truth) ** 2)))


def autoregression(scale: Scale, order: int) -> Array:
    """Forecasts of all numbers from index ``order`` on, by least squares on the known ones."""
    import scipy.linalg

    z = scale.scaled
    lags = np.stack([z[order - k - 1 : len(z) - k - 1] for k in range(order)] + [np.ones(len(z) - order)], 1)
    fitted = scale.known - order
    weights = scipy.linalg.lstsq(lags[:fitted], z[order : scale.known])[0]
    return scale.back(lags @ weights)


def network_forecasts(scale: Scale, seed: int, epochs: int, bar: Progress) -> list[Array]:
    """Forecasts of all numbers from index 1 on, after every so many epochs of training on the known ones."""
    z = scale.scaled.astype(np.float32)
    x, target, known = z[:-1, None, None], z[1:, None, None], scale.known - 1
    net = Sequential(GRU(1, 32, rng=seed), Dropout(0.2, rng=seed), Linear(32, 1, rng=seed + 1000))
    optimizer = Adam(net, lr=0.005, weight_decay=1e-3)
    forecasts = []
    for epoch in range(1, epochs + 1):
        y, _, tape = net.forward(x[:known])
        loss, dy = losses.mse(y, target[:known])
        grads = net.backward(tape, dy)
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        if epoch % EVERY == 0:
            forecasts.append(scale.back(net(x)[0][:, 0, 0]))
            bar.step(f"loss {loss:.3f}")
    return forecasts


def run(picture: pathlib.Path, progress: bool = True, longest: int = LONGEST) -> dict[str, float]:
    """Train, forecast, print; the errors by name.

    Parameters
    ----------
    picture : Path
        Where the picture is saved; its suffix becomes ``.txt`` where matplotlib isn't installed.
    progress : bool
        Whether a progress bar is shown.
    longest : int
        Epochs tried at most, a multiple of 10.
    """
    begun = time.perf_counter()
    years, numbers = sunspots()
    early, first = (int(np.searchsorted(years, year)) for year in (VALIDATION, TEST))
    truth = numbers[first:]
    print(f"sunspots {years[0]}-{years[-1]}: {first} years to learn from, {len(truth)} held back ({TEST}-{years[-1]})")

    trial, final = Scale(numbers, early), Scale(numbers, first)
    with Progress(NETWORKS * longest // EVERY, "when to stop", progress) as bar:
        stops = [network_forecasts(trial, seed, longest, bar) for seed in range(NETWORKS)]
        errors = [
            np.mean([rmse(f[early - 1 : first - 1], numbers[early:first]) for f in at])
            for at in zip(*stops, strict=True)
        ]
    epochs = EVERY * (1 + int(np.argmin(errors)))
    with Progress(NETWORKS * epochs // EVERY, "training", progress) as bar:
        forecasts = [network_forecasts(final, seed, epochs, bar)[-1][first - 1 :] for seed in range(NETWORKS)]
    trial_error = {p: rmse(autoregression(trial, p)[early - p : first - p], numbers[early:first]) for p in range(1, 21)}
    order = min(trial_error, key=lambda p: trial_error[p])

    candidates = {
        "naive: as last year": numbers[first - 1 : -1],
        f"autoregression of order {order}": autoregression(final, order)[first - order :],
        f"GRU(1, 32), {epochs} epochs": np.mean(forecasts, 0),
    }
    print("\nerror of the forecasts one year ahead      RMSE    mean absolute")
    for name, forecast in candidates.items():
        print(f"  {name:38s} {rmse(forecast, truth):6.2f} {np.abs(forecast - truth).mean():12.2f}")
    single = [rmse(f, truth) for f in forecasts]
    print(f"  (the GRU's is the mean of {NETWORKS} trained apart; one alone: {min(single):.2f} to {max(single):.2f})")

    saved = draw(picture, years, numbers, first, candidates)
    print(f"\npicture: {saved}\ntime: {time.perf_counter() - begun:.1f} s")
    return {name: rmse(forecast, truth) for name, forecast in candidates.items()}


def draw(picture: pathlib.Path, years: Array, numbers: Array, first: int, candidates: dict[str, Array]) -> pathlib.Path:
    """Save a picture of the held-back years; where it is."""
    network = list(candidates.values())[-1]
    if importlib.util.find_spec("matplotlib") is None:
        text = text_plot(years[first:], numbers[first:], network)
        picture = picture.with_suffix(".txt")
        picture.write_text(text)
        print("\n" + text)
        return picture
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(years[first - 60 :], numbers[first - 60 :], "k.-", lw=0.8, ms=4, label="observed")
    for (name, forecast), color in zip(candidates.items(), ("0.75", "tab:orange", "tab:blue"), strict=True):
        axes.plot(years[first:], forecast, color=color, lw=1.5, label=name)
    axes.axvline(years[first] - 0.5, color="0.8", ls="--")
    axes.set(xlabel="year", ylabel="sunspot number", title="Sunspots, forecast one year ahead")
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(picture, dpi=120)
    return picture


def text_plot(years: Array, truth: Array, forecast: Array) -> str:
    """Observed (o) and forecast (x) numbers as text, a column for each year, both at one place as #."""
    height = 16
    top = max(truth.max(), forecast.max())
    grid = [[" "] * len(years) for _ in range(height)]
    for mark, values in (("x", forecast), ("o", truth)):
        for column, value in enumerate(values):
            row = height - 1 - round(value / top * (height - 1))
            grid[row][column] = "#" if grid[row][column] == "x" else mark
    lines = [f"{top * (height - 1 - q) / (height - 1):5.0f} |{''.join(row)}" for q, row in enumerate(grid)]
    axis = "".join(f"{year:<10d}" for year in years[::10])
    return (
        "\n".join([*lines, "      +" + "-" * len(years), "       " + axis, "       o observed, x forecast, # both"])
        + "\n"
    )
