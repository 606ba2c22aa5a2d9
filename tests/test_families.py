"Models of other families, from a folder on disk to a student in a fresh pipeline, by the command line."
import json

import pytest

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
