"""What a process of several computes, for tests/test_parallel.py: gradients in float64, what was sent, whose rows."""
import json, os
from pathlib import Path

import torch
from safetensors.torch import save_file

from accelerate import Accelerator
from diffusionopd.adapters import adapter_field, adapter_parameters, add_lora
from diffusionopd.backbones import load_backbone, make_backbone, resize
from diffusionopd.miniatures import MINIATURES, miniature
from diffusionopd.parallel import Joint, full_tensor, join, shard, shares, spread
from diffusionopd.recipes import DistillRecipe
from diffusionopd.rollout import seeded
from diffusionopd.trainer import collect, examine, open_run, round_batch, step, summarise

KINDS = dict(ddp={}, fsdp=dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2'), deepspeed=dict(ACCELERATE_USE_DEEPSPEED='true', DS_ACCELERATOR='cpu'))
FULL = dict(student=dict(kind='full'), optimiser=dict(lr=1e-4))
CASES = dict(
    guided=dict(batch=3, micro_batch=2, rollout=dict(steps=3, guidance=2.)), # rows that two and four processes cannot share evenly
    drawn=dict(batch=4, rollout=dict(steps=4, solver='flow_sde', eta=.7), loss=dict(query='random', k=2)),
    turns=dict(batch=2, schedule='alternate', rollout=dict(steps=2)),        # four processes: two of them have no row of their own
    beyond=dict(batch=3, micro_batch=3, rollout=dict(steps=2), loss=dict(lam=1.2)),
    full=FULL | dict(batch=3, rollout=dict(steps=2), loss=dict(anchor=.1)),
    several=dict(batch=3, rollout=dict(steps=2, guidance=2.), loss=dict(matching='branches', gamma=.5, guidance=1.5))) # and the student's average teaches too

def recipe(base, teachers, **kw):
    tasks = {t: dict(prompts=f'embedded:{t}', teacher=path, reward='embedded', weight=w) for (t, path), w in zip(teachers.items(), (1., 3.))}
    if kw.get('loss', {}).get('matching'): tasks['text']['teacher'] = {teachers['text']: 2., 'average': dict(upto=.8)}
    plain = {} if kw.get('student', {}).get('kind') == 'full' else dict(student=dict(rank=4))
    return DistillRecipe(**dict(model=base, tasks=tasks, updates=4, trackers=[], evaluation=dict(every=0, n=5, final=0, steps=2)) | plain | kw)

def away(run):
    "Move the student a little away from the start, the same in every process."
    with torch.no_grad():
        for k, p in run.params.items():
            p.add_(spread(.02*torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(k))).to(p.dtype), p))
    return run

def sent(run):
    "Have DDP count the bytes that a process sends."
    out, world = [], run.accelerator.num_processes
    def meet(state, bucket):
        out.append(bucket.buffer().nbytes)
        return torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0]/world)
    if run.joint.kind == 'ddp': run.joint.net.outer.register_comm_hook(None, meet)
    return out

def case(name, base, teachers, out, dtype):
    r = recipe(base, teachers, **CASES[name])
    run = away(open_run(r, load_backbone(base, dtype)))
    acc, bytes_sent = run.accelerator, sent(run)
    b = round_batch(r, run.sources, 1, acc.process_index, acc.num_processes)
    seen, norm = collect(run, b)
    grads = {k: run.joint.gradient(p).clone() for k, p in run.params.items()}
    told = summarise(seen, 1, acc=acc)
    for _ in range(2): step(run)
    weights = {f'after/{k}': full_tensor(p.detach()).clone() for k, p in run.params.items()}
    scores = [[s.task, s.n, s.score, s.strict, s.low, s.high] for s in examine(run, 5)]
    save_file({k: v.contiguous() for k, v in (grads | weights).items()}, out/f'{name}-{acc.process_index}.safetensors')
    rows = [row for row in zip(b.tasks, b.prompts, b.seeds, b.weights)]
    (out/f'{name}-{acc.process_index}.json').write_text(json.dumps(dict(kind=run.joint.kind, norm=norm, told=told, rows=rows, sent=sum(bytes_sent),
        trained=sum(p.nbytes for p in run.params.values()), scores=scores, world=acc.num_processes)))

def process(rank, world, port, kind):
    "Make this a process of several, as a launcher would."
    ids = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({k: str(v) for k, v in ids.items()} if world > 1 else {}, ACCELERATE_USE_CPU='true', TORCH_CPP_LOG_LEVEL='ERROR')
    os.environ.update(KINDS[kind])

def main(rank, world, port, out, base, teachers, names, dtype='float64', kind='ddp'):
    process(rank, world, port, kind)
    Path(out).mkdir(exist_ok=True)
    for name in names: case(name, base, teachers, Path(out), getattr(torch, dtype))

# One network of each family, shared by two processes

def rows_of(cond, at):
    "Some rows of a condition."
    if isinstance(cond, dict): return {k: rows_of(c, at) for k, c in cond.items()}
    return [cond[i] for i in at] if isinstance(cond, list) else cond[at]

def made(name):
    "A tiny pipeline of a family with two adapters, in float64."
    size = 64 if name == 'sana' else 32
    bb = make_backbone(miniature(name))
    resize(bb, **{k: v for k, v in dict(height=16 if size == 32 else 64, width=size, frames=3).items() if k in bb.sizes})
    bb.net.double()
    for i, n in enumerate(('teacher', 'student')):
        add_lora(bb, n, 4, seed=i, trainable=n == 'student')
        with torch.no_grad():
            for k, p in adapter_parameters(bb.net, n).items(): p.copy_(.1*torch.randn(p.shape, generator=torch.Generator().manual_seed(i+len(k))))
    return bb

def window(bb, joint, part):
    "The student's gradient over two states of some of three rows, under guidance."
    student, teacher = bb.guided(adapter_field(bb, 'student', True, joint.net), 2.), adapter_field(bb, 'teacher')
    at, w = [i for i, _ in part], torch.tensor([w for _, w in part], dtype=torch.float64)
    x, cond = bb.start(seeded([1, 2, 3]))[at], rows_of(bb.encode(['a fish', 'two red rings', 'a']), at)
    for i, sigma in enumerate((.9, .5)):
        with joint.scope(i == 1): (w*(student(x, sigma, cond)-teacher(x, sigma, cond)).square().flatten(1).mean(1)).mean().backward()
    return {k: torch.zeros_like(full_tensor(p.detach())) if p.grad is None else joint.gradient(p) for k, p in adapter_parameters(bb.net, 'student').items()}

def families(rank, world, port, out, kind):
    "For each family, how far the gradient of several processes is from that of one."
    process(rank, world, port, kind)
    acc, found = Accelerator(cpu=True), {}
    for name in MINIATURES:
        alone, shared = made(name), made(name)
        one = window(alone, Joint('alone', alone.net), shares(3, 0, 1))
        if kind == 'fsdp': shard(shared.net, acc)
        two = window(shared, join(shared.net, acc, kind), shares(3, rank, world))
        found[name] = max(float((one[k]-two[k]).abs().max()/one[k].abs().max().clamp(min=1e-12)) for k in one)
    (Path(out)/f'families-{rank}.json').write_text(json.dumps(found))
