"The commands of the installed package, from a folder that is not the checkout."
import json, math

import pytest, yaml
from PIL import Image

from installed import SMALL, TASKS, console, edit, lines, write

COMMANDS = 'demo', 'distill', 'teach', 'pretrain', 'sample', 'evaluate', 'init'

def strict(text):
    "JSON as every reader understands it: without NaN and Infinity."
    def no(name): raise AssertionError(f'{name} is no JSON')
    return json.loads(text, parse_constant=no)

def test_console_script(tmp_path):
    ended = console(tmp_path, '--help').ok()
    assert all(c in ended.stdout for c in COMMANDS) and not ended.stderr

@pytest.mark.parametrize('command', COMMANDS)
def test_help(command, opd, tmp_path):
    "Every command says what it does, by an example that names it."
    text = ' '.join(opd.run(tmp_path, command, '--help').ok().stdout.split())
    assert 'Example' in text and f'diffusionopd {command}' in text.split('Example')[1]

def test_version(opd, tmp_path):
    from diffusionopd import __version__
    assert opd.run(tmp_path, '--version').ok().stdout.strip() == __version__

@pytest.mark.parametrize('kind', ['distill', 'teach', 'base'])
def test_init(kind, opd, tmp_path):
    "A fresh recipe is valid, explains every field, and is not written over."
    opd.run(tmp_path, 'init', kind, 'r.yaml').ok()
    text = (tmp_path/'r.yaml').read_text()
    opd.python(tmp_path, f'from diffusionopd.recipes import load_recipe; load_recipe({kind!r}, "r.yaml")')
    assert all('#' in line for line in text.splitlines() if line.split('#')[0].strip()[-1:] not in ':')
    again = opd.run(tmp_path, 'init', kind, 'r.yaml')
    assert again.code == 2 and 'r.yaml is there already' in again.stderr and (tmp_path/'r.yaml').read_text() == text

# One short distillation, looked at from all sides

def test_distill_says_where(student):
    folder, ended = student
    assert 'run/student' in ended.stdout and 'Traceback' not in ended.stderr
    assert sum('student on' in line for line in ended.stderr.splitlines()) == 12  # three tasks: before, twice on the way, at the end

def test_folder_of_a_run(student, opd):
    folder, _ = student
    run = folder/'run'
    files = {p.name for p in run.iterdir()}
    assert {'recipe.json', 'log.jsonl', 'scores.jsonl', 'student', 'figures', 'tensorboard', 'checkpoint-000030', 'checkpoint-000045'} == files
    assert [p for p in run.rglob('*') if '.part' in p.name] == []
    log = [strict(line) for line in (run/'log.jsonl').read_text().splitlines()]
    assert [r['update'] for r in log] == list(range(1, 46))
    for r in log:
        assert set(r) == {'update', 'loss', 'gap', 'kl', 'steps', 'norm', 'lr', 'forwards', 'seconds'}
        assert set(r['gap']) == set(r['kl']) == set(TASKS) and all(len(v) == 5 for v in r['kl'].values()) and r['steps'] == list(range(5))
    for name in 'curves.png', 'divergence.png': Image.open(run/'figures'/name).verify()
    tags = opd.python(folder, '''
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
e = EventAccumulator('run/tensorboard'); e.Reload()
print(*[f'{t}:{len(e.Scalars(t))}' for t in e.Tags()['scalars']])''').split()
    assert {f'gap/{t}:45' for t in TASKS} | {f'kl/{t}:45' for t in TASKS} | {'loss:45'} <= set(tags)

def test_it_learns(student, opd):
    """On held-out prompts, where each of them walks, the student is nearer to every teacher than the base is. (In the last
    step, where nearly no noise is left, so short a training may still be off.)"""
    folder, _ = student
    gaps = strict(opd.python(folder, '''
import json, torch
from diffusionopd.adapters import adapter_field, load_adapter
from diffusionopd.backbones import load_backbone
from diffusionopd.divergence import sq_gap
from diffusionopd.evaluate import exam
from diffusionopd.kernels import make_kernels
from diffusionopd.prompts import prompt_source
from diffusionopd.rollout import prior, rollout, seeded
from diffusionopd.trainer import teacher_folder
bb = load_backbone('embedded')
load_adapter(bb, 'student', 'run/student')
kernels, out = make_kernels('euler', bb.sigmas(5))[:-1], {}
for task in ('composition', 'text', 'aesthetics'):
    load_adapter(bb, task, teacher_folder(f'embedded:{task}'))
    teacher = adapter_field(bb, task)
    prompts, seeds = exam(prompt_source(f'embedded:{task}'), 16)
    cond, x = bb.encode(prompts), prior(bb.latent_shape(), seeded(seeds))
    gap = lambda name: sum(float(sq_gap(s.out, teacher(s.x, s.kernel.sigma, cond)).mean()) for s in rollout(adapter_field(bb, name), x, kernels, cond))
    out[task] = gap(None), gap('student')
print(json.dumps(out))'''))
    assert set(gaps) == set(TASKS)
    assert all(taught < base for base, taught in gaps.values()), gaps
    assert sum(taught for _, taught in gaps.values()) < .7*sum(base for base, _ in gaps.values()), gaps

