"Two and four processes compute what one computes: DDP and FSDP2, on the CPU, by gloo."
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file

import ranks
from installed import SMALL, edit, lines, write
from test_resume import WEIGHTS, log_of

HERE = str(Path(__file__).resolve().parent)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

MODEL = '''
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusionopd.adapters import Manifest, adapter_parameters, add_lora, save_adapter
from diffusionopd.backbones import load_backbone
from diffusionopd.pipeline import PixelPipeline, make_text_encoder, make_tokenizer, make_transformer
torch.manual_seed(0)
PixelPipeline(make_transformer(layers=2, heads=1), FlowMatchEulerDiscreteScheduler(), make_text_encoder(), make_tokenizer()).save_pretrained('base')
bb = load_backbone('base')
for i, t in enumerate(('text', 'composition')):
    add_lora(bb, t, rank=4, seed=i)
    with torch.no_grad():
        for p in adapter_parameters(bb.net, t).values(): p.copy_(.3*torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    save_adapter(bb, t, t, Manifest('teacher', t))
'''

@pytest.fixture(scope='module')
def model(opd, tmp_path_factory):
    "A small untrained base and two random teachers."
    folder = tmp_path_factory.mktemp('model')
    opd.python(folder, MODEL)
    return folder

def computed(opd, model, out, world, names, dtype='float64', kind='ddp'):
    "What every one of several processes found, case by case."
    port, teachers = free_port(), {t: str(model/t) for t in ('text', 'composition')}
    code = f'import sys; sys.path.insert(0, {HERE!r}); import ranks; ranks.main(RANK, {world}, {port}, {str(out)!r}, {str(model/"base")!r}, {teachers!r}, {names!r}, {dtype!r}, {kind!r})'
    for process in [opd.start(model, code=code.replace('RANK', str(rank))) for rank in range(world)]: process.end().ok()
    return {n: [(load_file(out/f'{n}-{r}.safetensors'), json.loads((out/f'{n}-{r}.json').read_text())) for r in range(world)] for n in names}

@pytest.fixture(scope='module')
def alone(opd, model, tmp_path_factory):
    return {dtype: {n: got[0] for n, got in computed(opd, model, tmp_path_factory.mktemp('alone')/dtype, 1, [*ranks.CASES], dtype).items()} for dtype in ('float64', 'float32')}

def far(a, b):
    "Largest difference of an element, over the largest element of its tensor."
    return max(float((a[k]-b[k]).abs().max()/b[k].abs().max().clamp(min=1e-12)) for k in b)

TOLERANCE = dict(float64=1e-6, float32=1e-5) # of gradients, norms and numbers of the log; weights are looked at in float64, since Adam divides by the size of a gradient

SETTINGS = [('ddp', 2, 'float64'), ('fsdp', 2, 'float64'), ('ddp', 4, 'float64'), ('fsdp', 2, 'float32'), ('deepspeed', 2, 'float32')]
NIGHT = [('fsdp', 4, 'float64'), ('ddp', 2, 'float32')] if os.environ.get('NIGHTLY') else [] # and all of them by equality.py

@pytest.mark.parametrize('kind,world,dtype', SETTINGS+NIGHT)
def test_as_one(opd, model, alone, tmp_path, record_property, kind, world, dtype):
    "Gradients, norms, rows, numbers of the log, weights after two updates, and scores are those of one process."
    if kind == 'deepspeed': pytest.importorskip('deepspeed')
    names, worst = [*ranks.CASES], 0.
    got = computed(opd, model, tmp_path/'out', world, names, dtype, kind)
    for n in names:
        one, said = alone[dtype][n]
        for tensors, told in got[n]:
            assert (told['kind'], told['world']) == (kind, world)
            grads = {k: v for k, v in one.items() if not k.startswith('after/')}
            worst = max(worst, distance := far(tensors, grads))
            assert distance <= TOLERANCE[dtype], (n, distance)
            assert told['norm'] == pytest.approx(said['norm'], rel=TOLERANCE[dtype])
            assert told['told']['loss'] == pytest.approx(said['told']['loss'], rel=TOLERANCE[dtype])
            for k in 'gap', 'kl', 'surrogate':
                for t in said['told'][k]: assert told['told'][k][t] == pytest.approx(said['told'][k][t], rel=TOLERANCE[dtype])
            assert told['told']['steps'] == said['told']['steps']
            if dtype == 'float64': assert far({k: v for k, v in tensors.items() if 'after/' in k}, {k: v for k, v in one.items() if 'after/' in k}) < 1e-4
            for mine, theirs in zip(told['scores'], said['scores'], strict=True):
                assert mine[:2] == theirs[:2] and mine[2:] == pytest.approx(theirs[2:], abs=1e-4)
            assert all(torch.equal(tensors[k], got[n][0][0][k]) for k in tensors)       # and every process has the same
            assert kind != 'ddp' or told['sent'] == 3*told['trained']                           # three windows, whatever their number of backwards
        real = [row[:3] for _, told in got[n] for row in told['rows'] if row[3]]
        assert sorted(real) == sorted(row[:3] for row in said['rows'])                  # every sample once, with the same noise
        assert len({len(told['rows']) for _, told in got[n]}) == 1
    record_property('largest relative difference', worst)
    print(f'{kind}, {world} processes, {dtype}: {worst:.1e}')

