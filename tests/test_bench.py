"""``nbrnn bench``: peers agree, figures follow from the medians, arguments are checked.  No test asserts a timing."""

import json

import numpy as np
import pytest

from nbrnn import cli
from nbrnn.bench import command, compare, grid, machine, peers, report, steps, timing
from nbrnn.bench.grid import Line, Shape
from nbrnn.bench.peers import PEERS
from nbrnn.bench.problem import Problem, contenders, difference
from nbrnn.bench.timing import Contender, Timing
from tests.processes import run

SMALL = (
    Shape(6, 3, 4, 5),
    Shape(6, 3, 4, 5, layers=2),
    Shape(6, 3, 4, 5, bidirectional=True),
    Shape(6, 3, 4, 5, layers=2, bidirectional=True, ragged=True),
)
PEAKS = {(dtype, n): 100.0 for dtype in grid.DTYPES for n in (1, 2)}


@pytest.fixture
def quick_machine(monkeypatch):
    """A machine that is measured in no time."""
    for name, value in dict(SECONDS=1e-4, REPEATS=1, LEAST_MEMORY=1 << 20, MOST_MEMORY=1 << 22).items():
        monkeypatch.setattr(machine, name, value)


def bench(*arguments):
    return cli.main(["bench", *arguments])


def test_flops_by_hand():
    """An LSTM step: 4 gates, each H (I + H) multiply-adds."""
    shape = Shape(7, 2, 3, 5)
    assert Line("LSTM", "float32", "inference", shape).flops() == 2 * 7 * 2 * 4 * 5 * (3 + 5)
    assert Line("RNN", "float64", "training", shape).flops() == 3 * 2 * 7 * 2 * 1 * 5 * (3 + 5)
    # Two directions; the second layer takes both of the first one's.
    two = Line("GRU", "float32", "inference", Shape(7, 2, 3, 5, layers=2, bidirectional=True))
    assert two.flops() == 2 * (2 * 7 * 2 * 3 * 5 * (3 + 5)) + 2 * (2 * 7 * 2 * 3 * 5 * (10 + 5))


def test_flops_of_steps_that_are_run():
    shape = Shape(7, 20, 3, 5, ragged=True)
    lengths = shape.lengths()
    assert lengths.min() >= 1
    assert lengths.max() <= 7
    assert Line("RNN", "float32", "inference", shape).flops() == 2 * lengths.sum() * 5 * (3 + 5)


def test_grid():
    assert len(grid.SHAPES) == 16
    assert len(list(grid.lines(grid.CELLS, grid.DTYPES, grid.MODES, grid.SHAPES))) == 16 * 3 * 2 * 2
    assert str(grid.SHAPES[-1]) == "100,32,64,128 ragged"


def test_conclusions_follow_from_the_medians():
    line = Line("RNN", "float32", "inference", Shape(1, 1, 1, 1))
    results = [
        {"name": "nbrnn", "threads": 1, "seconds": 3e-9, "low": 0.1},
        {"name": "nbrnn", "threads": 2, "seconds": 2e-9},
        {"name": "a", "threads": 1, "seconds": 5e-9, "low": 1e-9},
        {"name": "b", "threads": 1, "seconds": 8e-9},
        {"name": "c", "status": "failed"},
    ]
    found = compare.conclusions(line, results, PEAKS)
    assert found["ratio"] == pytest.approx(2.5)
    assert (found["best"], found["best_threads"], found["rival"]) == (2e-9, 2, "a")
    assert found["gflops"] == pytest.approx(line.flops() / 2)
    assert found["share"] == pytest.approx(found["gflops"] / 100)
    alone = compare.conclusions(line, results[:1], PEAKS)
    assert (alone["ratio"], alone["rival"]) == (None, None)


def test_summary():
    assert report.geometric_mean([4.0, 1.0, 0.25]) == pytest.approx(1.0)
    assert report.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    line = Line("GRU", "float32", "training", Shape(1, 2, 3, 4)).fields() | {"rival": "torch"}
    rows = report.summary([line | {"ratio": 2.0}, line | {"ratio": 0.5}, line | {"ratio": None}])
    (row,) = rows
    assert (row["lines"], row["lowest"], row["lowest_line"]) == (2, 0.5, "GRU 1,2,3,4")
    assert row["geometric_mean"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "seconds, text",
    [(1.5, "1.50 s"), (0.01234, "12.3 ms"), (9.999e-4, "1.00 ms"), (1.23456e-4, "123 µs"), (7.36e-7, "736 ns")],
)
def test_times_have_three_digits(seconds, text):
    assert report.time_text(seconds) == text


