"""What the recipes for large models take, by `diffusionopd plan`: the columns of recipes/README.md.

    python benchmarks/recipes.py                 every recipe; a table, a line a recipe
    python benchmarks/recipes.py flux-dev        those whose name has this in it

No weights are loaded and nothing is fetched. Each model is a folder of configurations, those of the released pipelines written down by hand on the miniature's tokenizers, as in
nbs/24h_plan.ipynb; the parameters of the networks are checked against the released ones. Prompts are three captions. Teachers that are adapters are not here and are taken to be of
the student's rank. The rate is that which `plan` assumes: 15 % of 989 Tflop/s, an H100."""
import json, os, shutil, sys, tempfile
from pathlib import Path

os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error'); os.environ.setdefault('DIFFUSERS_VERBOSITY', 'error')
import transformers, yaml
from diffusionopd.miniatures import miniature
from diffusionopd.plan import Machine, plan, said_bytes, said_time
from diffusionopd.recipes import DistillRecipe, make_recipe
from diffusionopd.report import markdown

RECIPES = Path(__file__).parent.parent/'recipes'
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768, vocab_size=49408)
CLIP_G = dict(hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280, vocab_size=49408)
T5 = dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj='gated-gelu', is_gated_act=True, dense_act_fn='gelu_new')
VAE = dict(block_out_channels=[128, 256, 512, 512], down_block_types=['DownEncoderBlock2D']*4, up_block_types=['UpDecoderBlock2D']*4, norm_num_groups=32, sample_size=1024, layers_per_block=2)
SD3 = dict(sample_size=128, in_channels=16, out_channels=16, joint_attention_dim=4096, pooled_projection_dim=2048, attention_head_dim=64)
MODELS = { # name in the recipes -> miniature, parts, parameters of the network as released
    'stabilityai/stable-diffusion-3.5-medium': ('sd3', dict(transformer=dict(SD3, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, dual_attention_layers=list(range(13))),
                                                           text_encoder=CLIP_L, text_encoder_2=CLIP_G, text_encoder_3=T5, vae=dict(VAE, latent_channels=16)), 2_243_171_520),
    'stabilityai/stable-diffusion-3.5-large': ('sd3', dict(transformer=dict(SD3, num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, dual_attention_layers=[]),
                                                          text_encoder=CLIP_L, text_encoder_2=CLIP_G, text_encoder_3=T5, vae=dict(VAE, latent_channels=16)), 8_056_627_520),
    'black-forest-labs/FLUX.1-dev': ('flux', dict(transformer=dict(num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24, in_channels=64, joint_attention_dim=4096, pooled_projection_dim=768,
                                                                  guidance_embeds=True, axes_dims_rope=[16, 56, 56]), text_encoder=CLIP_L, text_encoder_2=T5, vae=dict(VAE, latent_channels=16)), 11_901_408_320),
    'stabilityai/stable-diffusion-xl-base-1.0': ('sdxl', dict(unet=dict(sample_size=128, in_channels=4, out_channels=4, block_out_channels=[320, 640, 1280], down_block_types=['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
                                                                       up_block_types=['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'], transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20],
                                                                       cross_attention_dim=2048, addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, use_linear_projection=True, layers_per_block=2, norm_num_groups=32),
                                                             text_encoder=CLIP_L, text_encoder_2=CLIP_G, vae=dict(VAE, latent_channels=4)), 2_567_463_684)}

def configured(name, folder):
    "The configuration of a released pipeline in a folder."
    mini, parts, _ = MODELS[name]
    miniature(mini).save_pretrained(folder)
    for file in folder.rglob('*.safetensors'): file.unlink()
    index = json.loads((folder/'model_index.json').read_text())
    for part, new in parts.items():
        path = folder/part/'config.json'
        if new is T5:
            transformers.T5Config(**T5).save_pretrained(folder/part)
            own = folder/part.replace('text_encoder', 'tokenizer')
            if not own.exists(): shutil.copytree(folder/'tokenizer', own)
            index |= {part: ['transformers', 'T5EncoderModel'], own.name: index.get(own.name) if (index.get(own.name) or [None])[0] else index['tokenizer']}
        else: path.write_text(json.dumps(json.loads(path.read_text()) | new))
    (folder/'model_index.json').write_text(json.dumps(index))
    return str(folder)

def planned(file, where):
    "Memory of a device and hours of a recipe, on one device and on eight. One holds what each of eight holds by DDP, and takes eight times as long: `plan` counts no messages in its time."
    settings = yaml.safe_load((RECIPES/file).read_text())
    (where/'prompts.txt').write_text('a red fish\na blue fish\na cup on a table\n')
    here = lambda name: configured(name, where/name.split('/')[1]) if not (where/name.split('/')[1]).exists() else str(where/name.split('/')[1])
    count, settings['model'] = MODELS[settings['model']][2], here(settings['model'])
    for task, s in settings['tasks'].items(): s |= dict(prompts=str(where/'prompts.txt'), teacher=here(s['teacher']) if s['teacher'] in MODELS else f'{where}/none/{task}')
    r = make_recipe(DistillRecipe, settings)
    c, rows = plan(r, Machine(8)), r.batch*len(r.tasks)
    assert count in (c.parameters['base'], c.parameters['student']), (file, c.parameters)
    assert rows % 8 == 0 and rows//8 >= r.micro_batch, f'{file}: eight devices have other micro-batches than one'
    room = lambda kind: said_bytes(sum(c.memory[kind].values())) + ('' if c.fits[kind] else ' (too much)')
    return [room('ddp'), said_time(8*c.seconds['update']), said_time(8*c.seconds['total']), room('fsdp'), said_time(c.seconds['update']), said_time(c.seconds['total'])]

if __name__ == '__main__':
    rows, asked = [], sys.argv[1:] or ['']
    for file in sorted((p.name for p in RECIPES.glob('*.yaml')), key=lambda f: ('large' in f, 'flux' in f, f)):
        if 'stabilityai/' not in (text := (RECIPES/file).read_text()) and 'black-forest' not in text or not any(a in file for a in asked): continue
        with tempfile.TemporaryDirectory() as d: rows.append([file, *planned(file, Path(d))])
        print(rows[-1], file=sys.stderr, flush=True)
    print(markdown(['recipe', 'GB of a device, alone or by DDP', 'an update on 1', 'the run on 1', 'GB of each of 8 by FSDP2', 'an update on 8', 'the run on 8'], rows))
