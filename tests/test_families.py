"Models of every family, from a folder on disk to a student in a fresh pipeline, by the command line."
import json, os

import pytest

from installed import lines

FAMILIES = ['SD3', 'SD3.5 Medium', 'FLUX.1 dev', 'FLUX.1 schnell', 'FLUX.2', 'FLUX.2 klein', 'FLUX.2 klein, distilled', 'Qwen-Image', 'Z-Image', 'Sana', 'Wan 2.1',
            'SD 1.5', 'SD 2, v', 'SDXL', 'SDXL, v']

def test_all_families(opd, tmp_path):
    "Nobody is left out: the list is the survey's, and it has a pipeline of every backbone."
    code = '''
import importlib, json
from diffusionopd.backbones import BACKBONES, LATER
from diffusionopd.miniatures import built
from diffusionopd.survey import FAMILIES
for m in LATER: importlib.import_module(f'diffusionopd.{m}')
print(json.dumps([list(FAMILIES), sorted({type(built(f.make)).__name__ for f in FAMILIES.values()}), sorted(BACKBONES)]))'''
    names, pipelines, known = json.loads(opd.python(tmp_path, code))
    assert names == FAMILIES and pipelines == [k for k in known if k != 'PixelPipeline']

# CI goes the whole way with every fourth family, the night with all: NIGHTLY=1 pytest tests/test_families.py
@pytest.mark.parametrize('name', FAMILIES if os.environ.get('NIGHTLY') else FAMILIES[::4])
def test_whole_way(name, opd, tmp_path):
    """Conformance; two LoRA teachers and two whole ones on disk; a run of three updates with each pair; and each student in a fresh pipeline, by load_lora_weights.
    On a fixed probe the loss has fallen. (The logged losses are of other prompts and other noise each, and may rise.)"""
    far = json.loads(opd.python(tmp_path, f'import json; from diffusionopd.survey import set_out; print(json.dumps(set_out({name!r}, ".")))'))
    assert len(far) == 4 and all(.3 <= v < .45 for v in far.values()), far
    for kind in ('lora', 'whole'):
        opd.run(tmp_path, 'distill', f'{kind}.yaml', '-q').ok()
        assert [u['update'] for u in lines(tmp_path/f'run-{kind}'/'log.jsonl')] == [1, 2, 3]
    row = json.loads(opd.python(tmp_path, f'import json; from dataclasses import asdict; from diffusionopd.survey import examined; print(json.dumps(asdict(examined({name!r}, "."))))'))
    assert max(row['teachers'].values()) < 1e-5 and row['bf16'] < .1
    for kind, (off, moved) in row['students'].items(): assert off < 1e-5 and moved > 1e-3, (kind, off, moved)
    for kind, l in row['learnt'].items(): assert l['after'] < .995*l['before'], (kind, l)

def test_absent_family(opd, tmp_path):
    "A family that the installed diffusers lacks is reported; the others go on."
    code = '''
import diffusers
del diffusers._class_to_module['Flux2Transformer2DModel']
from diffusionopd.survey import set_out, survey, table_of
row = survey('FLUX.2', 'flux2')
print(table_of([row]).splitlines()[-1])
print(set_out('SD3', 'sd3').keys() >= {'lora-left'})'''
    said = opd.python(tmp_path, code).splitlines()
    assert said[0].startswith('| FLUX.2 | the installed diffusers ') and 'lacks something of flux2' in said[0] and said[1] == 'True'

# Files of other trainers

KOHYA = '''
import torch
from safetensors.torch import save_file
from diffusionopd.adapters import load_adapter, target_layers
from diffusionopd.backbones import family_of
from diffusionopd.errors import Refusal
from diffusionopd.miniatures import built
from diffusionopd.survey import FAMILIES
pipe = built(FAMILIES[{name!r}].make)
bb = family_of(pipe)(pipe)
plain, g, state, want = dict(bb.net.named_modules()), torch.Generator().manual_seed(0), {{}}, {{}}
for n in sorted({{n for names in target_layers(bb.net, bb.lora_targets).values() for n in names}}):
    down, up = .1*torch.randn(4, plain[n].in_features, generator=g), .1*torch.randn(plain[n].out_features, 4, generator=g)
    key, want[n] = {prefix!r}+n.replace('.', {between!r}), .5*up@down                              # alpha over rank is a half
    state |= {{f'{{key}}.lora_down.weight': down, f'{{key}}.lora_up.weight': up, f'{{key}}.alpha': torch.tensor(2.)}}
import pathlib
pathlib.Path('mine').mkdir(); save_file(state, 'mine/pytorch_lora_weights.safetensors')
try: load_adapter(bb, 'k', 'mine')
except Refusal as e: print('refused:', e)
else:
    at = dict(bb.net.named_modules())
    print(max(float((at[n].scaling['k']*at[n].lora_B['k'].weight@at[n].lora_A['k'].weight-w).norm()/w.norm()) for n, w in want.items()))
'''

@pytest.mark.parametrize('name, prefix', [('FLUX.1 dev', 'lora_transformer_'), ('Qwen-Image', 'lora_unet_'), ('Qwen-Image', 'diffusion_model.'), ('Z-Image', 'lora_unet_'),
                                          ('Z-Image', 'diffusion_model.'), ('SD 1.5', 'lora_unet_'), ('SDXL', 'lora_unet_')])
