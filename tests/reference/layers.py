"""Whole layers: stacks, directions, lengths, resets, dropout; one sequence after another."""

import numpy as np

from .philox import kept


class Layer:
    """A recurrent layer with torch's parameters.

    Parameters
    ----------
    cell : one of ``cells``
    params : mapping
        torch's names; biases may be missing.
    layers, directions : int
    dropout, recurrent_dropout : float
    """

    def __init__(self, cell, params, layers, directions, dropout=0.0, recurrent_dropout=0.0):
        self.cell, self.layers, self.directions = cell, layers, directions
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.weights = []
        self.names = []
        for layer in range(layers):
            for suffix in ("", "_reverse")[:directions]:
                name = f"_l{layer}{suffix}"
                w = {"w_ih": params["weight_ih" + name], "w_hh": params["weight_hh" + name]}
                rows = len(w["w_ih"])
                w["b_ih"] = params.get("bias_ih" + name, np.zeros(rows))
                w["b_hh"] = params.get("bias_hh" + name, np.zeros(rows))
                if "weight_hr" + name in params:
                    w["w_hr"] = params["weight_hr" + name]
                self.weights.append({k: np.asarray(v, np.float64) for k, v in w.items()})
                self.names.append(name)

    def _keep(self, key, layer, direction, t, b, units):
        """What dropout multiplies by."""
        if self.dropout == 0 or layer == self.layers - 1 or key is None:
            return np.ones(units)
        return _mask(key, 0, layer, direction, t, b, units, self.dropout)

    def _fed(self, key, unit, b, units):
        """What h is multiplied by where it enters W_hh, at all times."""
        if self.recurrent_dropout == 0 or key is None:
            return np.ones(units)
        return _mask(key, 2, *divmod(unit, self.directions), 0, b, units, self.recurrent_dropout)

    def forward(self, x, h, c, lengths=None, resets=None, key=None):
        """x (T, B, I), h (L*D, B, K), c (L*D, B, H) -> y, h, c, trace."""
        T, B, _ = x.shape
        K = h.shape[2]
        h, c = h.astype(np.float64), c.astype(np.float64)
        y = np.zeros((T, B, self.directions * K))
        traces = {}
        for b in range(B):
            length = T if lengths is None else lengths[b]
            given = [np.asarray(x[t, b], np.float64) for t in range(length)]
            for layer in range(self.layers):
                gave = [np.zeros(self.directions * K) for _ in range(length)]
                for d in range(self.directions):
                    unit = layer * self.directions + d
                    state_h, state_c = h[unit, b].copy(), c[unit, b].copy()
                    weights = _masked(self.weights[unit], self._fed(key, unit, b, K))
                    for t in range(length) if d == 0 else reversed(range(length)):
                        if _cut(resets, t, b, d, length):
                            state_h, state_c = np.zeros_like(state_h), np.zeros_like(state_c)
                        state_h, state_c, trace = self.cell.forward(weights, given[t], state_h, state_c)
                        traces[unit, b, t] = trace
                        gave[t][d * K : (d + 1) * K] = state_h
                    h[unit, b], c[unit, b] = state_h, state_c
                for t in range(length):
                    for d in range(self.directions):
                        part = slice(d * K, (d + 1) * K)
                        keep = self._keep(key, layer, d, t, b, K)
                        gave[t][part] = gave[t][part] * keep
                given = gave
            for t in range(length):
                y[t, b] = given[t]
        return y, h, c, (x.shape, lengths, resets, key, traces)

    def backward(self, trace, dy, dh, dc):
        """(dx, dh, dc, gradients by torch's names) from gradients for y and the final states."""
        (T, B, I), lengths, resets, key, traces = trace
        K = dh.shape[2]
        dh, dc = dh.astype(np.float64), dc.astype(np.float64)
        dx = np.zeros((T, B, I))
        totals = [{k: np.zeros_like(v) for k, v in w.items()} for w in self.weights]
        for b in range(B):
            length = T if lengths is None else lengths[b]
            dgave = [np.asarray(dy[t, b], np.float64) for t in range(length)]
            for layer in reversed(range(self.layers)):
                dgiven = [0.0] * length
                for d in range(self.directions):
                    unit = layer * self.directions + d
                    part = slice(d * K, (d + 1) * K)
                    state_h, state_c = dh[unit, b], dc[unit, b]
                    fed = self._fed(key, unit, b, K)
                    weights = _masked(self.weights[unit], fed)
                    for t in reversed(range(length)) if d == 0 else range(length):
                        state_h = state_h + dgave[t][part] * self._keep(key, layer, d, t, b, K)
                        dinput, state_h, state_c, gradients = self.cell.backward(
                            weights, traces[unit, b, t], state_h, state_c
                        )
                        gradients["w_hh"] = gradients["w_hh"] * fed
                        dgiven[t] = dgiven[t] + dinput
                        for name, value in gradients.items():
                            totals[unit][name] += value
                        if _cut(resets, t, b, d, length):
                            state_h, state_c = np.zeros_like(state_h), np.zeros_like(state_c)
                    dh[unit, b], dc[unit, b] = state_h, state_c
                dgave = dgiven
            for t in range(length):
                dx[t, b] = dgave[t]
        names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh", "w_hr": "weight_hr"}
        named = {names[k] + name: v for name, t in zip(self.names, totals, strict=True) for k, v in t.items()}
        return dx, dh, dc, named


def _mask(key, kind, layer, direction, t, b, units, p):
    """Zeros where a number is dropped, else 1 / (1 - p)."""
    drawn = [kept(key, kind, layer, direction, t, b, u, p) for u in range(units)]
    return np.array(drawn) / (1 - p) if p < 1 else np.zeros(units)


def _masked(weights, fed):
    """The weights for which W_hh h is W_hh (fed * h): columns multiplied."""
    return weights | {"w_hh": weights["w_hh"] * fed}


def _cut(resets, t, b, direction, length):
    """Whether a direction starts step t of sequence b from zero state."""
    if resets is None:
        return False
    if direction == 0:
        return bool(resets[t, b])
    return t + 1 < length and bool(resets[t + 1, b])