def test_student_elsewhere(student, opd):
    "diffusers and peft read the student by themselves, and it paints the same pictures, bit for bit."
    folder, _ = student
    opd.python(folder, '''
import torch
from peft import PeftModel
from diffusionopd.adapters import adapter_field, load_adapter, module_field
from diffusionopd.backbones import asset, load_backbone, make_backbone
from diffusionopd.evaluate import exam, paint
from diffusionopd.pipeline import PixelPipeline
from diffusionopd.prompts import prompt_source
from diffusionopd.rollout import prior, seeded
prompts, seeds = exam(prompt_source('embedded:text'), 4)
def pictures(bb, field): return paint(bb, field, prompts, seeds, steps=4)
bb = load_backbone('embedded')
load_adapter(bb, 'student', 'run/student')
ours = pictures(bb, adapter_field(bb, 'student'))
assert not torch.equal(ours, pictures(bb, adapter_field(bb, None)))
pipe = PixelPipeline.from_pretrained(asset('base'))
pipe.load_lora_weights('run/student')
there = make_backbone(pipe)
assert torch.equal(ours, pictures(there, module_field(there, pipe.transformer)))
start = prior(bb.latent_shape(), seeded(seeds))
torch.testing.assert_close(pipe(prompts, 4, latents=start, output_type='pt').images, ours, rtol=0, atol=1e-5)  # the pipeline's own loop
pipe = PixelPipeline.from_pretrained(asset('base'))
there = make_backbone(pipe)
net = PeftModel.from_pretrained(pipe.transformer, 'run/student').eval()
assert torch.equal(ours, pictures(there, module_field(there, net)))
''')

def test_evaluate(student, opd):
    folder, _ = student
    ended = opd.run(folder, 'evaluate', '-a', 'run/student', '-a', 'embedded:text', '-t', 'text', '-t', 'aesthetics', '-n', 6, '--steps', 3, '--out', 'scores/s.json').ok()
    assert '| run/student |' in ended.stdout and '| embedded:text |' in ended.stdout
    scores = strict((folder/'scores'/'s.json').read_text())
    assert [(s['model'], s['task']) for s in scores] == [(m, t) for m in ('run/student', 'embedded:text') for t in ('text', 'aesthetics')]
    assert all(0 <= s['low'] <= s['score'] <= s['high'] <= 1 and s['n'] == 6 and s['sampler'] == 'euler 3 steps, guidance 1' for s in scores)

def test_scores_of_the_manifest(student, opd):
    "The run's last scores are those that `evaluate` finds for the saved student."
    folder, _ = student
    opd.run(folder, 'evaluate', '-a', 'run/student', '-t', 'text', '-n', 8, '--out', 'again.json').ok()
    again, = strict((folder/'again.json').read_text())
    noted = strict((folder/'run'/'student'/'manifest.json').read_text())['scores']['text']
    assert {k: v for k, v in again.items() if k != 'model'} == {k: v for k, v in noted.items() if k != 'model'}

def test_sample(student, opd):
    folder, _ = student
    for out, more in ('a.png', []), ('b.png', []), ('c.png', ['-a', 'run/student']):
        assert opd.run(folder, 'sample', 'write 47 red', '--n', 2, '--steps', 3, '--out', out, *more).ok().stdout.strip() == out
    a, b, c = ((folder/f).read_bytes() for f in ('a.png', 'b.png', 'c.png'))
    assert a == b != c
    opd.run(folder, 'sample', 'write 47 red', 'pretty 47 red', '-a', 'embedded:text', '-a', 'run/student', '--n', 2, '--steps', 2, '--out', 'new/grid.png').ok()
    one, four = Image.open(folder/'a.png'), Image.open(folder/'new'/'grid.png')
    assert one.mode == 'RGB' and four.size == (one.width, 4*one.height)

# The other stages, in their smallest form

def test_teach_and_learn_from_it(opd, tmp_path):
    "A specialist of one's own can be evaluated, and teaches a student."
    opd.run(tmp_path, 'init', 'teach', 't.yaml').ok()
    recipe = yaml.safe_load((tmp_path/'t.yaml').read_text())
    write(tmp_path, edit(recipe, iterations=2, prompts_per_iteration=2, images_per_prompt=3, steps=3, evaluation=dict(every=1, n=2, final=3, steps=3)), 't.yaml')
    opd.run(tmp_path, 'teach', 't.yaml', '--out', 'mine', '-q').ok()
    assert [r['iteration'] for r in lines(tmp_path/'mine'/'log.jsonl')] == [1, 2]
    manifest = strict((tmp_path/'mine'/'manifest.json').read_text())
    assert manifest['kind'] == 'teacher' and manifest['command'].startswith('diffusionopd teach') and manifest['scores']['text']['n'] == 3
    write(tmp_path, edit(SMALL, tasks__text__teacher='mine', updates=1))
    opd.run(tmp_path, 'distill', 'recipe.yaml', '-q').ok()
    noted = strict((tmp_path/'run'/'student'/'manifest.json').read_text())['config']['teacher_hashes']
    assert noted['text'] == manifest['sha256']

def test_pretrain(opd, tmp_path):
    write(tmp_path, dict(updates=2, batch=4), 'b.yaml')
    opd.run(tmp_path, 'pretrain', 'b.yaml', '--out', 'base', '-q').ok()
    opd.run(tmp_path, 'sample', 'write 47 red', '--model', 'base', '--n', 1, '--steps', 2).ok()
    assert strict((tmp_path/'base'/'manifest.json').read_text())['kind'] == 'base'

@pytest.fixture(scope='module')
def shown(opd, tmp_path_factory):
    "The demo with four updates."
    folder = tmp_path_factory.mktemp('demo')
    opd.python(folder, '''
from diffusionopd.demo import demo, demo_recipe
small = dict(updates=4, batch=2, rollout=dict(steps=3), loss=dict(query='all'), evaluation=dict(every=2, n=2, final=0))
*_, results = demo(demo_recipe(out='demo', **small), n=3)
import json; print(json.dumps(results))''')
    return folder/'demo'

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
