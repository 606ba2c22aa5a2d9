"Tests run from the root of the repository, on one thread, without a network."
import os
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
os.chdir(root)  # nbdev finds settings.ini from the working directory
os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')

from installed import opd, student  # fixtures

@pytest.fixture
def repo(): return root
