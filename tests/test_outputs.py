"What a user gets out: students in fresh pipelines, whole pipelines, cards, grids, tables, plans."
import csv, json, os

import pytest, yaml
from PIL import Image

from installed import SMALL, edit, lines, write
from test_families import BUILD

FAMILIES = 'sd3', 'flux', 'flux2', 'flux2-klein', 'qwen-image', 'z-image', 'sana', 'wan', 'sd', 'sdxl'
NIGHT = bool(os.environ.get('NIGHTLY')) # CI asks some families, the night all
SOME = FAMILIES if NIGHT else ('sd3', 'flux2-klein', 'wan', 'sdxl')
SIZES = dict.fromkeys(('flux', 'flux2', 'flux2-klein', 'qwen-image', 'z-image'), dict(height=16, width=32)) | dict(wan=dict(height=16, width=32, frames=5))

RUN = '''
import torch
from diffusionopd.adapters import module_field
from diffusionopd.backbones import load_backbone
from diffusionopd.checkpoints import export_student
from diffusionopd.evaluate import paint
from diffusionopd.export import export_merged
from diffusionopd.recipes import DistillRecipe, make_recipe
from diffusionopd.runs import painted
from diffusionopd.trainer import open_run, train
size, task = {size!r}, lambda t: dict(prompts='p.txt', teacher=t)
r = make_recipe(DistillRecipe, dict(model='base', tasks=dict(left=task('left'), right=task('right')), rollout=dict(steps=4, guidance=2.), updates=2, batch=1, trackers=[], optimiser=dict(lr=.05, warmup=0),
                                    student=dict(rank=3), evaluation=dict(every=0, final=0, steps=3, pictures=2), out='run', **size))
run = open_run(r)
list(train(run))
seen = painted(run)                                   # the pictures of the trainer's own evaluations
export_student(run, 'run/student')
def paints(bb):
    from diffusionopd.evaluate import exam
    field = module_field(bb, bb.net)
    return {{t: paint(bb, field, *exam(s, 2, r.evaluation.seed), r.evaluation.steps, r.rollout.guidance, batch=r.evaluation.batch) for t, s in run.sources.items()}}
fresh = load_backbone('base', **size)
before = paints(fresh)
fresh.pipe.load_lora_weights('run/student')
after = paints(fresh)
for t, (_, images) in seen.items(): torch.testing.assert_close(after[t], images, rtol=0, atol=1e-6) # equal bits, but where a processor sums in another order when weights lie elsewhere
moved = min(float((before[t]-after[t]).abs().max()) for t in before)
export_merged('run', 'whole')
whole = paints(load_backbone('whole', **size))
off = max(float((whole[t]-after[t]).abs().max()) for t in whole)
assert off < 2e-4 and off < .1*moved, (off, moved)
'''

@pytest.mark.parametrize('name', SOME)
def test_the_same_pictures(name, opd, tmp_path):
    "A run's student in a fresh pipeline paints the pictures of the run's own evaluation, to the last digits; merged, to rounding."
    size = SIZES.get(name, {})
    opd.python(tmp_path, BUILD.format(name=name, size=size))
    opd.python(tmp_path, RUN.format(size=size))
    assert not [p for p in tmp_path.rglob('*') if '.part' in p.name]

PLANNED = '''
import torch
from diffusionopd.backbones import load_backbone
from diffusionopd.miniatures import miniature
from diffusionopd.plan import network_bytes, outline, sketch
size = {size!r}
miniature({name!r}).save_pretrained('base')
shapes = lambda cond: outline(cond, lambda t: tuple(t.shape))
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    real, drawn = load_backbone('base', dtype, **size), sketch('base', dtype, **size)
    assert network_bytes(drawn.net) == network_bytes(real.net), dtype
    for k, m in drawn.parts.items(): assert network_bytes(m) == network_bytes(getattr(real.pipe, k)), (k, dtype)
    if dtype == torch.float32: assert shapes(drawn.encode(['a', 'two discs'])) == shapes(real.encode(['a', 'two discs']))
'''

