"Every kind of teacher and every way to match guidance, from a recipe to a student on disk; and what is refused before the first step."
import json

import pytest

from installed import edit, lines, write

WORLD = '''
import shutil, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from diffusionopd.adapters import DIFFUSERS_FILE, PEFT_FILE, Manifest, adapter_parameters, add_lora, save_adapter
from diffusionopd.backbones import load_backbone
from diffusionopd.miniatures import miniature

def pipe(name, of='sd3', seed=0, same=(), **config):
    p = miniature(of, seed)
    torch.manual_seed(seed)
    if config: p.transformer = type(p.transformer)(**{**p.transformer.config, **config})
    p.save_pretrained(name)
    for c in same: shutil.copytree(f'base/{c}', f'{name}/{c}', dirs_exist_ok=True)

pipe('base')
encoders = ('text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2')
pipe('large', seed=1, same=(*encoders, 'vae'), num_layers=3, num_attention_heads=4, caption_projection_dim=32)
pipe('foreign', seed=2, same=('vae',))
pipe('elsewhere', seed=3)                                              # another autoencoder
pipe('narrow', seed=4, same=encoders, in_channels=8, out_channels=8)
pipe('flux', of='flux')
bb = load_backbone('base')
for i, t in enumerate(('one', 'two')):
    add_lora(bb, t, rank=4, seed=i)
    with torch.no_grad():
        for k, p in adapter_parameters(bb.net, t).items(): p.normal_(0, .3, generator=torch.Generator().manual_seed(i))
    save_adapter(bb, t, t, Manifest('teacher', t))

def damaged(name, change, config=None):
    shutil.copytree('one', name)
    Path(name, 'manifest.json').unlink(); Path(name, DIFFUSERS_FILE).unlink()
    tensors = load_file(f'{name}/{PEFT_FILE}')
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, f'{name}/{PEFT_FILE}')
first = lambda t, part: next(k for k in sorted(t) if part in k)
damaged('lacking', lambda t: t.pop(first(t, 'lora_B')))
damaged('spare', lambda t: t.update({'base_model.model.nowhere.lora_A.weight': torch.ones(4, 8)}))
damaged('thin', lambda t: t.update({first(t, 'lora_A'): t[first(t, 'lora_A')][:2]}))
damaged('zero', lambda t: [v.zero_() for k, v in t.items() if 'lora_B' in k])
damaged('nan', lambda t: t[first(t, 'lora_A')].fill_(float('nan')))
damaged('faint', lambda t: [v.mul_(1e-8) for v in t.values()])
Path('pickled').mkdir(); torch.save(load_file(f'one/{PEFT_FILE}'), 'pickled/adapter_model.bin')
shutil.copytree('large/transformer', 'net'); shutil.copytree('narrow/transformer', 'narrow-net'); shutil.copytree('flux/transformer', 'flux-net'); shutil.copytree('base', 'twin')
shutil.copytree('net', 'net-pickled'); w = Path('net-pickled/diffusion_pytorch_model.safetensors'); torch.save(load_file(w), w.with_suffix('.bin')); w.unlink()
shutil.copytree('net', 'net-nan'); w = 'net-nan/diffusion_pytorch_model.safetensors'; t = load_file(w); next(iter(t.values())).fill_(float('nan')); save_file(t, w)
Path('own.py').write_text("""from diffusionopd.teachers import register_teacher
@register_teacher('still')
def still(bb, recipe): return lambda x, sigma, cond: 0*x
@register_teacher('itself')
def itself(bb, recipe):
    from diffusionopd.teachers import Teacher
    return Teacher(lambda x, sigma, cond: 0*x, net=bb.net)
""")
Path('p.txt').write_text(''.join(f'a red ring number {i}\\n' for i in range(20)))
'''

@pytest.fixture(scope='module')
def world(opd, tmp_path_factory):
    "Tiny SD3s that share latents, or do not; adapters, good ones and damaged ones."
    folder = tmp_path_factory.mktemp('world')
    opd.python(folder, WORLD)
    return folder

RECIPE = dict(model='base', tasks=dict(a=dict(prompts='p.txt', teacher='one'), b=dict(prompts='p.txt', teacher='two')), updates=3, batch=2,
              rollout=dict(steps=3), student=dict(rank=4), optimiser=dict(lr=5e-3, warmup=0, decay=1.), evaluation=dict(every=0, final=0), trackers=[])

def train(opd, world, name, **changes):
    "The log of a short run."
    opd.run(world, 'distill', write(world, edit(RECIPE, out=name, **changes), f'{name}.yaml'), '-q').ok()
    return lines(world/name/'log.jsonl')

