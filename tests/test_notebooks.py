"Every notebook is a test. `NB_FLAGS='slow cuda' pytest` runs the cells that are skipped otherwise."
import subprocess, sys

import pytest
from nbdev.doclinks import nbglob

@pytest.mark.parametrize('nb', sorted(nbglob('nbs', as_path=True)), ids=lambda p: p.stem)
def test_notebook(nb):
    run = subprocess.run([sys.executable, 'tools/run_nbs.py', '--check', str(nb)], capture_output=True, text=True)
    if run.returncode: pytest.fail(run.stdout + run.stderr, pytrace=False)
