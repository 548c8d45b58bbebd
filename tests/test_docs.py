"""The documents: every example runs, the calculation by hand is right, figures and commands are there."""

import doctest
import pathlib
import re

import numpy as np
import pytest

import nbrnn

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.rst"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_examples_run(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, globs={"np": np, "nbrnn": nbrnn})
    assert failed == 0


def test_example_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(compile(code, "README.md", "exec"), {})
    error = float(re.search(r"mean squared error (\S+)", capsys.readouterr().out)[1])
    assert error < 0.001


def test_readme_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text()
    first, second = re.search(r"```\n(pip install .*)\n(pip install .*)\n```", text).groups()
    assert first == "pip install . && nbrnn demo"
    assert second == "pip install -e '.[test]' && pytest"


def test_cell_of_contributing_is_the_one_that_is_tested():
    shown = re.search(r"class MGU\(Cell\):.*?\n```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[0]
    tested = (ROOT / "tests" / "minimal_gated_unit.py").read_text()

    def bare(text):
        lines = (re.sub(r"#.*", "", line).rstrip() for line in text.splitlines())
        return [line for line in lines if line and "```" not in line and '"""' not in line]

    assert bare(shown) == bare(re.search(r"class MGU\(Cell\):.*?(?=\n\n\nclass)", tested, re.DOTALL)[0])