@pytest.mark.parametrize('kind', ['ddp', 'fsdp'] if os.environ.get('NIGHTLY') else ['fsdp'])
def test_every_family(opd, tmp_path, kind):
    "The networks of ten families, whole or sharded, give two processes the gradient of one; three rows are shared."
    port = free_port()
    code = f'import sys; sys.path.insert(0, {HERE!r}); import ranks; ranks.families(RANK, 2, {port}, {str(tmp_path)!r}, {kind!r})'
    for process in [opd.start(tmp_path, code=code.replace('RANK', str(rank))) for rank in range(2)]: process.end().ok()
    found = [json.loads((tmp_path/f'families-{rank}.json').read_text()) for rank in range(2)]
    assert len(found[0]) >= 10 and all(distance < 1e-6 for f in found for distance in f.values()), found

# Whole runs, as accelerate launches them

def launch(folder, *args, world=2, fsdp=False, home=None, wait=True):
    "The command that the launch guide gives, on the CPU."
    how = ['--use_fsdp', '--fsdp_version', '2'] if fsdp else ['--multi_gpu']
    start = ['-m', 'diffusionopd'] if home is None else [str(Path(HERE)/'strangers.py')]
    command = [sys.executable, '-m', 'accelerate.commands.launch', *how, '--num_processes', str(world), '--num_machines', '1', '--mixed_precision', 'no',
               '--dynamo_backend', 'no', '--main_process_port', str(free_port()), *start, 'distill', 'recipe.yaml', '-q', *args]
    env = dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', HOMES=home or '')
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return (process.returncode, *outs) if wait and (outs := process.communicate(timeout=600)) else process

def alike(one, two):
    "Is a run of several processes that of one, to float32's rounding through some updates?"
    for a, b in zip(log_of(one), log_of(two), strict=True):
        for k in 'loss', 'norm': assert a[k] == pytest.approx(b[k], rel=1e-3)
        for t in a['kl']: assert a['kl'][t] == pytest.approx(b['kl'][t], rel=1e-2)
    for a, b in zip(lines(one/'scores.jsonl'), lines(two/'scores.jsonl'), strict=True):
        assert (a['task'], a['n'], a['update']) == (b['task'], b['n'], b['update']) and a['score'] == pytest.approx(b['score'], abs=1e-2)
    a, b = (load_file(run/'student'/WEIGHTS) for run in (one, two))
    assert a.keys() == b.keys() and far(a, b) < .05
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())

WHOLE = edit(SMALL, batch=3, updates=5, checkpoint_every=2, evaluation=dict(every=3, n=3, final=3, steps=2))

@pytest.fixture(scope='module')
def whole(opd, tmp_path_factory):
    "The run of one process."
    folder = tmp_path_factory.mktemp('whole')
    write(folder, WHOLE)
    opd.run(folder, 'distill', 'recipe.yaml', '-q').ok()
    return folder/'run'

@pytest.mark.parametrize('world,fsdp', [(4, True)]+[(2, False)]*bool(os.environ.get('NIGHTLY'))) # the launch guide, which test_docs runs, has the other
def test_launched(whole, tmp_path, world, fsdp):
    "`accelerate launch` makes one run of several processes, with one set of files; it says so once."
    write(tmp_path, WHOLE)
    code, out, err = launch(tmp_path, world=world, fsdp=fsdp)
    assert code == 0, err
    assert out.count('Student: ') == 1
    alike(whole, tmp_path/'run')

