"""What an update costs against tasks, steps, batch and rank; and the small points that a model of many devices rests on.

    python benchmarks/scaling.py --json diffusionopd/assets/scaling.json > benchmarks/scaling.md       # about five minutes on two cores

nbs/explanations/scaling.ipynb draws the numbers and builds the model."""
import argparse, json
from datetime import timedelta

import torch.distributed as dist
import torch.multiprocessing as mp

from common import *
from diffusionopd.trainer import step

BASE = dict(tasks=3, steps=4, batch=4, rank=8)

def make(tasks, steps, batch, rank, merge=True, kind='lora'):
    student = dict(kind='full') if kind == 'full' else dict(targets=demo_recipe().student.targets, rank=rank)
    return embedded(merge, tasks, batch=batch, steps=steps, student=student, loss=dict(query='all'))

# Cost against one setting at a time

def sweep(name, values, repeats):
    "Seconds of an update, the other settings as in `BASE`; every size takes its turn."
    runs = {v: make(**BASE | {name: v}) for v in values}
    taken = interleave({v: (lambda r=r: step(r)) for v, r in runs.items()}, repeats)
    return [dict(value=v, seconds=spread(taken[v]), bytes=weight(r)) for v, r in runs.items()]

def held(opt): return sum(t.numel()*t.element_size() for s in opt.state.values() for t in s.values() if torch.is_tensor(t))

def weight(run):
    "Bytes that an update has beside the base: trained weights, their gradients, the optimiser's state, the average."
    size = lambda ts: sum(t.numel()*t.element_size() for t in ts)
    return dict(weights=size(run.params.values()), gradients=size(p.grad for p in run.params.values() if p.grad is not None), optimiser=held(run.opt),
                average=size(run.ema.shadow_params) if run.ema else 0, base=size(p for n, p in run.bb.net.named_parameters() if 'lora_' not in n))

def passes(repeats):
    "Forward and backward of the student, as adapter and as whole network; what a forward leaves for its backward; what a switch costs."
    out = {}
    for kind in ('lora', 'full'):
        run = make(**BASE, kind=kind)
        x, cond, _ = questions(run)
        s = float(run.kernels[0].sigma)
        def forward():
            with torch.no_grad(): run.student(x, s, cond)
        def both(): run.student(x, s, cond).square().mean().backward()
        taken = interleave(dict(forward=forward, both=both), 3*repeats)
        out[kind] = dict(backward_over_forward=spread([b/f-1 for f, b in zip(taken['forward'], taken['both'])]), forward=spread(taken['forward']))
        step(run)
        out[kind] |= weight(run)
        own, saved = {p.untyped_storage().data_ptr() for p in run.bb.net.parameters()}, {}
        kept = []
        def keep(t):
            if t.untyped_storage().data_ptr() not in own: saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); kept.append(t)
            return t
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): run.student(x, s, cond)
        d = describe(run)
        h, w = run.bb.latent_shape()[1:]
        tokens = h*w//run.bb.net.config.patch_size**2+cond['states'].shape[1]
        out[kind] |= dict(saved=sum(saved.values()), tokens=tokens, factor=sum(saved.values())/(len(x)*tokens*d['width']*d['layers']*4), **d)
    run = make(**BASE, merge=False)
    with use(run.bb.net, 'student'): pass
    def there():
        with use(run.bb.net, 'teacher_text'): pass
    def stay():
        with use(run.bb.net, 'student'): pass
    taken = interleave({'to another adapter and back': there, 'to the one that is active': stay}, 10*repeats)
    return out, {k: spread(v) for k, v in taken.items()}

# Processes

def timed(f, repeats):
    "Seconds of a collective call, the slowest process counts."
    out = []
    for _ in range(repeats+1):
        dist.barrier()
        t = torch.tensor(seconds(f, cpu=False))
        dist.all_reduce(t, dist.ReduceOp.MAX)
        out.append(float(t))
    return spread(out[1:])

def reduces(shapes, repeats):
    "All-reduce of gradients of these shapes: parameter by parameter, and as one piece."
    ps = [torch.zeros(s) for s in shapes]
    one = torch.zeros(sum(p.numel() for p in ps))
    def packed():
        flat = torch.cat([p.flatten() for p in ps])
        dist.all_reduce(flat)
        for p, v in zip(ps, flat.split([p.numel() for p in ps])): p.copy_(v.view_as(p))
    return dict(tensors=len(ps), bytes=4*len(one), each=timed(lambda: [dist.all_reduce(p) for p in ps], repeats), one=timed(packed, repeats))

def rings(repeats):
    "All-reduce against size, for a line of latency and bandwidth."
    return [dict(bytes=4*n, seconds=timed(lambda t=torch.zeros(n): dist.all_reduce(t), repeats)) for n in (1, 2**14, 2**17, 2**20, 2**22)]

def grads_of(net, x, cond):
    net.zero_grad()
    out = net(x, cond['states'], cond['pooled'], torch.full((len(x),), 500.), return_dict=False)[0]
    out.square().mean().backward()