@pytest.mark.parametrize('name', SOME)
def test_planned_bytes(name, opd, tmp_path):
    "Parameters of every part, to the byte in three precisions, and the shapes of conditions, without loading weights."
    opd.python(tmp_path, PLANNED.format(name=name, size=SIZES.get(name, {})))

@pytest.mark.parametrize('name', ['flux', 'qwen-image', 'z-image', 'sana', 'wan', 'sdxl'] if NIGHT else ['qwen-image', 'wan'])
def test_planned_run(name, opd, tmp_path):
    "Forwards of a plan are those of the run's log, by the command line; the weights are not looked at."
    size = SIZES.get(name, {})
    opd.python(tmp_path, BUILD.format(name=name, size=size))
    guided = {} if name == 'flux2-klein' else dict(guidance=2.)
    write(tmp_path, dict(model='base', tasks={t: dict(prompts='p.txt', teacher=t) for t in ('left', 'right')}, rollout=dict(steps=4) | guided, loss=dict(query='drop_last'), updates=2, batch=2, micro_batch=3,
                         evaluation=dict(every=0, final=0, pictures=0), trackers=[], checkpointing=True, out='run') | size)
    opd.run(tmp_path, 'plan', 'recipe.yaml', '--devices', 2, '--out', 'plan.json').ok()
    for f in (tmp_path/'base').rglob('*.safetensors'): f.rename(f.with_suffix('.kept'))
    again = opd.run(tmp_path, 'plan', 'recipe.yaml', '--out', 'alone.json').ok()
    for f in (tmp_path/'base').rglob('*.kept'): f.rename(f.with_suffix('.safetensors'))
    opd.run(tmp_path, 'distill', 'recipe.yaml', '-q').ok()
    said = json.loads((tmp_path/'alone.json').read_text())
    assert said['total']['student']+said['total']['teachers'] == lines(tmp_path/'run'/'log.jsonl')[-1]['forwards']
    assert '| memory of a device | alone |' in again.stdout and set(json.loads((tmp_path/'plan.json').read_text())['memory']) == {'ddp', 'zero1', 'zero2', 'fsdp'}

def test_what_a_plan_refuses(opd, tmp_path):
    write(tmp_path, edit(SMALL, model='some/model'))
    for args, says in ((('plan', 'recipe.yaml'), "there is no folder 'some/model' here; if it is a name of the hub, get its configuration, hf download some/model"), (('plan', 'recipe.yaml', '--model', 'embedded', '--utilisation', 2), 'no device reaches more than its peak'),
                       (('plan', 'none.yaml'), 'there is no recipe'), (('plan', 'recipe.yaml', '--out', 'p.csv'), '--out writes .json or .md')):
        ended = opd.run(tmp_path, *args)
        assert ended.code == 2 and says in ended.stderr and 'Traceback' not in ended.stderr, ended.stderr

def test_export(student, opd, tmp_path):
    "Adapter, card and figures; a whole pipeline; the same pictures by the command line."
    folder, _ = student
    said = opd.run(folder, 'export', 'run', '--folder', tmp_path/'adapter', '--merged', tmp_path/'whole', '--licence', 'mit').ok()
    assert said.stdout.split() == [str(tmp_path/'adapter'), str(tmp_path/'whole')]
    text = (tmp_path/'adapter'/'README.md').read_text()
    head = yaml.safe_load(text.split('---')[1])
    assert head['license'] == 'mit' and 'lora' in head['tags'] and '| text |' in text and '95 % interval' in text
    assert {p.name for p in (tmp_path/'adapter'/'figures').iterdir()} == {'curves.png', 'divergence.png', 'samples_000045.png'}
    assert 'Unset: nobody has said' in (folder/'run'/'student'/'README.md').read_text()
    for name, args in (('a', ['-a', folder/'run'/'student']), ('b', ['-a', tmp_path/'adapter']), ('c', ['--model', tmp_path/'whole'])):
        opd.run(tmp_path, 'sample', 'write 47 red', '-n', 2, '--steps', 3, '--guidance', 1, '--out', f'{name}.png', *args).ok()
    a, b, c = (list(Image.open(tmp_path/f'{n}.png').convert('RGB').getdata()) for n in 'abc')
    assert a == b and max(abs(p-q) for x, y in zip(a, c) for p, q in zip(x, y)) <= 1
    for args, says in ((('run', '--merged', tmp_path/'whole'), 'is there already'), (('nowhere', '--merged', tmp_path/'x'), 'there is no run'), (('run', '--merged', tmp_path/'x', '--model', tmp_path/'whole'), 'was trained on base'),
                       (('run', '--push-to-hub', 'me/it'), 'HF_HUB_OFFLINE is set'), (('run',), 'nothing was asked for')):
        ended = opd.run(folder, 'export', *args)
        assert ended.code == 2 and says in ended.stderr and 'Traceback' not in ended.stderr, ended.stderr
    assert not (tmp_path/'x').exists() and not list(tmp_path.glob('.*'))

