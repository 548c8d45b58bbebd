"""The bounds on paper that the docs quote."""

import csv
import io
import pathlib
import runpy
import types

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "cuda_roofline.py")))


def test_the_docs_have_what_the_tool_prints(tool, capsys):
    tool.main()
    printed = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    with (ROOT / "docs" / "cuda_gates" / "roofline.csv").open(newline="") as file:
        assert list(csv.reader(file)) == printed


def test_by_hand(tool):
    """H = 64, one sequence: 4 * 64 * 64 multiply-adds, on one multiprocessor."""
    a100, h100 = tool.DEVICES
    assert a100.clock == pytest.approx(1.41e9, rel=1e-2)
    assert h100.clock == pytest.approx(1.98e9, rel=1e-2)
    work = tool.in_a_block(1, 64)
    assert (work.blocks, work.tiles, work.kept) == (1, 1, "registers")
    assert work.fma * 32 == 4 * 64 * 64
    # 8 warps; a lane reads 16 numbers of h.
    assert work.loads == 8 * 16
    assert work.chain == 30 + 16 * 4 + 2 * 24 + 220 + 30
    # 512 cycles of a warp's 32 multiply-adds, two of which begin in each.
    assert float(tool.row(a100, 100, 1, 64)["FMA, µs"]) == pytest.approx(1e6 * 256 / a100.clock, rel=0.05)
    assert tool.spread(h100, 128, 1024).fma * 32 == 8 * 4 * 4 * 1024  # a block's 8 units, for a tile of 4 sequences
