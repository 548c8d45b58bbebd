"""One step of each optimiser, as the formulas have it: functions of (p, g, what is carried, t, settings) in float64."""

import numpy as np


def sgd(p, g, kept, t, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * p
    if momentum:
        kept["b"] = g if t == 1 else momentum * kept["b"] + (1 - dampening) * g
        g = g + momentum * kept["b"] if nesterov else kept["b"]
    return p - lr * g


def rmsprop(p, g, kept, t, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
    g = g + weight_decay * p
    kept["v"] = alpha * kept.get("v", 0) + (1 - alpha) * g**2
    kept["a"] = alpha * kept.get("a", 0) + (1 - alpha) * g
    d = g / (np.sqrt(kept["v"] - centered * kept["a"] ** 2) + eps)
    kept["b"] = momentum * kept.get("b", 0) + d
    return p - lr * kept["b"]


def adam(p, g, kept, t, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    b1, b2 = betas
    kept["m"] = b1 * kept.get("m", 0) + (1 - b1) * g
    kept["v"] = b2 * kept.get("v", 0) + (1 - b2) * g**2
    kept["top"] = np.maximum(kept.get("top", 0), kept["v"])
    v = kept["top"] if amsgrad else kept["v"]
    return p - lr * (kept["m"] / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def adamw(p, g, kept, t, *, weight_decay=1e-2, **settings):
    return adam(p, g, kept, t, weight_decay=weight_decay, decoupled=True, **settings)


STEPS = {"SGD": sgd, "RMSprop": rmsprop, "Adam": adam, "AdamW": adamw}