KINDS = dict(
    adapters={}, merged=dict(merge_teachers=True, tasks__a__teacher_dtype='bfloat16'), large=dict(tasks__b__teacher='large'),
    words=dict(tasks__b__teacher='foreign', tasks__b__teacher_dtype='bfloat16', tasks__b__offload=True, cache='embeddings'),
    network=dict(tasks__a__teacher='net', tasks__b__teacher='net', tasks__b__guidance=2.),                 # one copy in memory, two tasks
    several=dict(tasks__a__teacher={'one': 1, 'large': dict(weight=2, upto=.7)}), anchored=dict(tasks__a__lam=.5, tasks__b__lam=1.3),
    folded=dict(tasks__a=dict(prompts='p.txt', teacher='base', guidance=4.), tasks__b=None),
    itself=dict(tasks__a=dict(prompts='p.txt', teacher='student', guidance=4.), tasks__b__teacher={'average': 1, 'two': 1}, tasks__b__guidance=2.),
    formula=dict(plugins=['own.py'], tasks__b__teacher='still'),
    branches=dict(rollout=dict(steps=3, guidance=3.), loss=dict(matching='branches', gamma=.5)), unlike=dict(rollout=dict(steps=3, guidance=3.), loss=dict(guidance=1.)),
    full=dict(student=dict(kind='full'), optimiser=dict(lr=1e-3, warmup=0, decay=1.), tasks__b__teacher='base', tasks__b__guidance=3.),
    checkpointed=dict(checkpointing=True, tasks__b__teacher='large'))

PROBE = """
import json, sys
from diffusionopd.recipes import load_recipe
from diffusionopd.runs import distill
from diffusionopd.trainer import accumulate, open_run, round_batch, split
from diffusionopd.checkpoints import restore
def distance(run): # of fixed rows, on the student's walk, without a step
    b = round_batch(run.recipe, run.sources, 1000)
    return sum(float(r.loss) for r in accumulate(run, b))
r = load_recipe('distill', NAME)
before = distance(open_run(r))
print(json.dumps([before, distance(restore(open_run(r), CHECKPOINT))]))
"""

@pytest.mark.parametrize('name', KINDS)
def test_teaches(name, opd, world):
    "A few updates bring the student closer to teachers of this kind on fixed rows, and leave a student and what taught it."
    log = train(opd, world, f'run-{name}', **(dict(updates=6, batch=4, checkpoint_every=0) | KINDS[name]))
    before, after = json.loads(opd.python(world, PROBE.replace('NAME', repr(f'run-{name}.yaml')).replace('CHECKPOINT', f"'run-{name}/checkpoint-000006'")))
    assert len(log) == 6 and after < .95*before, (before, after, [u['loss'] for u in log])
    said = json.loads((world/f'run-{name}'/'student'/'manifest.json').read_text())
    assert all(said['config']['teacher_hashes'].values()) and said['latents']['channels'] == 4

def test_checkpointing_changes_nothing(opd, world):
    "The log of a run whose blocks are computed twice, with teachers that switch adapters in between, is that of the other."
    plain, again = train(opd, world, 'plain'), train(opd, world, 'twice', checkpointing=True)
    for u, v in zip(plain, again): assert v['loss'] == pytest.approx(u['loss'], rel=1e-5) and v['norm'] == pytest.approx(u['norm'], rel=1e-4)

def test_kept_exactly(opd, world):
    "A whole model on the CPU, offloaded, answers as in its place; in bfloat16 nearly so."
    plain = train(opd, world, 'there', tasks__b__teacher='large')
    away = train(opd, world, 'away', tasks__b__teacher='large', tasks__b__offload=True)
    half = train(opd, world, 'half', tasks__b__teacher='large', tasks__b__teacher_dtype='bfloat16')
    assert [u['loss'] for u in away] == pytest.approx([u['loss'] for u in plain], rel=1e-6)
    assert half[0]['loss'] != plain[0]['loss'] and half[0]['loss'] == pytest.approx(plain[0]['loss'], rel=.02)

def test_average_goes_on(opd, world):
    "A student that its own average teaches is resumed where it was."
    how = dict(tasks__a=dict(prompts='p.txt', teacher='average', guidance=3.), checkpoint_every=1, optimiser=dict(lr=5e-3, warmup=0, decay=1., ema=.7))
    whole = train(opd, world, 'whole', updates=4, **how)
    write(world, edit(RECIPE, out='cut', updates=4, **how), 'cut.yaml')
    stop = opd.python(world, '''
from diffusionopd.recipes import load_recipe
from diffusionopd.runs import distill
from diffusionopd.trainer import Update
run = distill(load_recipe('distill', 'cut.yaml'))
for e in run:
    if isinstance(e, Update) and e.update == 2: break
run.close()
''')
    opd.run(world, 'distill', 'cut.yaml', '--resume', '-q').ok()
    assert [u['loss'] for u in lines(world/'cut'/'log.jsonl')] == [u['loss'] for u in whole]

