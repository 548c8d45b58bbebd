"""`nbrnn gpu-check` on a libcuda that is made up, and where things are missing."""

import json
import re

import numpy as np
import pytest

from nbrnn._cuda import compile as compiler
from nbrnn._cuda import device
from nbrnn.bench.timing import Timing
from nbrnn.cli import info, main
from nbrnn.gpu_check import agreement, times
from tests.fake_cuda import installed
from tests.ptx import compile as nvvm

needs_numba_cuda = pytest.mark.skipif(not nvvm.has_numba_cuda(), reason="numba-cuda is not installed")
#: One layer and direction, ragged: (T, B, I, H) = (5, 5, 7, 11).
QUICK = ["gpu-check", "--quick", "--cell", "GRU", "--dtype", "float32", "--seed", "41"]


@pytest.fixture(autouse=True)
def _warnings(recwarn):
    """numba-cuda's."""


@needs_numba_cuda
def test_a_gpu_that_agrees(capsys, tmp_path):
    with installed():
        assert main([*QUICK, "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "Made-up GPU: compute capability 9.0, 4 multiprocessors, 1.0 GiB; driver for CUDA 13.0" in shown
    assert "1 of 1 cases agree (within 5e-06 in float32)" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"]
    assert found["missing"] is None
    assert set(found["kernels"]) >= {"forward", "backward", "product"}
    (case,) = found["agreement"]
    assert {"y", "h", "dx", "dh", "dweight_ih_l0", "dweight_hh_l0"} <= case["errors"].keys()
    assert 0 < max(case["errors"].values()) < 5e-6


@needs_numba_cuda
def test_a_kernel_that_fails(capsys):
    with installed() as fake:
        fake.fail("cuLaunchKernel", 719, after=2)
        assert main([*QUICK, "--json", "-"]) == 1
    shown = capsys.readouterr()
    assert re.search(r"CudaError: cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED .* WRONG GRU float32", shown.err)
    assert json.loads(shown.out)["agreement"][0]["errors"] == {}


@needs_numba_cuda
@pytest.mark.parametrize("error", [1e-4, np.inf])
def test_numbers_that_differ(capsys, monkeypatch, error):
    monkeypatch.setattr(agreement, "errors", lambda case, on: {"y": 1e-7, "dx": error})
    with installed():
        assert main([*QUICK, "--json", "-"]) == 1
    shown = capsys.readouterr()
    assert re.search(rf"{'1.0e-04' if error < 1 else 'not finite'} \(dx\) +WRONG GRU", shown.err)
    assert "0 of 1 cases agree" in shown.err
    assert not json.loads(shown.out)["ok"]


def test_errors_are_parts_of_the_largest_number():
    wanted = np.array([1.0, -4.0])
    assert agreement._error(wanted + np.array([0, 0.5]), wanted) == 0.125
    assert agreement._error(np.zeros(3), np.zeros(3)) == 0
    assert agreement._error(np.zeros((0, 3)), np.zeros((0, 3))) == 0
    for found in (np.array([1.0, np.nan]), np.zeros(3)):
        assert agreement._error(found, wanted) == np.inf


def test_cases_have_everything_in_turn():
    cases = list(agreement.cases(agreement.CELLS, agreement.DTYPES, 8))
    assert len(cases) == 3 * 2 * 3 * 8
    assert cases == list(agreement.cases(agreement.CELLS, agreement.DTYPES, 8))
    assert cases != list(agreement.cases(agreement.CELLS, agreement.DTYPES, 8, seed=2))
    for name in ("P", "bidirectional", "bias", "ragged", "resets", "dropout"):
        assert 0 < sum(bool(getattr(case, name)) for case in cases) < len(cases)
    assert {case.layers for case in cases} == {1, 2}
    for size in agreement.SIZES:
        assert sum(size.lowest <= case.H <= size.highest for case in cases) == 48


@needs_numba_cuda
def test_times(capsys, monkeypatch):
    def measured(contenders, seconds):
        for contender in contenders:
            contender.call()
        return [Timing(2e-3, 1e-3, 3e-3, 5, 1) for _ in contenders]

    monkeypatch.setattr(times, "measure", measured)
    monkeypatch.setattr(times, "has_torch", lambda: False)
    with installed(memory=2**22) as fake:
        on = device.device(0)
        records = list(times.run(["GRU"], ["float32"], 1.0, on, [(2, 1, 3), (2**20, 2**10, 3)]))
        assert [r["mode"] for r in records] == ["inference", "inference", "training", "training"]
        for record in records[::2]:
            assert record["failed"] is None
            assert record["nbrnn"] == {"median": 2e-3, "low": 1e-3, "high": 3e-3, "rounds": 5}
        for record in records[1::2]:
            assert record["failed"].startswith("MemoryError: ")
        assert fake.calls["cuStreamSynchronize"] >= 4


@pytest.mark.parametrize(
    "options, says",
    [
        ({"devices": 0}, "no CUDA device can be seen"),
        ({"version": 11040}, "driver is for CUDA 11.4"),
    ],
)
def test_what_is_missing(capsys, options, says):
    with installed(**options):
        assert main(["gpu-check", "--json", "-"]) == 1
        assert says in info()
    shown = capsys.readouterr()
    assert f"no GPU that can be used: {says}"[:25] in shown.err
    found = json.loads(shown.out)
    assert says in found["missing"]
    assert not found["ok"]


def test_no_driver(capsys, monkeypatch):
    from nbrnn._cuda import driver

    def none():
        raise RuntimeError("no NVIDIA driver: libcuda.so.1 can't be loaded")

    monkeypatch.setattr(driver, "open_library", none)
    driver.load.cache_clear()
    assert main(["gpu-check"]) == 1
    assert "no GPU that can be used: no NVIDIA driver" in capsys.readouterr().out
    assert "no NVIDIA driver" in info()


def test_no_numba_cuda(capsys, monkeypatch):
    monkeypatch.setattr(compiler, "_versions", lambda: tuple((n, None) for n in compiler._PACKAGES))
    with installed():
        assert main(["gpu-check"]) == 1
        assert "Made-up GPU, compute capability 9.0, driver for CUDA 13.0; numba-cuda, which" in info()
    assert "isn't installed: pip install 'nbrnn[cuda]'" in capsys.readouterr().out


@needs_numba_cuda
def test_an_old_driver_or_device(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    with installed(version=12080):
        assert main(["gpu-check"]) == 1
    assert "UNSUPPORTED_PTX_VERSION (the driver is older" in capsys.readouterr().out
    with installed(cc=(6, 1)):
        assert main(["gpu-check"]) == 1
    assert re.search("can't run kernels: .*compute capability 6.1 is not supported", capsys.readouterr().out)


@pytest.mark.parametrize("wrong", [["--cases", "0"], ["--cell", "CNN"], ["--seconds", "0"], ["--json", "/none/x"]])
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["gpu-check", *wrong])
    assert caught.value.code == 2


def test_help_tells_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["gpu-check", "--help"])
    assert "exit status: 0 if the GPU agrees" in " ".join(capsys.readouterr().out.split())
