"Every notebook is a test: its cells run, and show what they have stored. `NB_FLAGS='slow cuda' pytest` runs the cells that are skipped otherwise."
import json, subprocess, sys

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob

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
    if wrong := complaint(said): pytest.fail(wrong, pytrace=False)

def complaint(said):
    "What is wrong with a notebook that was run: a cell that raised, or an output that is not as stored, or not stored, without a cause that `tools/causes.py` names."
    apart = {i: v for i, v in said['outputs'].items() if v not in ('same', 'caused')}
    return said['failed'] or (f'{said["notebook"]}: {len(apart)} outputs are not as stored: {apart}' if apart else '')

@pytest.mark.parametrize('said, wrong', [(dict(failed='', outputs=dict(a='same', b='caused')), ''), (dict(failed='cell 3 failed', outputs={}), 'cell 3 failed'),
                                         (dict(failed='', outputs=dict(a='same', b=['0.97', '0.99'])), "'b': ['0.97', '0.99']"), (dict(failed='', outputs=dict(a='new')), "'a': 'new'")])
def test_another_output_is_a_failure(said, wrong):
    found = complaint(dict(notebook='x.ipynb', **said))
    assert bool(found) == bool(wrong) and wrong in found
