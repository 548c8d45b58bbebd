"""Spelling to phonemes: the network of a package, and networks that learn it from 1,814 words.

::

    python tools/spelling.py trained     # the GRUs of g2p_en: errors and words/s, beside the package's own steps
    python tools/spelling.py scratch     # phoneme error rates of 202 held-back words after 60 epochs, seeds 0-2

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


# From scratch.


def score(rows, found, plain=lambda phonemes: phonemes):
    """Phoneme error rate: edit distances through phonemes, all words together."""
    wrong = sum(distance(plain(said), plain(meant)) for said, (_, meant, _) in zip(found, rows, strict=True))
    return wrong / sum(len(meant) for _, meant, _ in rows)


def without_stress(phonemes):
    return [p.rstrip("012") for p in phonemes]


def reader_and_writer(seed, letters, phonemes, size=64, hidden=128):
    """The network: a bidirectional GRU, attention, a GRU twice as large; more dropout than for a minute's training."""
    rng, both = np.random.default_rng(seed), 2 * hidden
    encoder = nbrnn.Sequential(
        nbrnn.Embedding(letters, size, rng=rng),
        nbrnn.Dropout(0.2, rng=rng),
        nbrnn.GRU(size, hidden, bidirectional=True, rng=rng),
        nbrnn.Dropout(0.3, rng=rng),
    )
    decoder = nbrnn.Sequential(
        nbrnn.Embedding(phonemes + 2, size, rng=rng),
        nbrnn.Dropout(0.2, rng=rng),
        nbrnn.GRU(size, both, rng=rng),
        nbrnn.Dropout(0.5, rng=rng),
        nbrnn.Linear(both, phonemes + 2, rng=rng),
    )
    return nbrnn.Seq2Seq(encoder, decoder, "general", start=phonemes, end=phonemes + 1, rng=rng)


def scratch(epochs=60, batch_size=32, lr=3e-3):
    """Error rates on held-back words; the split is that of the gallery, the seed that of parameters and batches."""
    rows = words()
    order = np.random.default_rng(0).permutation(len(rows))
    held, known = ([rows[q] for q in part] for part in np.split(order, [round(len(rows) / 10)]))
    names = sorted({p for _, meant, _ in rows for p in meant})
    number = {name: q for q, name in enumerate(names)}
    letters = {c: q for q, c in enumerate("abcdefghijklmnopqrstuvwxyz.")}
    start, end = len(names), len(names) + 1
    spelled = lambda part: [np.array([letters[c] for c in word + "."]) for word, _, _ in part]
    spoken = [[number[p] for p in meant] for _, meant, _ in known]
    data = (spelled(known), [np.array([start, *said]) for said in spoken]), [np.array([*said, end]) for said in spoken]
    source, lengths = padded(spelled(held))
    named = lambda found: [[names[s] if s < start else "?" for s in symbols] for symbols in found]
    for seed in range(3):
        net = reader_and_writer(seed, len(letters), len(names))
        opt = nbrnn.optim.AdamW(net, lr=lr, weight_decay=0.01)
        cycle = nbrnn.optim.schedules.OneCycle(opt, lr, epochs * -(-len(known) // batch_size))
        begun = time.perf_counter()
        nbrnn.fit(
            net, data, nbrnn.losses.cross_entropy, opt, epochs, batch_size=batch_size, clip_norm=1.0,
            schedule=(cycle, "batch"), progress=False, rng=seed,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        found = named(net.greedy(source, lengths, max_length=MOST))
        best = named([several[0][0] for several in net.beam(source, lengths, max_length=MOST, beam=5)])
        right = sum(said == meant for said, (_, meant, _) in zip(found, held, strict=True))
        print(
            f"seed {seed}: phoneme error rate {score(held, found):.1%}, without stress "
            f"{score(held, found, without_stress):.1%}, with a beam of 5 {score(held, best):.1%}; "
            f"{right} of {len(held)} words right; training {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trained", "scratch"))
    {"trained": trained, "scratch": scratch}[parser.parse_args().what]()
