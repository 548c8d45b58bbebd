"""
Files: a network that is kept, a run that is interrupted
========================================================

A trained network goes to one file and comes back equal to the bit.  And a training that was interrupted goes on from
its checkpoints as if nothing had happened, to the bit as well.  Both are tried out here on the running mean of noise.
"""

import json
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import safetensors
import safetensors.numpy

import nbrnn

folder = tempfile.TemporaryDirectory()
place = pathlib.Path(folder.name)

# %%
# A network, trained
# ------------------
#
# Dropout and the order of batches are drawn at random, so a run that is interrupted has something to lose.

rng = np.random.default_rng(0)
xs = [rng.standard_normal((length, 1)).astype(np.float32) for length in rng.integers(10, 40, 200)]
targets = [np.cumsum(x, 0) / np.arange(1, 1 + len(x), dtype=np.float32)[:, None] for x in xs]


def train(checkpoint_dir=None, callback=None):
    """A network and the history of its training; the same one each time."""
    net = nbrnn.Sequential(nbrnn.GRU(1, 16, rng=1), nbrnn.Dropout(0.05, rng=2), nbrnn.Linear(16, 1, rng=3))
    history = nbrnn.fit(
        net,
        (xs, targets),
        nbrnn.losses.mse,
        nbrnn.optim.Adam(net, lr=0.01),
        epochs=12,
        batch_size=16,
        progress=False,
        rng=4,
        checkpoint_dir=checkpoint_dir,
        callback=callback,
    )
    return net, history


net, history = train()
print(f"loss {history.loss[0]:.4f} in the first epoch, {history.loss[-1]:.4f} in the last")

# %%
# To a file and back
# ------------------

nbrnn.save(net, place / "mean.safetensors")
again = nbrnn.load(place / "mean.safetensors")

x = np.ones((50, 1), np.float32)
print(again)
print("same parameters:", bool((again.flat == net.flat).all()))
print("same outputs:   ", bool((again(x)[0] == net(x)[0]).all()))

# %%
# The file is one of safetensors, which holds arrays by name and runs nothing when it's read.  Others can read it
# without nbrnn:

arrays = safetensors.numpy.load_file(place / "mean.safetensors")
for name, a in arrays.items():
    print(f"{name:18s} {a.dtype} {a.shape}")

# %%
# What the network is made of stands in its header, as JSON:

with safetensors.safe_open(place / "mean.safetensors", "numpy") as file:
    header = json.loads(file.metadata()["nbrnn"])
for part in header["metadata"]["network"]["arguments"]["parts"]:
    print(json.dumps(part))

# %%
# A run that is interrupted
# -------------------------
#
# A callback that raises stands in for the power cut, in the sixth epoch.


def power_cut(epoch, history):
    """Called after each epoch."""
    if epoch == 5:
        raise KeyboardInterrupt


try:
    train(place / "run", power_cut)
except KeyboardInterrupt:
    print("interrupted; what is left:", sorted(path.name for path in (place / "run").iterdir()))

# %%
# The same call again.  It finds the checkpoints in the folder and goes on from the last of them, with the generators,
# the moments of Adam and the order of batches as they were.

resumed, resumed_history = train(place / "run")
print("same parameters as without the interruption:", bool((resumed.flat == net.flat).all()))
print("same losses:                                ", resumed_history.loss == history.loss)

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
epochs = np.arange(1, 13)
ax.plot(epochs, history.loss, "-", lw=6, color="0.82", label="in one go")
ax.plot(epochs[:5], resumed_history.loss[:5], "o-", label="before the interruption")
ax.plot(epochs[5:], resumed_history.loss[5:], "o-", label="after it")
ax.set(xlabel="epoch", ylabel="loss", yscale="log")
ax.grid(alpha=0.3)
_ = ax.legend()

# %%
# Another network, other data or another learning rate in the same folder are refused:

xs[0] = xs[0] + 1
try:
    train(place / "run")
except ValueError as error:
    print(str(error).replace(str(place), "..."))
folder.cleanup()
