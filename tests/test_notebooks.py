"Every notebook is a test. `NB_FLAGS='slow cuda' pytest` runs the cells that are skipped otherwise."
import subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from nbdev.doclinks import nbglob

@pytest.fixture(scope='module')
def runs(request):
    "The notebooks that are asked for, on their way, two at a time: each is one process on one thread."
    asked = [item.callspec.params['nb'] for item in request.session.items if getattr(item, 'originalname', '') == 'test_notebook']
    pool = ThreadPoolExecutor(2)
    start = lambda nb: pool.submit(subprocess.run, [sys.executable, 'tools/run_nbs.py', '--check', str(nb)], capture_output=True, text=True)
    yield {nb: start(nb) for nb in asked}
    pool.shutdown(cancel_futures=True)

@pytest.mark.parametrize('nb', sorted(nbglob('nbs', as_path=True)), ids=lambda p: p.stem)
def test_notebook(nb, runs):
    run = runs[nb].result()
    if run.returncode: pytest.fail(run.stdout + run.stderr, pytrace=False)
