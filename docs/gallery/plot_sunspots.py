"""
Sunspots, a year ahead
======================

The yearly mean sunspot numbers from 1700 to 2008. Those from 1959 on are held back, and each is forecast from all years
before it. Beside a recurrent network stand the naive forecast (as last year) and a linear autoregression.
"""

import matplotlib.pyplot as plt
import numpy as np

from nbrnn import demo
from nbrnn.estimators import Forecaster

years, numbers = demo.sunspots()
trial, first = np.searchsorted(years, (1919, 1959))

# %%
# The square root evens out the peaks, whose heights vary more than the troughs'.

roots = np.sqrt(numbers)


def one_year_ahead(model, begin, end):
    """Forecasts of the years begin, ..., end - 1, each from all before it; what is learned ends with begin."""
    model.fit(roots[:begin])
    forecasts = []
    for year in range(begin, end):
        forecasts.append(model.predict()[0])
        model.update(roots[year : year + 1])
    return np.maximum(0, forecasts) ** 2


def rmse(forecast, begin, end):
    return np.sqrt(np.mean((forecast - numbers[begin:end]) ** 2))


# %%
# How long to learn
# -----------------
# ``strategy="recursive"`` learns from every year of the series, as one piece. How many epochs are best is found out on
# the forty years before the ones held back.


def forecaster(epochs):
    return Forecaster(
        strategy="recursive", n_networks=6, hidden_size=32, dropout=0.2, lr=0.005, weight_decay=1e-3,
        epochs=epochs, random_state=0,
    )  # fmt: skip


tried = {
    epochs: rmse(one_year_ahead(forecaster(epochs), trial, first), trial, first) for epochs in (50, 100, 150, 200, 300)
}
epochs = min(tried, key=tried.get)
print("error of 1919-1958 by epochs:", {e: round(float(r), 2) for e, r in tried.items()})

# %%
# The linear autoregression's order is chosen by the same years.


def autoregression(begin, end, order):
    rows = np.stack([roots[order - k - 1 : end - k - 1] for k in range(order)] + [np.ones(end - order)], 1)
    known = begin - order
    weights = np.linalg.lstsq(rows[:known], roots[order:begin])[0]
    return np.maximum(0, rows[known:] @ weights) ** 2


orders = {p: rmse(autoregression(trial, first, p), trial, first) for p in range(1, 21)}
order = min(orders, key=orders.get)

# %%
# The years held back
# -------------------

T = len(years)
model = forecaster(epochs)
forecasts = {
    "as last year": numbers[first - 1 : T - 1],
    f"autoregression of order {order}": autoregression(first, T, order),
    f"{model.n_networks} GRUs, {epochs} epochs": one_year_ahead(model, first, T),
}
print("root mean squared error of 1959-2008")
for name, forecast in forecasts.items():
    print(f"  {name:30s} {rmse(forecast, first, T):6.2f}")

figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
axes.plot(years[first - 40 :], numbers[first - 40 :], "k.-", lw=0.8, ms=4, label="observed")
for (name, forecast), color in zip(forecasts.items(), ("0.75", "tab:orange", "tab:blue"), strict=True):
    axes.plot(years[first:], forecast, color=color, lw=1.5, label=f"{name}: {rmse(forecast, first, T):.1f}")
axes.axvline(years[first] - 0.5, color="0.8", ls="--")
axes.set(xlabel="year", ylabel="sunspot number", title="Forecast one year ahead, with root mean squared errors")
axes.legend(loc="upper left", fontsize="small")
figure.show()

# %%
# Twelve years ahead
# ------------------
# The same networks go on from their own forecasts. A cycle lasts about eleven years, but not exactly, and its height
# can't be told from the one before: forecasts fade to the mean with the years.

figure, axes = plt.subplots(figsize=(10, 3.5), layout="constrained")
axes.plot(years[first - 20 :], numbers[first - 20 :], "k.-", lw=0.8, ms=4, label="observed")
for begin in range(first, T - 11, 12):
    ahead = np.maximum(0, model.predict_from(roots[:begin], horizon=12)) ** 2
    axes.plot(years[begin : begin + 12], ahead, "tab:blue", lw=1.5, label="12 years ahead" if begin == first else None)
axes.set(xlabel="year", ylabel="sunspot number")
axes.legend(fontsize="small")
figure.show()