def test_differences():
    y = np.array([1.0, -2.0])
    assert difference({"y": y, "h": y}, {"y": y}) == 0
    assert difference({"y": y}, {"y": y + 1e-3}) == pytest.approx(5e-4)
    for other in ({}, {"y": y[:1]}, {"y": y.astype(np.float32)}, {"y": np.array([1.0, np.nan])}):
        assert difference({"y": y}, other) == np.inf


def test_contenders_take_turns(monkeypatch):
    """Each round begins with another one; each sample is some untimed calls and a fixed number of timed ones."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    called = []
    made = [Contender(name, 1, lambda name=name: called.append(name), lambda _: {}) for name in "abc"]
    found = timing.measure(made, 60.0)
    assert [(t.rounds, t.calls) for t in found] == [(3, 1)] * 3
    assert "".join(called[-18:]) == "aabbccbbccaaccaabb"


def test_medians_and_quartiles():
    found = timing.timing([1.0, 5.0, 2.0, 3.0, 4.0], 7)
    assert found == Timing(3.0, 2.0, 4.0, 5, 7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", grid.CELLS)
@pytest.mark.parametrize("name", PEERS)
def test_peers_agree(name, cell):
    """In outputs, final states and all gradients."""
    if not PEERS[name].installed():
        pytest.skip(f"{name} is not installed")
    compared = 0
    for mode in grid.MODES:
        for shape in SMALL:
            problem = Problem(Line(cell, "float32", mode, shape))
            wanted = contenders(problem, [1])[0].results()
            try:
                (theirs, *_) = PEERS[name].contenders(problem, [1])
            except timing.Unsupported:
                continue
            found = theirs.results()
            assert difference(wanted, found) < 1e-5, shape
            assert name == "keras" or found.keys() == wanted.keys()
            compared += 1
    assert compared >= 3


@pytest.mark.filterwarnings("ignore")
def test_steps_agree(monkeypatch):
    monkeypatch.setattr(steps, "TURN", steps.INPUTS)
    found = steps.stream("GRU", "float32", (3, 5), peers.installed(), 1e-3, PEAKS)
    assert {r["name"]: r["status"] for r in found["results"]}.keys() >= {"nbrnn"}
    assert all(r["status"] == "ok" and r["p999"] >= r["seconds"] for r in found["results"])


def test_a_wrong_or_failing_peer_is_not_timed(monkeypatch):
    def wrong(problem, threads):
        (ours,) = contenders(problem, [1])
        return [Contender("wrong", 1, ours.call, lambda r: {"y": ours.read(r)["y"] * 1.01})]

    def failing(problem, threads):
        raise RuntimeError("out of order\nmore of it")

    def without(problem, threads):
        raise timing.Unsupported("inference only")

    for name, made in dict(wrong=wrong, failing=failing, without=without).items():
        monkeypatch.setitem(PEERS, name, peers.Peer((), made))
    line = Line("RNN", "float32", "inference", SMALL[0])
    found = compare.run(line, ["wrong", "failing", "without"], [1], 1e-3, PEAKS)
    ours, *others = found["results"]
    assert ours["status"] == "ok"
    assert ours["seconds"] > 0
    assert [r["status"] for r in others] == ["wrong", "failed", "unsupported"]
    assert all("seconds" not in r for r in others)
    assert found["ratio"] is None
    shown = []
    printer = report.Printer(["wrong", "failing", "without"], shown.append)
    printer.line(found)
    printer.summary([])
    assert "failing failed: RNN float32 inference 6,3,4,5: RuntimeError: out of order" in shown
    assert any("wrong wrong" in text and "results differ by" in text for text in shown)


def test_json_is_complete(quick_machine, capsys):
    assert bench("--peers", "none", "--cell", "RNN", "--shape", "3,2,4,5", "--seconds", "0.001", "--json", "-") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found.keys() == {
        "format", "date", "versions", "threads", "seconds", "machine", "lines", "stream", "jit", "summary",
    }  # fmt: skip
    assert {p["dtype"] for p in found["machine"]["peak"]} == set(grid.DTYPES)
    assert all(p["gflops"] > 0 for p in found["machine"]["peak"])
    assert [b["level"] for b in found["machine"]["bandwidth"]][-1] == "memory"
    assert all(b["gigabytes"] > 0 for b in found["machine"]["bandwidth"])
    assert [(r["mode"], r["dtype"]) for r in found["lines"]] == [(m, d) for m in grid.MODES for d in grid.DTYPES]
    for line in found["lines"]:
        assert (line["T"], line["B"], line["I"], line["H"], line["cell"]) == (3, 2, 4, 5, "RNN")
        assert [r["threads"] for r in line["results"]] == found["threads"]
        assert line["best"] == min(r["seconds"] for r in line["results"])
        assert line["ratio"] is None
    assert len(found["stream"]) == len(found["jit"]) == 2
    assert "inference, float32" in printed.err
    assert "3,2,4,5" in printed.err


def test_a_shape_with_options(quick_machine, capsys):
    shape = ["--shape", "3,2,4,5,ragged,3layers,bidirectional"]
    assert (
        bench("--peers", "none", "--cell", "RNN", "--mode", "inference", *shape, "--seconds", "0.001", "--json", "-")
        == 0
    )
    found = json.loads(capsys.readouterr().out)["lines"]
    wanted = {"T": 3, "H": 5, "layers": 3, "ragged": True, "bidirectional": True}
    assert found
    assert all({key: line[key] for key in wanted} == wanted for line in found)


def test_json_into_a_file(quick_machine, tmp_path, capsys):
    path = tmp_path / "a.json"
    assert bench("--machine-only", "--dtype", "float32", "--peers", "none", "--json", str(path)) == 0
    assert json.loads(path.read_text())["machine"]["peak"][0]["dtype"] == "float32"
    assert "GFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--peers", "torhc"], "must be of torch, onnxruntime, openvino, jax, keras, got 'torhc'"),
        (["--cell", "LSTM,"], "must be of RNN, GRU, LSTM, got ''"),
        (["--dtype", "float16"], "got 'float16'"),
        (["--mode", "all"], "must be of inference, training, stream, jit"),
        (["--shape", "1,2,3"], "must be T,B,I,H, four integers of at least 1"),
        (["--shape", "1,2,3,4,both"], "bidirectional or ragged if wanted, got '1,2,3,4,both'"),
        (["--shape", "1,2,3,0"], "at least 1"),
        (["--shape", "1,2,3,4,2layers,3layers"], "and 2layers (or more)"),
        (["--shape", "ragged,1,2,3,4"], "four integers"),
        (["--seconds", "0"], "must be a number above 0"),
        (["--seconds", "nan"], "must be a number above 0"),
        (["--json", "missing/a.json"], "must be - or a file in a folder that is there"),
        (["--json", "."], "must be - or a file"),
    ],
)
def test_bad_arguments(arguments, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        bench(*arguments)
    assert word in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_refused(monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "jax", peers.Peer(("a_package_that_is_not_there",), lambda problem, threads: []))
    assert "jax" not in peers.installed()
    with pytest.raises(SystemExit):
        bench("--peers", "jax")
    assert "jax is not installed here" in capsys.readouterr().err


def test_quick_is_small(monkeypatch, quick_machine, capsys):
    asked = []

    def remember(line, *_):
        asked.append(line)
        results = [{"name": "nbrnn", "threads": 1, "seconds": 1.0, "status": "ok"}]
        return line.fields() | {"results": results} | compare.conclusions(line, results, PEAKS)

    monkeypatch.setattr(command.compare, "run", remember)
    assert bench("--quick", "--peers", "none", "--mode", "inference") == 0
    assert [(line.cell, line.dtype) for line in asked] == [("LSTM", "float32")] * 3


def test_working_sets_lie_in_their_caches(monkeypatch):
    monkeypatch.setattr(
        machine, "caches", lambda: {"L1": (32 << 10, False), "L2": (1 << 20, False), "L3": (16 << 20, True)}
    )
    one, four = machine.working_sets(), machine.working_sets(4)
    assert one == {"L1": 16 << 10, "L2": 512 << 10, "L3": 4 << 20, "memory": 64 << 20}
    assert four == one | {"L3": 1 << 20, "memory": 16 << 20}


def test_import_leaves_it_alone():
    assert run("import sys, nbrnn; print(any(m.startswith('nbrnn.bench') for m in sys.modules))").strip() == "False"
