"""The README's example runs as printed."""

import re
import runpy
from pathlib import Path

from mpi4py import MPI

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.mpi
def test_example_on_your_own_form(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    file = tmp_path / "own_form.py"
    file.write_text(code, encoding="utf-8")
    names = runpy.run_path(str(file))
    assert [step.load for step in names["steps"]] == [0.25, 0.5, 0.75, 1.0]
    served = names["closure"].ledger.gathered(MPI.COMM_WORLD).counts
    assert served["surrogate/points"] > 0.9 * served["accelerated/points"]


def test_every_file_that_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:coupling|surrogates|solver_adapters|demos|tests)/[\w/.]*)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []
