"Every notebook is a test. `NB_FLAGS='slow cuda' pytest` runs the cells that are skipped otherwise."
import json, subprocess, sys, warnings

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob

sys.path.insert(0, 'tools')
import measure_book

notebooks = sorted(nbglob('nbs', as_path=True))

class Runs:
    "The notebooks that are asked for, two at a time, each in a process of its own on one thread."
    def __init__(self, asked, log):
        self.ended, self.log = {}, log
        self.process = subprocess.Popen([sys.executable, 'tools/run_nbs.py', '--check', '--json', '--jobs=2', *map(str, asked)], stdout=subprocess.PIPE, stderr=log.open('w'), text=True)

    def __getitem__(self, name):
        "What is told of a notebook, when it has ended."
        while name not in self.ended:
            line = self.process.stdout.readline()
            if not line: pytest.fail(f'nothing was heard of {name}\n{self.log.read_text()[-4000:]}', pytrace=False)
            if line.startswith('{"notebook"'): said = json.loads(line); self.ended[said['notebook']] = said
        return self.ended[name]

@pytest.fixture(scope='module')
def runs(request, tmp_path_factory):
    asked = [item.callspec.params['nb'] for item in request.session.items if getattr(item, 'originalname', '') == 'test_notebook']
    it = Runs(asked, tmp_path_factory.mktemp('notebooks')/'stderr.txt')
    yield it
    it.process.kill(); it.process.wait()

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook(nb, runs):
    said = runs[nb.resolve().relative_to(get_config().nbs_path.resolve()).as_posix()]
    if said['failed']: pytest.fail(said['failed'], pytrace=False)
    apart = {i: v for i, v in said['outputs'].items() if v not in ('same', 'new') and not measure_book.cause(said['notebook'], i)}
    if apart: warnings.warn(f'{said["notebook"]}: {len(apart)} outputs are not as stored: {apart}') # on another processor that may be; `tools/measure_book.py` calls it a fault
