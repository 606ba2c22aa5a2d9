"What the README says, done: its two Python examples, and its commands in one folder, one after the other, as a user runs them."
import math, re, shlex
from pathlib import Path

import pytest, yaml
from execnb.nbio import read_nb
from PIL import Image

from installed import TASKS, edit, strict, write
from shells import FULL, bash, commands, path

def readme(): return open('README.md', encoding='utf8').read()

def test_links():
    "Every link of the README that stays in the repository leads to a file, also those that a cell has computed, and those to a heading lead to one."
    found = re.findall(r'\]\(([^)\s:#]+)(?:#([^)\s]+))?\)', readme())
    heads = lambda f: {re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for c in read_nb(f).cells if c.cell_type == 'markdown' for h in re.findall(r'^#+ (.*)', c.source, re.M)}
    assert len(found) > 40 and [f for f, _ in found if not Path(f).is_file()] == []
    assert ('nbs/results.ipynb', 'which-objective') in found and [(f, a) for f, a in found if a and f.endswith('.ipynb') and a not in heads(f)] == []

def test_example(opd, tmp_path):
    "The README's Python example, a run and the picture its student paints, runs as it stands, with fewer updates."
    code = ''.join(b for b in re.findall(r'```python\n(.*?)```', readme(), re.S) if 'demo_recipe' in b or 'load_lora_weights' in b)
    assert len(code.splitlines()) <= 20 and 'updates=60' in code
    said = opd.python(tmp_path, code.replace('updates=60', "updates=2, batch=2, evaluation=dict(every=0, final=0)"))
    assert len(said.splitlines()) >= 2 and Image.open(tmp_path/'47.png').size == (320, 160)

def test_loss(opd, tmp_path):
    "The README's loop over a pass runs on models of one's own."
    code = next(b for b in re.findall(r'```python\n(.*?)```', readme(), re.S) if 'one_pass(' in b)
    own = '''
import torch
net = torch.nn.Linear(2, 2)
student, teacher, cond = (lambda x, sigma, cond: net(x)), (lambda x, sigma, cond: -x), None
noise, sigmas = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), [1., .5, 0.]
'''
    assert float(opd.python(tmp_path, f'{own}{code}\nprint(float(net.weight.grad.abs().sum()))')) > 0

# Commands

NOT_RUN = {  # beginning of a command -> why it is not run here
    'make demo': 'it installs from PyPI and takes minutes; test_cli runs the rule with a stand-in, and `diffusionopd demo` is run below',
    'make test': 'it is what runs this test',
    'pip install': 'it installs from PyPI, which make has done before this test',
}
# What is added to a command, or done in its process before it, so that it takes seconds.
SMALL = dict(updates=4, batch=2, rollout=dict(steps=3), loss=dict(query='all'), evaluation=dict(every=2, n=2, final=0))
FEWER = {
    'diffusionopd demo': ('-n 3', f'from functools import partial; from diffusionopd import demo; demo.demo_recipe = partial(demo.demo_recipe, **{SMALL!r})'),
    'diffusionopd distill': ('-q', ''),
    'diffusionopd evaluate': ('-n 2', ''),                # of two options the last counts
    'diffusionopd report': ('--pictures 1', ''),
}

def of(table, command, default): return next((v for start, v in table.items() if command.startswith(start)), default)

class Reader:
    "Somebody who runs the commands in their order, in one folder."
    def __init__(self, folder, opd, path): self.folder, self.opd, self.path, self.said = folder, opd, path, {}

    def until(self, command):
        "What a command printed; those before it are run first, if they were not."
        for c in commands(readme()):
            if c not in self.said and not of(NOT_RUN, c, ''): self.said[c] = self.do(c)
            if c == command: return self.said[c]

    def do(self, command):
        if FULL: return bash(command, self.folder, self.path)
        if command.startswith('diffusionopd distill'):     # by the recipe that `init` wrote, with smaller numbers in it
            recipe = yaml.safe_load((self.folder/'recipe.yaml').read_text())
            write(self.folder, edit(recipe, updates=2, batch=1, rollout__steps=3, evaluation=dict(every=0, n=2, final=2)))
        more, before = of(FEWER, command, ('', ''))
        command = f'{command} {more}'
        if not before: return bash(command, self.folder, self.path)
        return self.opd.python(self.folder, f'{before}\nimport sys; sys.argv = {shlex.split(command)!r}\nfrom diffusionopd.cli import main; main()')