def test_sharded_resumes_exactly(opd, whole, tmp_path):
    "Sharded over two processes, stopped through its launcher, moved and resumed: the bytes of one that nobody stopped. Its checkpoint also serves one process."
    for name in 'straight', 'stopped': (tmp_path/name).mkdir(); write(tmp_path/name, WHOLE)
    assert launch(tmp_path/'straight', fsdp=True)[0] == 0
    process, log = launch(tmp_path/'stopped', fsdp=True, wait=False), tmp_path/'stopped'/'run'/'log.jsonl'
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b'\n') >= 1): time.sleep(.002)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert 'Stopped by SIGTERM; go on with' in err and any((tmp_path/'stopped'/'run').glob('checkpoint-*')), err
    at = max(int(p.name[-6:]) for p in (tmp_path/'stopped'/'run').glob('checkpoint-*'))
    assert 0 < at < 5
    for name in 'moved', 'single':
        subprocess.run(['cp', '-r', tmp_path/'stopped', tmp_path/name], check=True)
    assert launch(tmp_path/'moved', '--resume', fsdp=True)[0] == 0
    straight, moved = tmp_path/'straight'/'run', tmp_path/'moved'/'run'
    assert (straight/'student'/WEIGHTS).read_bytes() == (moved/'student'/WEIGHTS).read_bytes() and log_of(straight) == log_of(moved)
    assert lines(straight/'scores.jsonl') == lines(moved/'scores.jsonl')
    opd.run(tmp_path/'single', 'distill', 'recipe.yaml', '-q', '--resume').ok()
    alike(whole, tmp_path/'single'/'run')

def test_full_student_sharded(opd, tmp_path):
    "All weights trained and sharded: the pipeline that is saved loads in one piece, and is that of one process."
    small = edit(WHOLE, updates=2, student=dict(kind='full'), optimiser=dict(lr=1e-4, warmup=0), evaluation=dict(every=0, final=0))
    for name in 'one', 'two': (tmp_path/name).mkdir(); write(tmp_path/name, small)
    opd.run(tmp_path/'one', 'distill', 'recipe.yaml', '-q').ok()
    code, _, err = launch(tmp_path/'two', fsdp=True)
    assert code == 0, err
    a, b = (load_file(tmp_path/n/'run'/'student'/'transformer'/'diffusion_pytorch_model.safetensors') for n in ('one', 'two'))
    assert a.keys() == b.keys() and far(b, a) < 1e-2
    opd.python(tmp_path, f"from diffusionopd.backbones import load_backbone\nload_backbone({str(tmp_path/'two'/'run'/'student')!r})")

def test_one_cannot_load(tmp_path):
    "A teacher that one of four processes does not find stops all of them, with one message, and nothing is written."
    import diffusionopd.backbones as B
    there = tmp_path/'here'/'teacher'
    there.parent.mkdir(); (tmp_path/'nowhere').mkdir()
    subprocess.run(['cp', '-r', str(B.asset('teachers', 'text')), there], check=True)
    write(tmp_path, edit(WHOLE, tasks=dict(text=dict(prompts='embedded:text', teacher='~/teacher'))))
    homes = [str(tmp_path/'here')]*2+[str(tmp_path/'nowhere'), str(tmp_path/'here')]
    code, out, err = launch(tmp_path, world=4, home=os.pathsep.join(homes))
    said = [line for line in err.splitlines() if line.startswith('Error: ')]
    assert code != 0 and len(said) == 1 and 'process 2 of 4: tasks.text.teacher: there is no teacher' in said[0] and '[rank' not in err, err
    assert not (tmp_path/'run').exists()

STALE = """
import os
from diffusionopd.errors import refuse
from diffusionopd.evaluate import REWARDS, reward
plain = REWARDS['embedded']
@reward('elsewhere')
def elsewhere(images, prompts):
    if os.environ.get('RANK') == '1' and elsewhere.asked > 1: os._exit(9) # in the second evaluation
    elsewhere.asked += 1
    return plain(images, prompts)
elsewhere.asked = 0
"""

def test_one_dies(tmp_path):
    "A process that dies ends the others, with a sentence and a checkpoint."
    (tmp_path/'stale.py').write_text(STALE)
    small = edit(WHOLE, evaluation=dict(every=3, n=2, final=2, steps=2), checkpoint_every=0)
    tasks = {t: dict(s, reward='elsewhere') for t, s in small['tasks'].items()}
    write(tmp_path, dict(small, tasks=tasks, plugins=['stale.py']))
    code, _, err = launch(tmp_path)
    assert code != 0 and 'another process of this run ended' in err, err
    assert (tmp_path/'run'/'checkpoint-000003').is_dir()                                 # which the main process saved by itself
