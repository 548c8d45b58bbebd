"""Learning on real data, beside torch: the same network, data, batches and updates in both.

::

    python tools/learning.py vowels      # accuracy on held-back utterances, seeds 0-4, settings by cross-validation
    python tools/learning.py text        # bits per character of a held-back text after 400 updates, seeds 0-7
    python tools/learning.py text --same # the same from the same initial values: what differs is rounding alone
    python tools/learning.py epochs      # seconds of an epoch of either, the whole loop, in turn

torch (``pip install torch``) runs with its best number of threads, found in a trial before; it draws its own initial
values and batches, from the same distributions, unless told otherwise.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import os
import pathlib
import statistics
import time

import numpy as np
import torch

import nbrnn

DATA = pathlib.Path(__file__).parents[1] / "docs" / "data"
SEEDS = range(5)


def utterances(part):
    """(sequences (T_i, 12), labels 0..8) of "train" or "test", scaled by the mean and deviation of the first."""
    z = np.load(DATA / "japanese_vowels.npz")
    mean, deviation = z["train_values"].mean(0), z["train_values"].std(0)
    values = (z[f"{part}_values"] - mean) / deviation
    ends = np.cumsum(z[f"{part}_lengths"].astype(int))
    return np.split(values, ends[:-1]), z[f"{part}_label"].astype(np.int64) - 1


def characters():
    """(training text, held-back text) as integers, and how many symbols there are."""
    text = gzip.decompress((DATA / "kjv.txt.gz").read_bytes()).decode()
    alphabet = sorted(set(text))
    numbers = np.searchsorted(alphabet, list(text))
    cut = len(text) * 9 // 10
    return numbers[:cut], numbers[cut:], len(alphabet)


def columns(numbers, size):
    """A text as so many columns side by side, and what follows each symbol: both (T, size)."""
    steps = (len(numbers) - 1) // size
    return tuple(np.ascontiguousarray(numbers[k : k + steps * size].reshape(size, steps).T) for k in (0, 1))


# Utterances: a bidirectional LSTM, the mean over time, a linear layer.


class Vowels:
    """One network of either library, told its settings."""

    def __init__(self, seed, hidden=32, lr=1e-2, dropout=0.3, batch=32):
        self.seed, self.hidden, self.lr, self.dropout, self.batch = seed, hidden, lr, dropout, batch


class OurVowels(Vowels):
    def __init__(self, *settings, **more):
        super().__init__(*settings, **more)
        self.net = nbrnn.Sequential(
            nbrnn.LSTM(12, self.hidden, bidirectional=True, rng=self.seed),
            nbrnn.Pool("mean"),
            nbrnn.Dropout(self.dropout, rng=self.seed + 1000),
            nbrnn.Linear(2 * self.hidden, 9, rng=self.seed + 2000),
        )
        self.opt = nbrnn.optim.Adam(self.net, lr=self.lr)
        self.rng = np.random.default_rng(self.seed)

    def train(self, xs, labels, epochs):
        loss = nbrnn.losses.cross_entropy
        nbrnn.fit(
            self.net, (xs, labels), loss, self.opt, epochs,
            batch_size=self.batch, clip_norm=1.0, progress=False, rng=self.rng,
        )  # fmt: skip

    def accuracy(self, xs, labels):
        lengths = np.array([len(x) for x in xs])
        padded = np.zeros((lengths.max(), len(xs), 12), np.float32)
        for b, x in enumerate(xs):
            padded[: len(x), b] = x
        y, _ = self.net(padded, lengths=lengths)
        return float((y.argmax(-1) == labels).mean())


class TorchVowels(Vowels):
    def __init__(self, *settings, **more):
        super().__init__(*settings, **more)
        torch.manual_seed(self.seed)
        self.lstm = torch.nn.LSTM(12, self.hidden, bidirectional=True)
        self.drop, self.out = torch.nn.Dropout(self.dropout), torch.nn.Linear(2 * self.hidden, 9)
        self.parts = torch.nn.ModuleList([self.lstm, self.drop, self.out])
        self.opt = torch.optim.Adam(self.parts.parameters(), lr=self.lr)
        self.rng = np.random.default_rng(self.seed)

    def logits(self, xs):
        lengths = torch.tensor([len(x) for x in xs])
        packed = torch.nn.utils.rnn.pack_sequence(xs, enforce_sorted=False)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])
        return self.out(self.drop(y.sum(0) / lengths[:, None]))

    def train(self, xs, labels, epochs):
        self.parts.train()
        xs, labels = [torch.from_numpy(x) for x in xs], torch.from_numpy(labels)
        for _ in range(epochs):
            # Utterances of like length together, as nbrnn.fit does: the least padding.
            order = self.rng.permutation(len(xs))
            pool = 8 * self.batch
            batches = []
            for first in range(0, len(order), pool):
                part = sorted(order[first : first + pool], key=lambda q: len(xs[q]))
                batches += [part[k : k + self.batch] for k in range(0, len(part), self.batch)]
            for q in self.rng.permutation(len(batches)):
                chosen = batches[q]
                loss = torch.nn.functional.cross_entropy(self.logits([xs[b] for b in chosen]), labels[chosen])
                self.opt.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
                self.opt.step()

    def accuracy(self, xs, labels):
        self.parts.eval()
        with torch.inference_mode():
            found = self.logits([torch.from_numpy(x) for x in xs]).argmax(-1).numpy()
        return float((found == labels).mean())


def cross_validation(settings, xs, labels, epochs, folds=5):
    """Mean accuracy over folds of the training part."""
    place = np.random.default_rng(0).permutation(len(xs)) % folds
    scores = []
    for fold in range(folds):
        known, held = np.flatnonzero(place != fold), np.flatnonzero(place == fold)
        model = OurVowels(fold, **settings)
        model.train([xs[q] for q in known], labels[known], epochs)
        scores.append(model.accuracy([xs[q] for q in held], labels[held]))
    return float(np.mean(scores))


def vowels():
    """Settings by cross-validation on the training part; then both libraries on the test part."""
    xs, labels = utterances("train")
    grid = [
        (dict(hidden=hidden, lr=lr, dropout=dropout), epochs)
        for hidden, lr, dropout, epochs in itertools.product((32, 64), (3e-3, 1e-2), (0.0, 0.4), (20, 40))
    ]
    scored = [(cross_validation(settings, xs, labels, epochs), settings, epochs) for settings, epochs in grid]
    for score, settings, epochs in scored:
        print(f"  {settings}, {epochs} epochs: {100 * score:.1f} %")
    _, settings, epochs = max(scored, key=lambda s: s[0])
    print(f"chosen: {settings}, {epochs} epochs")
    test, wanted = utterances("test")
    results = {OurVowels: [], TorchVowels: []}
    use_threads(best_threads(lambda: TorchVowels(0, **settings).train(xs, labels, 3)))
    for seed in SEEDS:
        for kind in results:
            model, begun = kind(seed, **settings), time.perf_counter()
            model.train(xs, labels, epochs)
            seconds = time.perf_counter() - begun
            results[kind].append((100 * model.accuracy(test, wanted), seconds))
    for kind, name in ((OurVowels, "nbrnn"), (TorchVowels, "torch")):
        scores, seconds = zip(*results[kind], strict=True)
        print(
            f"{name}: accuracy {' '.join(f'{s:.1f}' for s in scores)} %, median {statistics.median(scores):.2f} %; "
            f"training {statistics.median(seconds):.2f} s"
        )


# Text: characters embedded, an LSTM, a linear layer; truncated backpropagation.

SIZE, STRETCH, EMBEDDED, HIDDEN, UPDATES, RATE = 64, 64, 64, 128, 400, 3e-3


class OurText:
    def __init__(self, seed, symbols):
        self.net = nbrnn.Sequential(
            nbrnn.Embedding(symbols, EMBEDDED, rng=seed),
            nbrnn.LSTM(EMBEDDED, HIDDEN, rng=seed + 1000),
            nbrnn.Linear(HIDDEN, symbols, rng=seed + 2000),
        )
        self.opt = nbrnn.optim.Adam(self.net, lr=RATE)

    def train(self, x, target):
        nbrnn.fit(
            self.net, (x, target), nbrnn.losses.cross_entropy, self.opt, 1, bptt=STRETCH, clip_norm=1.0, progress=False
        )

    def bits(self, x, target):
        y, _ = self.net(x)
        return nbrnn.losses.cross_entropy(y, target)[0] / np.log(2)


class TorchText:
    def __init__(self, seed, symbols):
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(symbols, EMBEDDED)
        self.lstm = torch.nn.LSTM(EMBEDDED, HIDDEN)
        self.out = torch.nn.Linear(HIDDEN, symbols)
        self.parts = torch.nn.ModuleList([self.embedding, self.lstm, self.out])
        self.opt = torch.optim.Adam(self.parts.parameters(), lr=RATE)

    def begin_as(self, ours):
        """Take the values of a network of ours."""
        for number, part in enumerate(self.parts):
            part.load_state_dict({n: torch.tensor(ours.net.params[f"{number}.{n}"]) for n in part.state_dict()})

    def train(self, x, target):
        x, target, state = torch.from_numpy(x), torch.from_numpy(target), None
        for t in range(0, len(x), STRETCH):
            y, state = self.lstm(self.embedding(x[t : t + STRETCH]), state)
            state = tuple(s.detach() for s in state)
            loss = torch.nn.functional.cross_entropy(self.out(y).flatten(0, 1), target[t : t + STRETCH].flatten())
            self.opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
            self.opt.step()

    def bits(self, x, target):
        with torch.inference_mode():
            y = self.out(self.lstm(self.embedding(torch.from_numpy(x)))[0])
        loss = torch.nn.functional.cross_entropy(y.flatten(0, 1), torch.from_numpy(target).flatten())
        return float(loss) / np.log(2)


def text(same):
    """Bits per character of the held-back text after so many updates; from the same initial values or from others."""
    known, held, symbols = characters()
    x, target = columns(known, SIZE)
    # The text is gone through more than once if it must be.
    rounds = -(-UPDATES * STRETCH // len(x))
    x, target = (np.concatenate([a] * rounds)[: UPDATES * STRETCH] for a in (x, target))
    held = columns(held[:100_001], 20)
    use_threads(best_threads(lambda: TorchText(0, symbols).train(x[: 10 * STRETCH], target[: 10 * STRETCH])))
    OurText(0, symbols).train(x[:STRETCH], target[:STRETCH])  # compiles
    results = {OurText: [], TorchText: []}
    for seed in range(8):
        ours, theirs = OurText(seed, symbols), TorchText(seed, symbols)
        if same:
            theirs.begin_as(ours)
        for kind, model in ((OurText, ours), (TorchText, theirs)):
            begun = time.perf_counter()
            model.train(x, target)
            seconds = time.perf_counter() - begun
            results[kind].append((model.bits(*held), seconds))
    for kind, name in ((OurText, "nbrnn"), (TorchText, "torch")):
        bits, seconds = zip(*results[kind], strict=True)
        print(
            f"{name}: bits {' '.join(f'{b:.3f}' for b in bits)}, mean {statistics.mean(bits):.3f}, "
            f"deviation {statistics.stdev(bits):.3f}; training {statistics.median(seconds):.1f} s"
        )


# The time of an epoch.


def use_threads(n):
    """Of torch."""
    torch.set_num_threads(n)


def best_threads(run):
    """The number of threads that torch is fastest with."""
    times = {}
    for n in range(1, 1 + len(os.sched_getaffinity(0))):
        use_threads(n)
        run()
        begun = time.perf_counter()
        run()
        times[n] = time.perf_counter() - begun
    best = min(times, key=times.get)
    print(f"torch: {best} thread{'s' * (best > 1)}")
    return best


def epochs(repeats=9):
    """Seconds of an epoch, the libraries in turn."""
    xs, labels = utterances("train")
    known, _, symbols = characters()
    x, target = columns(known[: SIZE * STRETCH * 50 + 1], SIZE)
    tasks = {
        "utterances, BiLSTM-32, batches of 32": [
            functools.partial(kind(0).train, xs, labels, 1) for kind in (OurVowels, TorchVowels)
        ],
        f"text, LSTM-{HIDDEN}, 50 updates of ({STRETCH}, {SIZE})": [
            functools.partial(kind(0, symbols).train, x, target) for kind in (OurText, TorchText)
        ],
    }
    for name, (ours, theirs) in tasks.items():
        use_threads(best_threads(theirs))
        ours()
        taken = [[], []]
        for _ in range(repeats):
            for run, times in zip((ours, theirs), taken, strict=True):
                time.sleep(0.05)  # threads of the one before go to sleep
                begun = time.perf_counter()
                run()
                times.append(time.perf_counter() - begun)
        a, b = map(statistics.median, taken)
        print(f"{name}: nbrnn {a:.3f} s, torch {b:.3f} s, ratio {b / a:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vowels", "text", "epochs"))
    parser.add_argument("--same", action="store_true", help="text: from the same initial values")
    chosen = parser.parse_args()
    {"vowels": vowels, "text": functools.partial(text, chosen.same), "epochs": epochs}[chosen.what]()
