"""What a GPU does: the same numbers as the CPU, what a large model takes, whether `diffusionopd plan` had said so, and half precision.

    python benchmarks/accelerator.py --json benchmarks/accelerator.json > benchmarks/accelerator.md

Wants a CUDA device. The large model has the size of Stable Diffusion 3.5 Medium and random weights, so that nothing is downloaded; it is written to a temporary
folder (6 GB). `--small` does all of it with a small one, on whatever device there is, to try the script."""
import argparse, gc, math, shutil

from common import *
from safetensors.torch import load_file, save_file
from diffusionopd.evaluate import own_device
from diffusionopd.plan import Machine, plan, said_bytes, timed
from diffusionopd.trainer import accumulate, step

# The same numbers as the CPU

def one_round(path, solver, eta):
    "A round of the demo's distillation, in float32, on the device of this process: losses of the states, and gradients, to a file."
    run = embedded(rollout=dict(steps=5, solver=solver, eta=float(eta)))
    records = accumulate(run, round_batch(run.recipe, run.sources, 0))
    save_file(dict(loss=torch.stack([r.loss.detach().float().cpu() for r in records])) | {k: p.grad.detach().cpu().contiguous() for k, p in run.params.items()}, path)
    return str(run.bb.device)

def agreement(folder, solver, eta):
    "That round on the CPU and here: the largest relative difference of a loss, and the gradients' difference over their norm."
    files = [folder/f'{where}-{solver}' for where in ('cpu', 'here')]
    places = [fresh(__file__, '--round', f, solver, eta, ACCELERATE_USE_CPU=str(int(f is files[0]))) for f in files]
    a, b = map(load_file, files)
    x, y, g, h = a.pop('loss'), b.pop('loss'), flat(a), flat(b)
    return dict(solver=solver, eta=eta, places=places, states=len(x), loss=float((y/x-1).abs().max()), gradient=float((g-h).norm()/g.norm()))

def losses(precision, n=20):
    "Losses of the first updates of the demo, and how many were left out."
    run = open_run(demo_recipe(merge_teachers=True, trackers=[], precision=precision))
    return dict(precision=precision, device=str(run.bb.device), losses=[getattr(step(run), 'loss', None) for _ in range(n)], skipped=run.skipped)

# A large model

MEDIUM = dict(num_layers=24, attention_head_dim=64, num_attention_heads=24, in_channels=16, out_channels=16, joint_attention_dim=4096, caption_projection_dim=1536,
              pos_embed_max_size=384, sample_size=64, dual_attention_layers=tuple(range(13)))  # Stable Diffusion 3.5 Medium at 512 pixels, 1,024 patches and 333 words
TINY = dict(SD3, sample_size=8)

def write_model(folder, size, rank=32, tasks=3):
    "A random base in bfloat16 and adapters of its teachers, in a folder; the base comes back."
    place = own_device()
    torch.manual_seed(0)
    with place: pipe = small_sd3(**size)
    pipe.to(torch.bfloat16).save_pretrained(folder/'base')
    del pipe
    (folder/'p.txt').write_text(''.join(f'a {c} {s}\n' for c in ('red', 'blue', 'green') for s in ('ring', 'disc', 'square', 'plus')))
    bb = load_backbone(str(folder/'base'), torch.bfloat16, place)
    for i in range(tasks):
        add_lora(bb, f't{i}', rank=rank, seed=i)
        for k, p in adapter_parameters(bb.net, f't{i}').items():
            if 'lora_B' in k: torch.nn.init.normal_(p, std=.02)
        save_adapter(bb, f't{i}', folder/f't{i}', Manifest('teacher', f't{i}'))
        remove(bb.net, f't{i}')
    return bb

def recipe_of(folder, tasks=3, rank=32, batch=4, **more):
    return make_recipe(DistillRecipe, dict(
        model=str(folder/'base'), model_dtype='bfloat16', precision='bf16', tasks={f't{i}': dict(prompts=str(folder/'p.txt'), teacher=str(folder/f't{i}')) for i in range(tasks)},
        rollout=dict(steps=10), student=dict(rank=rank), batch=batch, trackers=[], evaluation=dict(every=0, final=0)) | more)

