"""
Vanishing gradients in pictures
===============================

A network is to remember one number over many steps.  What training can learn about the first step has to come back from
the last one through every step between.  Here is what arrives, for a plain recurrent network, a GRU and an LSTM; why;
and what gates and clipping do about it.
"""

# %%
# A task of memory
# ----------------
# The first input of each sequence is the one to remember; all others are noise. The loss looks at the last output
# only.

import matplotlib.pyplot as plt
import numpy as np

import nbrnn
from nbrnn.diagnostics import gradient_flow, jacobian_spectrum, plot, saturation

T, B, H = 60, 32, 32
rng = np.random.default_rng(0)


def batch():
    """x (T, B, 2): noise, and a mark at the step that counts; the target, at every step, of which the last counts."""
    x = rng.uniform(-1, 1, (T, B, 2)).astype(np.float32)
    x[:, :, 1] = 0
    x[0, :, 1] = 1
    return x, x[0, :, :1]


def last(y, target):
    """Squared error of the last output."""
    loss, end = nbrnn.losses.mse(y[-1], target)
    dy = np.zeros_like(y)
    dy[-1] = end
    return loss, dy


def network(kind, **options):
    return nbrnn.Sequential(kind(2, H, rng=1, **options), nbrnn.Linear(H, 1, rng=2))


def with_bias(net, **gates):
    """The same with something added to the biases of some gates."""
    layer = net[0]
    bias = layer.params["bias_ih_l0"].copy().reshape(-1, H)
    for gate, value in gates.items():
        bias[layer.cell.gates.index(gate)] += value
    layer.params["bias_ih_l0"] = bias.ravel()
    return net


networks = {
    "RNN": network(nbrnn.RNN),
    "GRU": network(nbrnn.GRU),
    "LSTM": network(nbrnn.LSTM),
    "GRU, z open": with_bias(network(nbrnn.GRU), z=4),
    "LSTM, f open, i shut": with_bias(network(nbrnn.LSTM), f=4, i=-3),
}

# %%
# What comes back
# ---------------
# ``gradient_flow`` is the norm of :math:`\partial L/\partial h_t`. In a plain network each step back loses nearly
# half of it, and what is left at step 0 is far below the last digit of what it is added to. Gates alone don't help: a
# GRU or an LSTM whose gates are half open, as the usual initial values leave them, loses as much. Open gates keep it:
# z of the GRU, h' = (1 - z) n + z h, and f of the LSTM, c' = f c + i g.

x, target = batch()
fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, net in networks.items():
    flow = gradient_flow(net, x, target, last)
    plot(flow, ax, label=name)
    print(name, flow, sep="\n")
ax.set_title("Gradient at each step of a loss on the last")

# %%
# Why
# ---
# One step multiplies by its Jacobian, the way to the end by the product of all. Its singular values say what becomes
# of a difference in each direction. Scaled orthogonal weights show the three cases: below 1 all is forgotten, at 1 it
# depends on tanh, above 1 the largest grow (the state itself is held by tanh, a gradient isn't).

fig, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
rotation = np.linalg.qr(rng.normal(size=(H, H)))[0]
for ax, scale in zip(axes, (0.5, 1.0, 1.5), strict=True):
    rnn = nbrnn.RNN(2, H, rng=1)
    rnn.params["weight_hh_l0"] = scale * rotation
    spectrum = jacobian_spectrum(rnn, 0.3 * x[:, 0])
    plot(spectrum, ax)
    ax.set_title(f"{scale:g} times a rotation: rate {spectrum.rates[0]:+.2f}")
    ax.label_outer()

# %%
# The LSTM has a second way: :math:`c_t = f_t c_{t-1} + i_t g_t`, multiplied by the forget gate alone. From (h, c) to
# (h, c), half of all directions go by c; with the gate open they stay near 1, while those of h vanish.

fig, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, name in zip(axes, ("LSTM", "LSTM, f open, i shut"), strict=True):
    plot(jacobian_spectrum(networks[name][0], x[:, 0], of="state"), ax)
    ax.set_title(name)
    ax.label_outer()

# %%
# Learning it
# -----------
# What the gradients say is what happens: where nothing comes back from step 0 the network never learns which number
# to keep, and its error stays at the variance of the target, 1/3.


def train(net, steps=300):
    """The loss at each step."""
    opt, losses = nbrnn.optim.Adam(net, lr=0.01), []
    for _ in range(steps):
        x, target = batch()
        y, _, tape = net.forward(x)
        loss, dy = last(y, target)
        grads = net.backward(tape, dy)
        nbrnn.clip_grad_norm(grads, 1.0)
        opt.step(grads)
        losses.append(loss)
    return losses


fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for name, net in networks.items():
    losses = train(net)
    ax.semilogy(losses, label=name)
    print(f"{name}: {np.mean(losses[-20:]):.4f}")
ax.axhline(1 / 3, color="0.5", ls="--", lw=1)
ax.set(xlabel="step of training", ylabel="squared error", title=f"Remembering one number over {T} steps")
ax.legend()

# %%
# After training the forget gates are still open, at nearly every step and in nearly every unit: that is the memory.

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
result = saturation(networks["LSTM, f open, i shut"], x)
plot(result, ax)
print(result)

# %%
# What clipping does
# ------------------
# Exploding gradients are rare and large: a step along one throws the weights far away. Clipping keeps its direction
# and bounds its length. Plain gradient descent on a network of large weights, with and without:

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
wave = np.random.default_rng(0).normal(size=(100, 8, 2)).astype(np.float32)
for clip_norm, color in ((np.inf, "tab:red"), (0.3, "tab:blue")):
    net = network(nbrnn.RNN)
    net[0].params["weight_hh_l0"] = 2 * net[0].params["weight_hh_l0"]
    opt, losses, norms = nbrnn.optim.SGD(net, lr=0.5), [], []
    while len(losses) < 300 and not losses[-1:] > [1e6]:
        y, _, tape = net.forward(wave)
        loss, dy = nbrnn.losses.mse(y[3:], wave[:-3, :, :1])  # the input of three steps before
        grads = net.backward(tape, np.concatenate([np.zeros_like(y[:3]), dy]))
        losses.append(loss)
        norms.append(nbrnn.clip_grad_norm(grads, clip_norm))
        opt.step(grads)
    label = "no clipping" if clip_norm == np.inf else f"clipped at {clip_norm:g}"
    left.semilogy(losses, color=color, label=label)
    right.semilogy(norms, color=color, label=label)
left.set(xlabel="step of training", ylabel="loss", ylim=(1e-2, 1e4))
right.set(xlabel="step of training", ylabel="norm of the gradient, before clipping", ylim=(1e-2, 1e6))
left.legend()
plt.show()