REFUSED = dict(
    lacking='lacks 1 of', spare='no place for', thin='all layers must have one rank', zero='every lora_B is zero', nan='not finite', faint='answers like the base model',
    pickled='pickles among them', flux='latents have the shape', narrow='its network has 8 channels, its autoencoder 4', elsewhere='its latents have autoencoder', base='answers like the student',
    student='answers like the student', average='answers like the student', nowhere='there is no teacher', itself='holds weights that the optimiser trains')
REFUSED |= {'net-pickled': 'cannot be loaded', 'net-nan': 'not finite', 'narrow/transformer': 'its network has 8 channels', 'flux/transformer': 'latents have the shape', 'narrow-net': 'latents have channels 8, those of the run 4', 'flux-net': 'holds a FluxTransformer2DModel',
            'twin': 'holds the base itself'}

@pytest.mark.parametrize('teacher', REFUSED)
def test_refused(teacher, opd, world, tmp_path):
    "In one sentence that names the task, with exit code 2, and nothing is written."
    more = dict(plugins=['own.py'], student=dict(kind='full'), optimiser=dict(lr=1e-3), tasks__a__accept=['zero_gap']) if teacher == 'itself' else {}
    write(world, edit(RECIPE, tasks__a__teacher=teacher, out='refused', **more), 'refused.yaml')
    ended = opd.run(world, 'distill', 'refused.yaml', '-q')
    assert ended.code == 2 and REFUSED[teacher] in ended.stderr and 'Traceback' not in ended.stderr, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and not (world/'refused').exists()

@pytest.mark.parametrize('changes, says', [
    (dict(tasks__a__teacher_dtype='bfloat16'), 'teacher_dtype is for teachers with weights of their own'), (dict(tasks__a__offload=True), 'offload is for'),
    (dict(tasks__a__teacher={'one': dict(upto=.5)}), 'no member is asked at the noise level'), (dict(tasks__a__teacher={'one': 0}), 'must be above 0'),
    (dict(tasks__a__teacher='average', optimiser=dict(ema=0.)), 'set optimiser.ema above 0'), (dict(loss=dict(gamma=2.)), 'belongs to matching: branches'),
    (dict(tasks__a__accept=['everything']), "tasks.a.accept.0: input should be 'schedule'"), (dict(tasks__a__teacher={'one': dict(wieght=1)}), "did you mean 'weight'?"),
    (dict(model='flux', tasks__b=None, tasks__a__teacher='base', tasks__a__guidance=3., loss=dict(matching='branches')), 'has one branch')])
def test_settings_refused(changes, says, opd, world):
    write(world, edit(RECIPE, out='refused', **changes), 'refused.yaml')
    ended = opd.run(world, 'distill', 'refused.yaml', '-q')
    assert ended.code == 2 and says in ended.stderr and 'Traceback' not in ended.stderr and not (world/'refused').exists(), ended.stderr

def test_overridden(opd, world):
    "What looks like a mistake is let pass where the recipe says so."
    log = train(opd, world, 'accepted', tasks__a__teacher='elsewhere', tasks__a__accept=['latents'])
    assert len(log) == 3
    said = json.loads((world/'one'/'manifest.json').read_text())
    for key, value, what, words in (('base', '0'*16, 'base', 'was trained on base'), ('sigmas', [1., .99, .98, .97, 0.], 'schedule', 'another schedule'), ('latents', dict(scaling=9.), 'latents', 'scaling 9.0, those of the run 1.5')):
        (world/'one'/'manifest.json').write_text(json.dumps(said | {key: value}))
        try:
            ended = opd.run(world, 'distill', write(world, edit(RECIPE, out='unlike-run'), 'u.yaml'), '-q')
            assert ended.code == 2 and words in ended.stderr, ended.stderr
            assert len(train(opd, world, f'let-{what}', tasks__a__accept=[what])) == 3
        finally: (world/'one'/'manifest.json').write_text(json.dumps(said))

def test_a_start_is_a_teacher(opd, world):
    "A student that starts from its teacher says so."
    write(world, edit(RECIPE, out='started', student=dict(start='one')), 's.yaml')
    ended = opd.run(world, 'distill', 's.yaml', '-q')
    assert ended.code == 2 and 'accept: [zero_gap]' in ended.stderr
    assert len(train(opd, world, 'started', student=dict(start='one'), tasks__a__accept=['zero_gap'])) == 3