def settle(device):
    if device.type == 'cuda': torch.cuda.synchronize(device)

def clocked(f, device):
    settle(device); start = time.perf_counter(); f(); settle(device)
    return time.perf_counter()-start

WAYS_OF = {'adapters': {}, 'merged teachers': dict(merge_teachers=True), 'two samples at a time': dict(micro_batch=2), 'checkpointing': dict(checkpointing=True),
           'guidance 4.5': dict(rollout=dict(steps=10, guidance=4.5)), 'twice the steps': dict(rollout=dict(steps=20))}

def planned(folder, more):
    "What `plan` says of a way."
    said = plan(recipe_of(folder, **more), Machine())
    return dict(planned=sum(said.memory['alone'].values()), parts=said.memory['alone'], flops=said.flops['update'], parameters=said.parameters, calls=said.calls)

def turns(run, repeats):
    "One pass and the reference loop, in turns."
    o, b, device = run.recipe.objective, round_batch(run.recipe, run.sources, 0), run.accelerator.device
    x, cond = run.bb.start(seeded(b.seeds)), condition(run.bb, b.prompts, b.tasks)
    def ask(how):
        with run.joint.autocast(run.accelerator): walk(how, run, x, make_steps(o, run.bb.sigmas(run.recipe.rollout.steps)), o, cond, b.seeds)
    taken = {how: [] for how in WAYS[:2]}
    for how in taken: ask(how)
    for i in range(repeats):
        for how in list(taken)[::1-2*(i % 2)]: taken[how].append(clocked(lambda: ask(how), device))
    return {k: spread(v) for k, v in taken.items()} | dict(ratio=over(taken[WAYS[1]], taken[WAYS[0]]))

def large(folder, bb, name, repeats):
    "One way of holding a run: the seconds of an update, and the most memory of one."
    r, device = recipe_of(folder, **WAYS_OF[name]), own_device()
    run = open_run(r, bb)
    for k, p in run.params.items():
        if 'lora_B' in k: torch.nn.init.normal_(p, std=.02)
    step(run)                                                                                 # kernels are chosen, moments made
    if device.type == 'cuda': torch.cuda.reset_peak_memory_stats()
    taken = [clocked(lambda: step(run), device) for _ in range(repeats)]
    out = dict(way=name, rows=r.batch*len(r.tasks), steps=r.rollout.steps, seconds=spread(taken), peak=torch.cuda.max_memory_allocated() if device.type == 'cuda' else math.nan)
    if name == 'adapters': out['ways'] = turns(run, repeats)
    del run
    for n in list(bb.net.peft_config): remove(bb.net, n)
    if r.checkpointing: bb.net.disable_gradient_checkpointing()
    gc.collect()
    if device.type == 'cuda': torch.cuda.empty_cache()
    return out

def fitting(folder, bb, name, repeats):
    "The same, or no numbers where the device has not the room."
    try: return large(folder, bb, name, repeats)
    except torch.OutOfMemoryError:
        for n in list(bb.net.peft_config): remove(bb.net, n)
        gc.collect(); torch.cuda.empty_cache()
        r = recipe_of(folder, **WAYS_OF[name])
        return dict(way=name, rows=r.batch*len(r.tasks), steps=r.rollout.steps, seconds=[math.nan]*3, peak=math.nan)

def matrices(n, repeats=20):
    "Operations a second of a large product of matrices in bfloat16: what the device reaches at best."
    device = own_device()
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3): a@b
    return 2*n**3*repeats/clocked(lambda: [a@b for _ in range(repeats)], device)

def device_name(): return torch.cuda.get_device_name() if own_device().type == 'cuda' else 'no GPU'

