"What the benchmarks share: two worlds to measure on, the ways to a gradient, bare calls, a clock that takes turns, memory, tables."
import json, os, platform, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')

from diffusionopd.cli import quieten
quieten()
import torch
from diffusionopd.adapters import Manifest, adapter_parameters, add_lora, load_adapter, merged, remove, save_adapter, use
from diffusionopd.backbones import load_backbone
from diffusionopd.demo import demo_recipe
from diffusionopd.distill import one_pass, supervise
from diffusionopd.fields import spread as spread_rows
from diffusionopd.miniatures import small_sd3
from diffusionopd.objective import Objective, make_plan, make_steps
from diffusionopd.recipes import DistillRecipe, make_recipe
from diffusionopd.rollout import rollout, seeded
from diffusionopd.targets import answers
from diffusionopd.evaluate import teacher_folder
from diffusionopd.trainer import condition, open_run, round_batch

# Worlds: a run of the trainer whose student is no longer the base

def disturb(params, scale=.02, seed=1):
    "Random second halves for an adapter."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k, p in params.items():
            if 'lora_B' in k: p.copy_(scale*torch.randn(p.shape, generator=g))

def embedded(merge=True, tasks=3, guidance=1., steps=5, **more):
    "The demo's run: its base, its teachers (merged copies, or adapters; taken again under other names beyond three), its student."
    known = list(demo_recipe().tasks)
    names = [known[i % 3]+str(i//3 or '') for i in range(tasks)]
    of = {n: known[i % 3] for i, n in enumerate(names)}
    run = open_run(demo_recipe(merge_teachers=merge, trackers=[], tasks={
        n: dict(prompts=f'embedded:{t}', teacher=f'embedded:{t}', reward='embedded', guidance=guidance) for n, t in of.items()},
        rollout=dict(steps=steps, guidance=guidance) | more.pop('rollout', {}), **more))
    disturb(run.params)
    return run

SD3 = dict(num_layers=4, attention_head_dim=32, num_attention_heads=4, caption_projection_dim=128, sample_size=16)
CFG = 4.
HOMES = [] # folders, which go with the process

def sd3(merge=True, tasks=2, batch=2, guidance=CFG, **more):
    "A Stable Diffusion 3 of real classes, random, wide enough that its matrices take the time; guidance for student and teachers."
    HOMES.append(tempfile.TemporaryDirectory())
    folder = Path(HOMES[-1].name)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        small_sd3(**SD3).save_pretrained(folder/'base')
        (folder/'p.txt').write_text('a red ring\ntwo blue discs\na green square to the left of a plus\n')
        bb = load_backbone(str(folder/'base'))
        for i in range(tasks):
            add_lora(bb, f't{i}', rank=8, seed=i)
            disturb(adapter_parameters(bb.net, f't{i}'), .1, i)
            save_adapter(bb, f't{i}', folder/f't{i}', Manifest('teacher', f't{i}', guidance=guidance))
            remove(bb.net, f't{i}')
    names = {f't{i}': dict(prompts=str(folder/'p.txt'), teacher=str(folder/f't{i}')) for i in range(tasks)}
    run = open_run(make_recipe(DistillRecipe, dict(model=str(folder/'base'), tasks=names, rollout=dict(steps=5, guidance=guidance), student=dict(rank=8),
                                                   batch=batch, merge_teachers=merge, trackers=[], evaluation=dict(every=0, final=0)) | more), bb)
    disturb(run.params)
    return run

WORLDS = dict(embedded=embedded, sd3=sd3)

def describe(run):
    net, r = run.bb.net, run.recipe
    count = sum(p.numel() for n, p in net.named_parameters() if 'lora_' not in n)
    return dict(parameters=count, trained=sum(p.numel() for p in run.params.values()), layers=net.config.num_layers, tasks=len(r.tasks),
                width=net.config.num_attention_heads*net.config.attention_head_dim, rows=r.batch*len(r.tasks), guidance=r.rollout.guidance)

def questions(run):
    "A round: start, condition with labels, seeds."
    b = round_batch(run.recipe, run.sources, 0)
    return run.bb.start(seeded(b.seeds)), condition(run.bb, b.prompts, b.tasks), b.seeds

# Ways to the same gradient: each walks from the same start with the same noise

def reference(student, target, x, kernels, objective, cond=None, generator=None, backward=None, plan=None):
    "Rollout without gradients; then the teachers on all states; then the student on all states, with gradients."
    steps = [s for s in rollout(student, x, kernels[:plan.last+1], cond, generator) if plan.wanted[s.index]]
    pulls = [answers(target, s.x, s.kernel.sigma, cond) for s in steps]
    for s, p in zip(steps, pulls):
        loss, record = supervise(replace(s, out=student(s.x, s.kernel.sigma, cond)), p, plan)
        (backward or torch.Tensor.backward)(loss)
        yield record

WAYS = 'one pass', 'reference loop', 'one graph'

def walk(how, run, x, kernels, objective, cond, seeds, plan=None):
    "Run one way to its end; returns its records."
    plan = plan or make_plan(objective, kernels, torch.Generator().manual_seed(0))
    ask = lambda f, backward=torch.Tensor.backward: list(f(run.student, run.target, x, kernels, objective, cond, seeded(seeds), backward, plan))
    if how != 'one graph': return ask(one_pass if how == 'one pass' else reference)
    losses = []  # every step's loss is kept, and backward comes at the end
    records = ask(one_pass, losses.append)
    sum(losses).backward()
    return records

def gradients(run, how, *args, **kw):
    "The gradient of every parameter after one way."
    for p in run.params.values(): p.grad = None
    walk(how, run, *args, **kw)
    return {k: p.grad.clone() for k, p in run.params.items()}

def flat(grads): return torch.cat([g.flatten() for g in grads.values()])

# The floor: the model's calls and nothing else

def teacher_nets(run):
    "Every teacher as a network of its own, beside the run."
    own = load_backbone(run.recipe.model)
    nets = []
    for t, s in run.recipe.tasks.items():
        load_adapter(own, t, teacher_folder(s.teacher))
        nets.append(merged(own, t))
        remove(own.net, t)
    return nets

def twice(run, x, cond):
    "Both branches of guidance in one batch, prepared once; or the batch itself without guidance."
    cond = {k: v for k, v in cond.items() if torch.is_tensor(v)}
    if run.recipe.rollout.guidance == 1: return x, cond
    un = spread_rows(run.bb.unprompted(), len(x))
    return torch.cat([x, x]), {k: torch.cat([un[k], v]) for k, v in cond.items()}

def alone(run, nets, levels):
    "The model's calls of a walk on fixed states, as functions: teachers, student with backward, both."
    x, cond, _ = questions(run)
    bb, per = run.bb, run.recipe.batch
    pieces = [twice(run, x[i:i+per], {k: v[i:i+per] for k, v in cond.items()}) for i in range(0, len(x), per)]
    xs, conds = twice(run, x, cond)
    @torch.no_grad()
    def teach(s): return [bb.velocity(n, p, s, c) for n, (p, c) in zip(nets, pieces)]
    def learn(s): bb.velocity(bb.net, xs, s, conds).square().mean().backward()
    def teachers(): [teach(s) for s in levels]
    def student():
        with use(bb.net, 'student'): [learn(s) for s in levels]
    def both():
        with use(bb.net, 'student'):
            for s in levels: teach(s); learn(s)
    return teachers, student, both

# A clock

CPU = os.environ.get('BENCH_CLOCK') == 'cpu' # count the process's own seconds, on a machine that others use too

def seconds(f, cpu=CPU):
    clock = time.process_time if cpu else time.perf_counter
    start = clock(); f(); return clock()-start

def interleave(jobs, repeats, cpu=CPU):
    "Seconds of each job, taken in turns, so that whatever else the machine does falls on all of them; every second turn is backwards."
    for f in jobs.values(): f()
    taken = {k: [] for k in jobs}
    for i in range(repeats):
        for k in list(jobs)[::1-2*(i % 2)]: taken[k].append(seconds(jobs[k], cpu))
    return taken

def spread(values):
    "Median and quartiles."
    v = sorted(values)
    at = lambda q: v[min(len(v)-1, max(0, round(q*(len(v)-1))))]
    return [median(v), at(.25), at(.75)]

def over(a, b): return spread([x/y for x, y in zip(a, b)]) # ratio, turn by turn

# Memory

def allocated(profile):
    "The peak of live tensor bytes over a profile, from the allocator's own events: the same on every machine and in every run."
    live = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]' and e.device_type() == torch.autograd.DeviceType.CPU]
    for e in sorted(events, key=lambda e: e.start_ns()):
        live += e.nbytes(); peak = max(peak, live)
    return peak

def peak(f):
    "Peak of the tensor bytes that a function makes, above what is there."
    with torch.profiler.profile(profile_memory=True) as profile: f()
    return allocated(profile)

def resident(what):
    "A line of /proc/self/status in bytes, where there is such a file."
    return next(int(l.split()[1])*1024 for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(what))

def high_water(f):
    "What a function adds to the resident memory of the process at its highest; None where the system does not tell."
    proc = Path('/proc/self/clear_refs')
    if not proc.exists(): return f() and None
    proc.write_text('5')
    before = resident('VmRSS'); f()
    return resident('VmHWM')-before

def fresh(script, *args, **more):
    "The last line that a script prints in a process of its own, as JSON."
    env = os.environ | more | dict(MALLOC_MMAP_THRESHOLD_='131072') # glibc: what a tensor frees goes back to the system, so that residence is use and not history
    done = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, env=env)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])

# Report

def hardware():
    name = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') if os.path.exists('/proc/cpuinfo') else ''
    return f'{name or platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python {platform.python_version()}'+', processor time'*CPU

def rows(head, lines):
    return '\n'.join(['| '+' | '.join(map(str, head))+' |', '|:--'+'|--:'*(len(head)-1)+'|', *('| '+' | '.join(map(str, l))+' |' for l in lines)])

def between(v, form='{:.2f}'): return f"{form.format(v[0])} ({form.format(v[1])}-{form.format(v[2])})"

def mib(n): return '' if n is None else f'{n/2**20:.1f}'

def say(s): print(f'{time.perf_counter()-BORN:.0f} s: {s}', file=sys.stderr, flush=True)

BORN = time.perf_counter()

def save(result, path):
    if path: Path(path).write_text(json.dumps(result, indent=1)+'\n')