@pytest.fixture(scope='module')
def reader(opd, path, tmp_path_factory): return Reader(tmp_path_factory.mktemp('reader'), opd, path)

LEFT = {  # what each leaves in the folder
    'diffusionopd demo': 'runs/demo/results.json', 'diffusionopd sample': '47.png', 'diffusionopd init': 'recipe.yaml', 'diffusionopd distill': 'runs/distill/student/adapter_model.safetensors',
    'diffusionopd report': 'runs/distill/report.html', 'diffusionopd export': 'mine/README.md'}
TOLD = {'diffusionopd plan': '| memory of a device |', 'diffusionopd evaluate': '| student |'}

@pytest.mark.parametrize('command', commands(readme()))
def test_command(command, reader):
    if why := of(NOT_RUN, command, ''): pytest.skip(f'not run: {why}')
    said, left, told = reader.until(command), of(LEFT, command, ''), of(TOLD, command, '')
    assert left or told, 'what does this command leave or say?'
    assert (reader.folder/left).exists() and told in said, said

def test_nothing_is_left_out_for_nothing():
    "Each command that is not run, or run in small, is in the README."
    for table in NOT_RUN, FEWER, LEFT, TOLD: assert [start for start in table if not any(c.startswith(start) for c in commands(readme()))] == []

# What its demo leaves

@pytest.fixture
def shown(reader):
    if FULL: pytest.skip('these are numbers of the short one')
    reader.until('diffusionopd demo --out runs/demo')
    return reader.folder/'runs'/'demo'

def test_results(shown):
    "results.json as it was promised; forwards counted by hand."
    r = strict((shown/'results.json').read_text())
    assert set(r['tasks']) == set(TASKS)
    for t, v in r['tasks'].items():
        assert set(v) == {'base', 'teacher', 'student', 'recovered'}
        gain = v['teacher']-v['base']
        assert v['recovered'] is None if gain <= 0 else math.isclose(v['recovered'], (v['student']-v['base'])/gain)
    assert isinstance(r['wall_s'], float) and r['wall_s'] >= r['train_s'] > 0
    manifests = [strict((shown/'student'/'manifest.json').read_text())['config']['tasks'][t] for t in TASKS]
    assert isinstance(r['forwards'], int) and r['updates'] == 4 and r['pictures'] == 3
    student, teachers = 4*6*3, [4*2*3]*3  # updates, rows, steps
    branches = [1 if m['guidance'] in (None, 1) else 2 for m in manifests]
    assert r['forwards'] == student + sum(b*t for b, t in zip(branches, teachers))
    unseen = set(r['untaught'])
    assert len(unseen) == 1 and set(r['untaught'][unseen.pop()]) == {'base', 'base, guided', *TASKS, 'student'}
    assert len(r['scores']) == 6*4 and all(s['n'] == 3 for s in r['scores'])

def test_what_the_demo_leaves(shown):
    assert {'results.json', 'results.md', 'log.jsonl', 'scores.jsonl', 'recipe.json', 'student', 'figures'} <= {p.name for p in shown.iterdir()}
    for name in 'curves', 'divergence', 'matrix', 'pictures': Image.open(shown/'figures'/f'{name}.png').verify()
    table = (shown/'results.md').read_text()
    assert all(f'| {m} |' in table for m in ('base', 'base, guided', *TASKS, 'student'))