def report(r):
    first = r['large'][0]
    w = first['ways']
    return '\n\n'.join([f"Hardware: {r['device']}; {r['hardware']}. A product of matrices of 8,192 reaches {r['matrices']/1e12:.0f} Tflop/s in bfloat16.",
        '**The same numbers as the CPU**, one round of the demo in float32: relative differences', rows(['solver', 'eta', 'where', 'states', 'largest of a loss', 'of the gradient'],
            [[a['solver'], f"{a['eta']:g}", ' and '.join(a['places']), a['states'], f"{a['loss']:.1e}", f"{a['gradient']:.1e}"] for a in r['agree']]),
        f"**A large model**: {first['parameters']['base']:,} parameters, {first['parameters']['student']:,} of an adapter, three teachers, {first['rows']} samples an update, bfloat16; seconds of an update (quartiles), and memory",
        rows(['way', 'steps', 'update, s', 'Tflop', 'Tflop/s', 'peak', 'planned', 'peak over plan'],
            [[l['way'], l['steps'], between(l['seconds']), f"{l['flops']/1e12:.0f}", f"{l['flops']/1e12/l['seconds'][0]:.0f}", said_bytes(l['peak']), said_bytes(l['planned']), f"{l['peak']/l['planned']:.2f}"] for l in r['large']]),
        f"A forward of one sample takes {1000*r['forward']:.1f} ms (`timed`). One pass takes {between(w[WAYS[0]])} s, the reference loop {between(w[WAYS[1]])}: {between(w['ratio'])} times as long."])

def spoken(r):
    "Losses in half precision beside float32's: every third update."
    return '**Precision**: losses of the demo\n\n'+rows(['precision', *(f'update {i+1}' for i in range(0, 20, 3)), 'left out'],
        [[p['precision'], *(f'{l:.4f}' if l is not None else '' for l in p['losses'][::3]), p['skipped']] for p in r['precision']])

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--repeats', type=int, default=3, help='of each timing')
    a.add_argument('--small', action='store_true', help='a small model instead of a large one')
    a.add_argument('--plans', help='read the plans from this file where it exists, or write them to it: making them takes minutes and no GPU')
    a.add_argument('--plan-only', action='store_true', help='make the plans, and no more')
    a.add_argument('--losses', help=argparse.SUPPRESS)
    a.add_argument('--round', nargs=3, help=argparse.SUPPRESS)
    a = a.parse_args()
    if a.losses: return print(json.dumps(losses(a.losses)))
    if a.round: return print(json.dumps(one_round(*a.round)))
    if own_device().type != 'cuda' and not a.small and not a.plan_only: sys.exit('no CUDA device is here: --small tries the script with a small model')
    folder = Path(tempfile.mkdtemp())
    try:
        say('model'); bb = write_model(folder, TINY if a.small else MEDIUM)
        say('plans'); plans = json.loads(Path(a.plans).read_text()) if a.plans and Path(a.plans).exists() else {k: planned(folder, more) for k, more in WAYS_OF.items()}
        if a.plans: save(plans, a.plans)
        if a.plan_only: return
        out = []
        for name in WAYS_OF:
            out.append(fitting(folder, bb, name, a.repeats) | plans[name])
            say(f"{name}: {out[-1]['seconds'][0]:.2f} s, {said_bytes(out[-1]['peak'])}")
        measured = dict(forward=timed(recipe_of(folder)), matrices=matrices(8192 if not a.small else 256))
        del bb; say('agreement'); agree = [agreement(folder, *s) for s in (('euler', 0.), ('flow_sde', .7))]
        r = dict(device=device_name(), hardware=hardware(), repeats=a.repeats, agree=agree, large=out, **measured,
                 precision=[fresh(__file__, '--losses', p) for p in ('no', 'bf16', *['fp16']*(own_device().type == 'cuda'))])
    finally: shutil.rmtree(folder)
    save(r, a.json)
    print(report(r)+'\n\n'+spoken(r))

if __name__ == '__main__': main()