def sharded(repeats):
    "The embedded network in FSDP2's shards, a unit for each block: its gradient beside the whole network's, its collectives, its time."
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.debug import CommDebugMode
    bb = load_backbone('embedded')
    net, cond, x = bb.net.requires_grad_(True), bb.encode(['write 47 red']*4), bb.start(seeded(range(4)))
    grads_of(net, x, cond)
    whole = {k: p.grad.clone() for k, p in net.named_parameters()}
    alone_, mesh = timed(lambda: grads_of(net, x, cond), repeats), init_device_mesh('cpu', (dist.get_world_size(),))
    blocks = [sum(p.numel() for p in b.parameters()) for b in net.transformer_blocks]
    for b in net.transformer_blocks: fully_shard(b, mesh=mesh)
    fully_shard(net, mesh=mesh)
    grads_of(net, x, cond)
    apart = max(float((p.grad.full_tensor()-whole[k]).abs().max()/whole[k].abs().max().clamp(min=1e-12)) for k, p in net.named_parameters())
    count = {}
    def forward():
        with torch.no_grad(): net(x, cond['states'], cond['pooled'], torch.full((len(x),), 500.), return_dict=False)
    for name, f in dict(forward=forward, both=lambda: grads_of(net, x, cond)).items():
        with CommDebugMode() as seen: f()
        count[name] = {str(getattr(k, '__name__', k)).split('.')[-1]: v for k, v in seen.get_comm_counts().items()}
    local = sum(p.to_local().numel() for p in net.parameters())
    total, world = sum(g.numel() for g in whole.values()), dist.get_world_size()
    shard = torch.zeros(-(-total//world))
    piece = torch.zeros(world*len(shard))
    return dict(units=len(blocks)+1, parameters=total, local=local, apart=apart, collectives=count, whole=alone_, shards=timed(lambda: grads_of(net, x, cond), repeats),
                gather=timed(lambda: dist.all_gather_into_tensor(piece, shard), repeats), scatter=timed(lambda: dist.reduce_scatter_tensor(shard, piece), repeats))

def process(rank, world, store, out, shapes, repeats):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=world, store=dist.FileStore(store, world), timeout=timedelta(seconds=120))
    found = dict(processes=world, reduces={k: reduces(s, repeats) for k, s in shapes.items()}, rings=rings(repeats))
    if world == 2: found['fsdp'] = sharded(repeats)
    if rank == 0: Path(out).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()

def processes(world, repeats):
    shapes = {k: [tuple(p.shape) for p in make(**BASE, kind=k).params.values()] for k in ('lora', 'full')}
    with tempfile.TemporaryDirectory() as d:
        mp.spawn(process, (world, f'{d}/store', f'{d}/out', shapes, repeats), nprocs=world)
        return json.loads(Path(f'{d}/out').read_text())

# Report

def report(r):
    ms = lambda v: between([1000*s for s in v], '{:.2f}')
    parts = [f"Hardware: {r['hardware']}. Base setting: {', '.join(f'{k} {v}' for k, v in r['base'].items())}."]
    for name, points in r['sweeps'].items():
        parts += [f'**An update against {name}**', rows([name, 'ms', 'trained weights, MiB', 'gradients, MiB', 'optimiser, MiB'], [[p['value'], ms(p['seconds']), *(mib(p['bytes'][k]) for k in ('weights', 'gradients', 'optimiser'))] for p in points])]
    parts += ['**Passes**', rows(['student', 'backward over forward', 'saved for a backward, MiB', 'per token, channel and block', 'gradients, bytes', 'optimiser, bytes'],
              [[k, between(p['backward_over_forward']), mib(p['saved']), f"{p['factor']:.1f}", f"{p['gradients']:,}", f"{p['optimiser']:,}"] for k, p in r['passes'].items()]),
              'Switching an adapter, ms: '+', '.join(f'{k} {ms(v)}' for k, v in r['switch'].items())+'.',
              '**All-reduce of gradients** over gloo, ms', rows(['processes', 'student', 'tensors', 'bytes', 'one by one', 'as one piece'],
              [[p['processes'], k, v['tensors'], f"{v['bytes']:,}", ms(v['each']), ms(v['one'])] for p in r['processes'] for k, v in p['reduces'].items()]),
              '**All-reduce against size**, ms', rows(['bytes', *(f"{p['processes']} processes" for p in r['processes'])], [[f"{v[0]['bytes']:,}", *(ms(x['seconds']) for x in v)] for v in zip(*(p['rings'] for p in r['processes']))])]
    f = next(p['fsdp'] for p in r['processes'] if 'fsdp' in p)
    parts += [f"**FSDP2**, the whole embedded network on 2 processes in {f['units']} units: {f['local']:,} of {f['parameters']:,} parameters on the first; gradients {f['apart']:.1e} apart from the whole network's. "
              f"Collectives of a forward {f['collectives']['forward']}, of forward and backward {f['collectives']['both']}. Forward and backward {ms(f['shards'])} ms against {ms(f['whole'])} ms unsharded; "
              f"one all-gather of everything {ms(f['gather'])} ms, one reduce-scatter {ms(f['scatter'])} ms."]
    return '\n\n'.join(parts)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--repeats', type=int, default=5, help='of each timing')
    a = a.parse_args()
    sizes, sweeps = dict(tasks=(1, 2, 3, 4, 5, 6), steps=(2, 4, 8, 16), batch=(1, 2, 4, 8, 16), rank=(2, 8, 32, 128)), {}
    for name, values in sizes.items(): say(name); sweeps[name] = sweep(name, values, a.repeats)
    say('passes'); p, switch = passes(a.repeats)
    say('processes'); found = [processes(n, a.repeats) for n in (2, 4)]
    r = dict(hardware=hardware(), repeats=a.repeats, base=BASE, sweeps=sweeps, passes=p, switch=switch, processes=found)
    save(r, a.json)
    print(report(r))

if __name__ == '__main__': main()
