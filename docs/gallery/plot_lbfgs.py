"""
Training with SciPy: L-BFGS against Adam
========================================

``net.flat`` is all parameters of a network as one vector, and ``backward`` gives their gradient in the same order.  So
any optimiser for functions of a vector can train it, those of ``scipy.optimize`` first of all.

For a small network and a series of a few hundred numbers, where the whole of the data is a single batch, the loss is
smooth and has no noise.  That is what quasi-Newton methods are made for.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import check_grad, minimize
from threadpoolctl import threadpool_limits

import nbrnn
from nbrnn.demo import sunspots

# %%
# The data
# --------
#
# Sunspot numbers, year by year.  The square root makes peaks and valleys more alike.  From each year and all before it
# the network is to say what the next year brings; the years from 1959 on are kept aside.

years, numbers = sunspots()
roots = np.sqrt(numbers)
first = np.searchsorted(years, 1959)
z = ((roots - roots[:first].mean()) / roots[:first].std())[:, None, None]  # (T, 1, 1), float64
x, target = z[: first - 1], z[1:first]

# %%
# A function of a vector
# ----------------------
#
# ``minimize`` wants a function that takes the parameters and returns a number and its gradient.  SciPy computes in
# float64.  A network with ``dtype="float64"`` does so too, and a line search can go on to the last digits.
#
# A few hundred parameters for 258 numbers are many, and L-BFGS finds the ways to learn them by heart sooner than Adam.
# So the function has a second part, which keeps the parameters small (ridge regression has the same).


def network(seed):
    """A GRU of 8 units."""
    return nbrnn.Sequential(
        nbrnn.GRU(1, 8, dtype="float64", rng=seed), nbrnn.Linear(8, 1, dtype="float64", rng=seed + 100)
    )  # fmt: skip


RIDGE = 3e-3


def loss(net):
    """Mean squared error plus the ridge, and the gradients."""
    y, _, tape = net.forward(x)
    error, dy = nbrnn.losses.mse(y, target)
    grads = net.backward(tape, dy)
    grads.flat[:] += 2 * RIDGE * net.flat
    return error + RIDGE * net.flat @ net.flat, grads


def function(flat, net, trace):
    """The same as SciPy wants it; the trace keeps all values."""
    net.flat = flat
    value, grads = loss(net)
    trace.append(value)
    return value, grads.flat


print(network(0))

# %%
# Is the gradient right?  SciPy has a check, which compares it with differences:

net = network(0)
error = check_grad(lambda f: function(f, net, [])[0], lambda f: function(f, net, [])[1], net.flat.copy())
print(f"norm of the gradient {np.linalg.norm(loss(net)[1].flat):.3f}, of its difference from differences {error:.1e}")

# %%
# Both, from the same beginnings
# ------------------------------
#
# Each may evaluate the function 400 times, from five beginnings.  A step of Adam takes one evaluation; L-BFGS, with its
# line search, sometimes more than one.  Adam needs a learning rate, so it gets three to choose from; L-BFGS needs none.

BUDGET, SEEDS, RATES = 400, range(5), (0.003, 0.01, 0.03)


def by_lbfgs(net, trace, budget=BUDGET):
    """SciPy's L-BFGS-B, never content before the budget is spent."""
    options = {"maxfun": budget, "maxiter": budget, "ftol": 0, "gtol": 0}
    with threadpool_limits(1, "blas"):  # for SciPy's own vectors of 273 numbers, threads cost more than they bring
        result = minimize(function, net.flat.copy(), (net, trace), jac=True, method="L-BFGS-B", options=options)
    net.flat = result.x  # the last call need not have been the best


def by_adam(net, trace, lr):
    """Adam."""
    optimizer = nbrnn.optim.Adam(net, lr=lr)
    for _ in range(BUDGET):
        value, grads = loss(net)
        trace.append(value)
        optimizer.step(grads)


def forecast_error(net):
    """RMSE for the held-back years, in sunspots."""
    y, _ = net(z[:-1])
    forecast = (y[first - 1 :, 0, 0] * roots[:first].std() + roots[:first].mean()).clip(0) ** 2
    return np.sqrt(np.mean((forecast - numbers[first:]) ** 2))


methods = {"L-BFGS": by_lbfgs} | {
    f"Adam, lr={lr}": lambda net, trace, lr=lr: by_adam(net, trace, lr) for lr in RATES
}  # fmt: skip
traces = {}
print("                 loss after 400 evaluations, five beginnings   forecast RMSE")
for name, train in methods.items():
    nets = [network(seed) for seed in SEEDS]
    traces[name] = [[] for _ in nets]
    for net, trace in zip(nets, traces[name], strict=True):
        train(net, trace)
    ends = "  ".join(f"{min(trace):.4f}" for trace in traces[name])
    print(f"{name:15s}  {ends}         {np.mean([forecast_error(net) for net in nets]):.1f}")

# %%
# To see how near they come, we let L-BFGS run on for 2,000 evaluations from the best of its ends.  What is drawn is how
# far the best value so far lies above that.

net = network(int(np.argmin([min(trace) for trace in traces["L-BFGS"]])))
longer = []
by_lbfgs(net, longer, 2000)
lowest = min(longer)
print(f"lowest value known: {lowest:.6f}, norm of the gradient there {np.linalg.norm(loss(net)[1].flat):.1e}")

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (name, several), colour in zip(traces.items(), ("tab:red", "#a6c8e4", "#5b9bd0", "#1f5f9f"), strict=True):
    for k, trace in enumerate(several):
        best = np.minimum.accumulate(trace) - lowest
        ax.plot(range(1, 1 + len(best)), best, color=colour, lw=1.2, label=None if k else name)
ax.set(xlabel="evaluations of loss and gradient", ylabel="loss above the lowest known", yscale="log")
ax.set(xlim=(0, BUDGET), ylim=(1e-6, 1))
ax.grid(alpha=0.3)
_ = ax.legend()

# %%
# L-BFGS goes further, without a setting to choose.  Where a line of it turns level it has come to another stationary
# point than the lowest one known.  The forecasts of the years held back are about as good by either: what is left of
# the loss there is noise, and being the better optimiser doesn't make the better model.  Where the data must be gone
# through in batches, the function is another one at each call, and Adam is the better choice.
