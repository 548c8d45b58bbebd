"""A network learns what plain averages can't: the sum of two marked numbers, however far apart they stand."""

import numpy as np

import nbrnn


def sums(T, B, rng):
    """Numbers U(0, 1) with marks at two of them, one in each half (T, B, 2); the sum of those two (B, 1)."""
    x = np.zeros((T, B, 2), np.float32)
    x[:, :, 0] = rng.uniform(0, 1, (T, B))
    first, second, b = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B), np.arange(B)
    x[first, b, 1] = x[second, b, 1] = 1
    return x, x[first, b, :1] + x[second, b, :1]


def test_gru_learns_to_add_over_fifty_steps():
    T, H, rng = 50, 32, np.random.default_rng(0)
    layer = nbrnn.GRU(2, H, rng=1)
    bias = np.zeros((3, H))
    bias[1] = np.log(rng.uniform(1, T - 1, H))  # z: units keep what they have for 1 to T - 1 steps
    layer.params["bias_ih_l0"] = bias.ravel()
    net = nbrnn.Sequential(layer, nbrnn.Pool("last"), nbrnn.Linear(H, 1, rng=2))
    test, wanted = sums(T, 1000, np.random.default_rng(3))

    def error():
        return nbrnn.losses.mse(net(test)[0], wanted)[0]

    constant = float(np.mean((wanted - 1) ** 2))
    assert abs(constant - 1 / 6) < 0.02
    assert error() > constant
    opt = nbrnn.optim.Adam(net, lr=0.01)
    for _ in range(500):
        x, target = sums(T, 32, rng)
        y, _, tape = net.forward(x)
        grads = net.backward(tape, nbrnn.losses.mse(y, target)[1])
        nbrnn.clip_grad_norm(grads, 1.0)
        opt.step(grads)
    assert error() < 0.01