def test_grids(student, opd):
    "Every evaluation left a grid, as a file and in TensorBoard."
    folder, _ = student
    names = [f'samples_{u:06d}.png' for u in (0, 15, 30, 45)]
    assert sorted(p.name for p in (folder/'run'/'figures').glob('samples_*')) == names
    assert Image.open(folder/'run'/'figures'/names[0]).size == Image.open(folder/'run'/'figures'/names[3]).size
    steps = opd.python(folder, '''
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
e = EventAccumulator('run/tensorboard/diffusionopd', size_guidance=dict(images=0)); e.Reload()
print(*[i.step for i in e.Images('samples')])''')
    assert steps.split() == ['0', '15', '30', '45']

def test_evaluate_sets(student, opd, tmp_path):
    "Adapters x tasks x scales x steps: one table, one grid; and the divergence at fixed states."
    folder, _ = student
    ended = opd.run(folder, 'evaluate', '-a', 'run/student', '-t', 'text', '-t', 'aesthetics', '-n', 2, '--guidance', '1,2', '--steps', '2,3', '--batch', 2, '--device', 'cpu', '-q', '--out', tmp_path/'s.csv',
                    '--grid', tmp_path/'g.png', '--fixed-kl', 'run/recipe.json', '--walks', 2).ok()
    rows = list(csv.DictReader((tmp_path/'s.csv').open()))
    assert [(r['model'], r['steps'], r['guidance'], r['task']) for r in rows] == [(m, k, w, t) for m in ('base', 'run/student') for k in '23' for w in ('1.0', '2.0') for t in ('text', 'aesthetics')]
    assert '| run/student, euler 3 steps, guidance 2 |' in ended.stdout and 'KL at the states of the teacher' in ended.stdout
    grid = Image.open(tmp_path/'g.png')
    assert grid.height > grid.width/2
    for args, says in ((['--guidance', '1;2'], '--guidance takes finite numbers'), (['--steps', '0'], '--steps takes whole numbers'), (['--device', 'toaster'], "--device 'toaster'"), (['--grid', 'g.jpg'], '--grid must be a .png'),
                       (['--out', 's.txt'], '--out writes'), (['--height', '8'], 'have no height to choose'), (['--fixed-kl', 'none.json'], 'there is no recipe')):
        ended = opd.run(folder, 'evaluate', '-t', 'text', '-n', 2, '--steps', 1, '-q', *args) if args[0] != '--steps' else opd.run(folder, 'evaluate', '-t', 'text', '-n', 2, '-q', *args)
        assert ended.code == 2 and says in ended.stderr and 'Traceback' not in ended.stderr, (args, ended.stderr)

def test_sizes(opd, tmp_path):
    "`sample` paints the size that is asked for."
    opd.python(tmp_path, BUILD.format(name='flux', size=dict(height=16, width=16)))
    opd.run(tmp_path, 'sample', 'a fish', '--model', 'base', '-a', 'left', '-n', 1, '--steps', 1, '--height', 16, '--width', 48, '--device', 'cpu', '--out', 'a.png').ok()
    image = Image.open(tmp_path/'a.png')
    assert image.width > 2*image.height
