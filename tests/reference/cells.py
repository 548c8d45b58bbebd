"""One step of each cell for one sequence, forward and back.

``forward(weights, x, h, c) -> h, c, trace`` and ``backward(weights, trace, dh, dc) -> dx, dh, dc, gradients``, where
weights has w_ih, w_hh, b_ih, b_hh and, with a projection, w_hr.
"""

import numpy as np
from scipy.special import expit


def _linear(weights, dih, dhh, x, h):
    """What follows from the gradients of W_ih x + b_ih and W_hh h + b_hh."""
    gradients = {"w_ih": np.outer(dih, x), "w_hh": np.outer(dhh, h), "b_ih": dih, "b_hh": dhh}
    return weights["w_ih"].T @ dih, weights["w_hh"].T @ dhh, gradients


class RNN:
    """h' = act(W_ih x + b_ih + W_hh h + b_hh)."""

    def __init__(self, nonlinearity):
        self.nonlinearity = nonlinearity

    def forward(self, w, x, h, c):
        a = w["w_ih"] @ x + w["b_ih"] + w["w_hh"] @ h + w["b_hh"]
        after = np.tanh(a) if self.nonlinearity == "tanh" else np.maximum(a, 0)
        return after, c, (x, h, a)

    def backward(self, w, trace, dh, dc):
        x, h, a = trace
        da = dh / np.cosh(a) ** 2 if self.nonlinearity == "tanh" else dh * (a > 0)
        dx, dh, gradients = _linear(w, da, da, x, h)
        return dx, dh, dc, gradients


class GRU:
    """r, z, n; the reset gate acts on U_n h + b_hn."""

    def forward(self, w, x, h, c):
        xr, xz, xn = np.split(w["w_ih"] @ x + w["b_ih"], 3)
        hr, hz, hn = np.split(w["w_hh"] @ h + w["b_hh"], 3)
        r, z = expit(xr + hr), expit(xz + hz)
        n = np.tanh(xn + r * hn)
        return (1 - z) * n + z * h, c, (x, h, r, z, n, hn)

    def backward(self, w, trace, dh, dc):
        x, h, r, z, n, hn = trace
        da_n = dh * (1 - z) * (1 - n**2)
        da_z = dh * (h - n) * z * (1 - z)
        da_r = da_n * hn * r * (1 - r)
        dx, dh_before, gradients = _linear(
            w, np.concatenate([da_r, da_z, da_n]), np.concatenate([da_r, da_z, da_n * r]), x, h
        )
        return dx, dh_before + dh * z, dc, gradients


class LSTM:
    """i, f, g, o; with w_hr, h is projected."""

    def forward(self, w, x, h, c):
        i, f, g, o = np.split(w["w_ih"] @ x + w["b_ih"] + w["w_hh"] @ h + w["b_hh"], 4)
        i, f, g, o = expit(i), expit(f), np.tanh(g), expit(o)
        c_after = f * c + i * g
        m = o * np.tanh(c_after)
        after = w["w_hr"] @ m if "w_hr" in w else m
        return after, c_after, (x, h, c, i, f, g, o, c_after, m)

    def backward(self, w, trace, dh, dc):
        x, h, c, i, f, g, o, c_after, m = trace
        dm = w["w_hr"].T @ dh if "w_hr" in w else dh
        dc = dc + dm * o * (1 - np.tanh(c_after) ** 2)
        sums = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dm * np.tanh(c_after) * o * (1 - o)]
        )
        dx, dh_before, gradients = _linear(w, sums, sums, x, h)
        if "w_hr" in w:
            gradients["w_hr"] = np.outer(dh, m)
        return dx, dh_before, dc * f, gradients


class MGU:
    """The minimal gated unit with the forget gate after the product: f, n (for the test of a cell of one's own)."""

    def forward(self, w, x, h, c):
        xf, xn = np.split(w["w_ih"] @ x + w["b_ih"], 2)
        hf, hn = np.split(w["w_hh"] @ h + w["b_hh"], 2)
        f = expit(xf + hf)
        n = np.tanh(xn + f * hn)
        return (1 - f) * h + f * n, c, (x, h, f, n, hn)

    def backward(self, w, trace, dh, dc):
        x, h, f, n, hn = trace
        da_n = dh * f * (1 - n**2)
        da_f = (dh * (n - h) + da_n * hn) * f * (1 - f)
        dx, dh_before, gradients = _linear(w, np.concatenate([da_f, da_n]), np.concatenate([da_f, da_n * f]), x, h)
        return dx, dh_before + dh * (1 - f), dc, gradients