def test_kohya_is_read(name, prefix, opd, tmp_path):
    "Where diffusers converts kohya's names, every layer gets its change at its strength, alpha over rank."
    said = opd.python(tmp_path, KOHYA.format(name=name, prefix=prefix, between='.' if prefix.endswith('.') else '_'))
    assert not said.startswith('refused') and float(said) < 1e-5, said

@pytest.mark.parametrize('name, prefix', [('SD3', 'lora_unet_'), ('FLUX.1 dev', 'lora_unet_'), ('FLUX.2', 'lora_unet_'), ('Sana', 'lora_unet_'), ('Wan 2.1', 'lora_unet_'), ('SDXL', 'lora_transformer_')])
def test_kohya_is_refused(name, prefix, opd, tmp_path):
    "Where it does not, the file is refused by name; it is never read in part."
    said = opd.python(tmp_path, KOHYA.format(name=name, prefix=prefix, between='_'))
    assert said.startswith('refused: mine') and 'pytorch_lora_weights.safetensors' in said, said

def test_kohya_alpha_is_not_lost(opd, tmp_path):
    said = opd.python(tmp_path, KOHYA.format(name='FLUX.1 dev', prefix='transformer.', between='.'))
    assert said.startswith('refused') or float(said) < 1e-5, said

# With noise in the walk, exact KL weights, and guided teachers

BUILD = '''
import torch
from diffusionopd.adapters import Manifest, adapter_parameters, add_lora, save_adapter
from diffusionopd.backbones import load_backbone
from diffusionopd.miniatures import miniature
miniature({name!r}).save_pretrained('base')
for seed, name in enumerate(('left', 'right'), 1):
    bb = load_backbone('base', **{size!r})
    add_lora(bb, name, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k, p in adapter_parameters(bb.net, name).items():
            if 'lora_B' in k: p.copy_(.3*torch.randn(p.shape, generator=g))
    save_adapter(bb, name, name, Manifest('teacher', name, sigmas=tuple(bb.sigmas(4).tolist()), guidance=3.))
open('p.txt', 'w').write('a red ring\\ntwo blue discs\\na fish, \\u9b5a\\n')
'''

RECIPE = '''
model: base
tasks:
  left: {{prompts: p.txt, teacher: left}}
  right: {{prompts: p.txt, teacher: right}}
rollout: {{solver: {solver}, eta: {eta}, steps: 4}}
loss: {{weighting: kl, query: drop_last}}
optimiser: {{lr: 0.01, warmup: 0}}
evaluation: {{every: 0, final: 0}}
updates: {updates}
batch: 2
out: run
{size}
'''

LOADS = '''
import torch
from diffusionopd.backbones import load_backbone
pipe = load_backbone('base', **{size!r})
ask = pipe.request(prompt=['a fish'], generator=[torch.Generator().manual_seed(0)], num_inference_steps=3, guidance_scale=3.)
before = pipe.pipe(**ask, output_type='pt')[0]
ask = pipe.request(prompt=['a fish'], generator=[torch.Generator().manual_seed(0)], num_inference_steps=3, guidance_scale=3.)
pipe.pipe.load_lora_weights('run/student')
print(float((pipe.pipe(**ask, output_type='pt')[0]-before).abs().max()))
'''

WAYS = [('sd3', {}, 'flow_sde', .7, 12), ('flux', dict(height=16, width=32), 'cps', .5, 3), ('wan', dict(height=16, width=32, frames=3), 'flow_sde', .7, 3),
        ('sdxl', {}, 'flow_sde', .7, 3)]

@pytest.mark.parametrize('name, size, solver, eta, updates', WAYS, ids=[w[0] for w in WAYS])
def test_distil(opd, tmp_path, name, size, solver, eta, updates):
    "Two guided teachers, a walk with noise, exact KL weights: the loss falls, and the pipeline loads the student."
    opd.python(tmp_path, BUILD.format(name=name, size=size))
    sizes = '\n'.join(f'{k}: {v}' for k, v in size.items())
    (tmp_path/'r.yaml').write_text(RECIPE.format(solver=solver, eta=eta, updates=updates, size=sizes))
    opd.run(tmp_path, 'distill', 'r.yaml', '--quiet').ok()
    losses = [json.loads(line)['loss'] for line in (tmp_path/'run'/'log.jsonl').read_text().splitlines()]
    assert len(losses) == updates and (updates < 12 or sum(losses[-3:]) < .9*sum(losses[:3])), losses
    assert float(opd.python(tmp_path, LOADS.format(size=size))) > 1e-4

def test_wrong_sizes(opd, tmp_path):
    "A size that the model cannot paint is refused before anything is written."
    opd.python(tmp_path, BUILD.format(name='flux', size=dict(height=16, width=16)))
    for size, says in (('height: 18', 'height: FluxBackbone paints whole patches of 4 pixels'), ('frames: 5', 'no frames to choose'), ('width: 0', 'width')):
        (tmp_path/'r.yaml').write_text(RECIPE.format(solver='euler', eta=0, updates=3, size=size))
        ended = opd.run(tmp_path, 'distill', 'r.yaml')
        assert ended.code == 2 and says in ended.stderr and 'Traceback' not in ended.stderr, ended.stderr
        assert not (tmp_path/'run').exists()
