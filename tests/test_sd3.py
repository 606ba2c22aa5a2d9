"A pipeline of another family, from a folder on disk: the path that a user's Stable Diffusion 3 takes, with tiny random weights."
import json


BUILD = '''
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from diffusionopd.adapters import Manifest, adapter_parameters, add_lora, save_adapter
from diffusionopd.backbones import load_backbone
from diffusionopd.pipeline import VOCABULARY, make_tokenizer
def clip(): return CLIPTextModelWithProjection(CLIPTextConfig(
    vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=77, pad_token_id=0, bos_token_id=1, eos_token_id=2))
torch.manual_seed(0)
net = SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
    joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=8, qk_norm='rms_norm')
vae = AutoencoderKL(
    block_out_channels=(8, 8), down_block_types=('DownEncoderBlock2D',)*2, up_block_types=('UpDecoderBlock2D',)*2,
    latent_channels=4, norm_num_groups=4, sample_size=16, shift_factor=.06, scaling_factor=1.5)
tok = make_tokenizer(); tok.model_max_length = 77
StableDiffusion3Pipeline(net, FlowMatchEulerDiscreteScheduler(shift=3.), vae, clip(), tok, clip(), tok, None, None).save_pretrained('base')
for seed, name in enumerate(('left', 'right'), 1):
    bb = load_backbone('base')
    add_lora(bb, name, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k, p in adapter_parameters(bb.net, name).items():
            if 'lora_B' in k: p.copy_(.1*torch.randn(p.shape, generator=g))
    save_adapter(bb, name, name, Manifest('teacher', name, sigmas=tuple(bb.sigmas(4).tolist()), guidance=3.))
open('p.txt', 'w').write('draw red ring\\nwrite 47 blue\\nflag red blue down\\n')
'''

RECIPE = '''
model: base
tasks:
  left: {prompts: p.txt, teacher: left}
  right: {prompts: p.txt, teacher: right}
rollout: {solver: flow_sde, eta: 0.7, steps: 4}
loss: {weighting: kl, query: drop_last}
optimiser: {lr: 0.01, warmup: 0}
evaluation: {every: 0, final: 0}
updates: 12
batch: 2
out: run
'''

LOADS = '''
import torch
from diffusers import StableDiffusion3Pipeline
pipe = StableDiffusion3Pipeline.from_pretrained('base', text_encoder_3=None, tokenizer_3=None)
pipe.set_progress_bar_config(disable=True)
def paint(): return pipe('draw red ring', num_inference_steps=4, guidance_scale=3., height=16, width=16, output_type='pt', generator=torch.Generator().manual_seed(0)).images
before = paint()
pipe.load_lora_weights('run/student')
print(float((paint()-before).abs().max()))
'''

def test_distil_sd3(opd, tmp_path):
    "Two guided teachers, a Flow-SDE walk, exact KL weights: the loss falls, and diffusers loads the student."
    opd.python(tmp_path, BUILD)
    (tmp_path/'r.yaml').write_text(RECIPE)
    opd.run(tmp_path, 'distill', 'r.yaml', '--quiet').ok()
    losses = [json.loads(line)['loss'] for line in (tmp_path/'run'/'log.jsonl').read_text().splitlines()]
    assert len(losses) == 12 and sum(losses[-3:]) < .9*sum(losses[:3]), losses
    assert float(opd.python(tmp_path, LOADS)) > 1e-4
