"The recipes that ship: what they say, and that they run, with the model replaced by a tiny one of the same classes."
import json, re
from pathlib import Path

import pytest, yaml

from installed import edit, lines, write

root = Path(__file__).parent.parent/'recipes'
SHIPPED = sorted(p.name for p in root.glob('*.yaml'))
WORLD = {'three-teachers.yaml', 'teach-aesthetics.yaml', 'teach-composition.yaml', 'teach-text.yaml', 'joint.yaml'}

def test_listed():
    "The list of recipes names each, and nothing else."
    assert set(re.findall(r'\((\S+\.yaml)\)', (root/'README.md').read_text(encoding='utf8'))) == set(SHIPPED)

@pytest.mark.parametrize('name', SHIPPED)
def test_valid(name, opd, tmp_path):
    "Read as the command reads it; what is out of date is refused."
    kind = 'teach' if name.startswith(('teach', 'joint')) else 'distill'
    assert opd.python(tmp_path, f'from diffusionopd.recipes import load_recipe; print(load_recipe({kind!r}, {str(root/name)!r}).out)').startswith('runs/')

def test_paper(opd, tmp_path):
    "The hyperparameters of the paper's main run, as the paper and its official code have them."
    said = json.loads(opd.python(tmp_path, f'from diffusionopd.recipes import load_recipe; print(load_recipe("distill", {str(root/"sd35-medium-three-teachers.yaml")!r}).model_dump_json())'))
    student, rollout, loss, o = said['student'], said['rollout'], said['loss'], said['optimiser']
    assert (said['model'], said['height'], said['width'], said['precision']) == ('stabilityai/stable-diffusion-3.5-medium', 512, 512, 'fp16')
    assert (student['kind'], student['rank'], student['alpha']) == ('lora', 32, 64)
    assert set(student['targets']) == {f'attn.{n}' for n in ('to_q', 'to_k', 'to_v', 'to_out.0', 'add_q_proj', 'add_k_proj', 'add_v_proj', 'to_add_out')}
    assert (rollout['solver'], rollout['eta'], rollout['steps'], rollout['guidance']) == ('euler', 0, 10, 4.5)
    assert (loss['weighting'], loss['query'], loss['k'], loss['lam'], loss['anchor']) == ('mean', 'drop_last', None, 1, 0)   # equation (12), 9 of 10 steps
    assert (o['lr'], o['warmup'], o['decay'], o['betas'], o['weight_decay'], o['clip']) == (3e-4, 0, 1, [.9, .999], 1e-4, 1) and abs(o['ema']**8-.9) < .002
    assert (said['schedule'], said['batch']*len(said['tasks']), said['micro_batch']) == ('round', 72, 3) and said['evaluation']['steps'] == 40 and said['evaluation']['every'] == 30
    assert {t: v['guidance'] for t, v in said['tasks'].items()} == {'geneval': 1, 'ocr': 4.5, 'aesthetics': 4.5}

# A tiny pipeline of the classes of the model that a recipe names, and what stands beside it: adapters as peft writes them, or a larger model.
BUILD = '''
import peft, torch
from diffusionopd.backbones import load_backbone
from diffusionopd.miniatures import built, miniature, small_sd3
make = {make}
built(make).save_pretrained('base')
targets = {targets!r}
for i, name in enumerate({names!r}, 1):
    if {larger!r}:
        pipe = built(lambda: small_sd3(num_layers=3, num_attention_heads=3, caption_projection_dim=24), 5)
        pipe.register_modules(vae=load_backbone('base').pipe.vae) # one autoencoder, as Large and Medium have
        pipe.save_pretrained(name)
        continue
    net, g = load_backbone('base').net, torch.Generator().manual_seed(i)
    net = peft.get_peft_model(net, peft.LoraConfig(r=32, lora_alpha=64, init_lora_weights='gaussian', target_modules=targets))
    with torch.no_grad():
        for k, p in net.named_parameters():
            if 'lora_B' in k: p.copy_(.01*torch.randn(p.shape, generator=g))
    net.save_pretrained(name)
'''
ATTENTION = ['attn.to_q', 'attn.to_k', 'attn.to_v', 'attn.to_out.0', 'attn.add_q_proj', 'attn.add_k_proj', 'attn.add_v_proj', 'attn.to_add_out']
MEDIUM = 'lambda: small_sd3(dual_attention_layers=(0,))'
TINY = {
    'sd35-medium-three-teachers.yaml': (MEDIUM, ATTENTION, False),
    'sd35-medium-one-teacher.yaml': (MEDIUM, ATTENTION, False),
    'sd35-large-to-medium.yaml': (MEDIUM, None, True),
    'flux-dev-two-teachers.yaml': ('lambda: miniature("flux")', ATTENTION, False),
    'sdxl-two-teachers.yaml': ('lambda: miniature("sdxl")', ['to_q', 'to_k', 'to_v', 'to_out.0'], False)}
CLASS = {'stabilityai/stable-diffusion-3.5-medium': 'StableDiffusion3Pipeline', 'black-forest-labs/FLUX.1-dev': 'FluxPipeline',
         'stabilityai/stable-diffusion-xl-base-1.0': 'StableDiffusionXLPipeline'}

def test_all_are_run(): assert set(TINY) == set(SHIPPED)-WORLD

@pytest.mark.parametrize('name', TINY)
def test_runs(name, opd, tmp_path):
    "Two updates and an evaluation; only places, sizes and numbers of pictures are changed, and half precision, which a CPU has not."
    make, targets, larger = TINY[name]
    r = yaml.safe_load((root/name).read_text(encoding='utf8'))
    for t, task in r['tasks'].items():
        task |= dict(prompts=f'{t}.txt', teacher=f'teacher-{t}')
        (tmp_path/f'{t}.txt').write_text(f'{t} a red ring\n{t} two blue discs\n{t} a fish\n')
    opd.python(tmp_path, BUILD.format(make=make, targets=targets, names=[t['teacher'] for t in r['tasks'].values()], larger=larger))
    assert json.loads((tmp_path/'base'/'model_index.json').read_text())['_class_name'] == CLASS[r['model']]
    small = dict(model='base', model_dtype='float32', height=16, width=16, batch=2, micro_batch=1, updates=2, precision='no', out='run')
    write(tmp_path, edit(dict(r, **small), evaluation=dict(r['evaluation'], every=0, n=2, final=2)))
    opd.run(tmp_path, 'distill', 'recipe.yaml', '-q').ok()
    log = lines(tmp_path/'run'/'log.jsonl')
    assert len(log) == 2 and all(0 < u['loss'] < float('inf') and set(u['gap']) == set(r['tasks']) and min(u['gap'].values()) > 0 for u in log)
    asked = {'drop_last': r['rollout']['steps']-1, 'first': 2}[r['loss']['query']]
    assert len(log[0]['steps']) == asked
    if r['student'].get('kind') == 'full': assert json.loads((tmp_path/'run'/'student'/'manifest.json').read_text())['kind'] == 'student'
    else:
        config = json.loads((tmp_path/'run'/'student'/'adapter_config.json').read_text())
        assert (config['r'], config['lora_alpha']) == (r['student']['rank'], r['student']['alpha'])
        load = "from diffusionopd.backbones import load_pipeline; p = load_pipeline('base'); p.load_lora_weights('run/student'); print(*p.get_list_adapters())"
        assert opd.python(tmp_path, load) in ('transformer', 'unet')
