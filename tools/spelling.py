"""Spelling to phonemes: the network of a package, and networks trained from scratch on 1,814 words.

::

    python tools/spelling.py trained     # the GRUs of g2p_en: errors and words/s, beside the package's own steps

``trained`` needs ``pip install --no-deps g2p_en==2.1.0``.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import statistics
import time

import numpy as np

import nbrnn

TABLE = pathlib.Path(__file__).parents[1] / "docs" / "data" / "pronunciations.tsv"


def words():
    """(word, phonemes of CMUdict, phonemes that g2p_en predicts) of each word."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()[1:]]
    return [(word, said.split(), predicted.split()) for word, said, predicted in rows]


def distance(a, b):
    """Fewest symbols to put in, leave out or change to make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def padded(columns):
    """Lists of integers side by side, (T, B), and their lengths."""
    lengths = np.array([len(column) for column in columns])
    table = np.zeros((lengths.max(), len(columns)), np.int64)
    for b, column in enumerate(columns):
        table[: len(column), b] = column
    return table, lengths


# The package's network.

STOP, START, END, MOST = 2, 2, 3, 20
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
]  # fmt: skip
#: Vowels with their stress, and one without by mistake.
PHONEMES = [v + s for v in VOWELS for s in "012"] + CONSONANTS + ["UW"]


def checkpoint():
    """The package's arrays."""
    spec = importlib.util.find_spec("g2p_en")
    if spec is None:
        raise SystemExit("g2p_en isn't installed: pip install --no-deps g2p_en==2.1.0")
    return dict(np.load(pathlib.Path(spec.origin).parent / "checkpoint20.npz"))


def as_network(arrays):
    """The same in nbrnn."""
    (letters, size), (phonemes, hidden) = arrays["enc_emb"].shape, arrays["fc_w"].shape
    net = nbrnn.Seq2Seq(
        nbrnn.Sequential(nbrnn.Embedding(letters, size), nbrnn.GRU(size, hidden)),
        nbrnn.Sequential(nbrnn.Embedding(phonemes, size), nbrnn.GRU(size, hidden), nbrnn.Linear(hidden, phonemes)),
        start=START,
        end=END,
    )
    for part, short in (("encoder", "enc"), ("decoder", "dec")):
        net.params[f"{part}.0.weight"] = arrays[f"{short}_emb"]
        for kind in ("weight", "bias"):
            for end in ("ih", "hh"):
                net.params[f"{part}.1.{kind}_{end}_l0"] = arrays[f"{short}_{kind[0]}_{end}"]
    net.params["decoder.2.weight"], net.params["decoder.2.bias"] = arrays["fc_w"], arrays["fc_b"]
    return net


def by_numpy(arrays, symbols):
    """One word by plain NumPy, an operation after the other, as the package runs it."""

    def step(part, h, symbol):
        w_ih, w_hh, b_ih, b_hh = (arrays[f"{part}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
        xr, xz, xn = np.split(arrays[f"{part}_emb"][[symbol]] @ w_ih.T + b_ih, 3, -1)
        hr, hz, hn = np.split(h @ w_hh.T + b_hh, 3, -1)
        r, z = 1 / (1 + np.exp(-(xr + hr))), 1 / (1 + np.exp(-(xz + hz)))
        return (1 - z) * np.tanh(xn + r * hn) + z * h

    h = np.zeros((1, arrays["enc_w_hh"].shape[1]), np.float32)
    for symbol in symbols:
        h = step("enc", h, symbol)
    said, symbol = [], START
    for _ in range(MOST):
        h = step("dec", h, symbol)
        symbol = int((h @ arrays["fc_w"].T + arrays["fc_b"]).argmax())
        if symbol == END:
            break
        said.append(symbol)
    return said


def trained(repeats=5):
    """Errors and words/s of the package's network."""
    arrays, rows = checkpoint(), words()
    net = as_network(arrays)
    columns = [[ord(c) - ord("a") + 3 for c in word] + [STOP] for word, _, _ in rows]
    source, lengths = padded(columns)
    alone = [np.array(column)[:, None] for column in columns]
    names = ["<pad>", "<unk>", "<s>", "</s>", *sorted(PHONEMES)]
    runs = {
        "nbrnn, all words at once": lambda: net.greedy(source, lengths=lengths, max_length=MOST),
        "nbrnn, one by one": lambda: [net.greedy(x, max_length=MOST)[0] for x in alone],
        "NumPy, one by one": lambda: [by_numpy(arrays, column) for column in columns],
    }
    times = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            found = run()
            times[name].append(time.perf_counter() - begun)
            said = [[names[s] for s in symbols] for symbols in found]
            wrong = sum(distance(a, predicted) for a, (_, _, predicted) in zip(said, rows, strict=True))
            assert wrong == 0, f"{name}: {wrong} phonemes aren't those of the package"
    for name, (_, *seconds) in times.items():  # the first compiles
        median = statistics.median(seconds)
        print(f"{name}: {len(rows) / median:,.0f} words/s; 0 phonemes other than the package's")
    count = sum(len(meant) for _, meant, _ in rows)
    errors = sum(distance(predicted, meant) for _, meant, predicted in rows)
    print(f"of CMUdict's {count:,} phonemes the network has {errors / count:.1%} wrong")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trained",))
    {"trained": trained}[parser.parse_args().what]()
