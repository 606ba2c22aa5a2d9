"Tests run from the root of the repository, on one thread, without a network."
import os, subprocess, sys
from pathlib import Path

import pytest
from filelock import FileLock

root = Path(__file__).resolve().parent.parent
os.chdir(root)  # nbdev finds settings.ini from the working directory
os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')

from installed import opd, student  # fixtures

@pytest.fixture
def repo(): return root

@pytest.fixture(scope='session')
def site(tmp_path_factory, worker_id):
    "The folder of the documentation, built anew, once for all workers; what is wrong with it, tests tell."
    if sys.version_info < (3, 11): pytest.skip('smalldocs, which builds the site, needs Python 3.11')
    shared = tmp_path_factory.getbasetemp() if worker_id == 'master' else tmp_path_factory.getbasetemp().parent
    with FileLock(shared/'site.lock'):
        if not (shared/'site.built').exists():
            run = subprocess.run([sys.executable, 'tools/docs.py', '--unchecked'], capture_output=True, text=True)
            if run.returncode: pytest.fail(run.stdout + run.stderr, pytrace=False)
            (shared/'site.built').touch()
    return root/'_docs'
