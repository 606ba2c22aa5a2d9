"""One pass against rollout and replay, and the price of an update, on the model inside the package.

    python benchmarks/one_pass.py                # everything, about ten minutes on one core
    python benchmarks/one_pass.py --json one_pass.json --repeats 9

What is measured, and how, is told in benchmarks/README.md."""
import argparse, json, os, platform, subprocess, sys, time
from math import prod
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')

from diffusionopd.cli import quieten
quieten()
import torch
from diffusionopd.adapters import load_adapter, merged, use
from diffusionopd.backbones import load_backbone
from diffusionopd.demo import demo_recipe
from diffusionopd.distill import one_pass, two_pass
from diffusionopd.objective import Objective, make_plan, make_steps
from diffusionopd.rollout import prior, seeded
from diffusionopd.trainer import accumulate, open_run, round_batch, step, summarise, teacher_folder

# What is compared: each walks from the same start with the same noise and ends in a gradient.

def walk(how, run, x, kernels, objective, cond, seeds):
    "Run one way to its end; returns its records."
    plan = make_plan(objective, kernels, torch.Generator().manual_seed(0))
    ask = lambda f, backward: list(f(run.student, run.target, x, kernels, objective, cond, seeded(seeds), backward, plan))
    if how == 'one pass': return ask(one_pass, torch.Tensor.backward)
    if how == 'two passes': return ask(two_pass, torch.Tensor.backward)
    losses = []  # one graph: every step's loss is kept, and backward comes at the end
    records = ask(one_pass, losses.append)
    sum(losses).backward()
    return records

WAYS = 'one pass', 'two passes', 'one graph'

def world(merge=True):
    "The demo's run: base, three teachers (merged copies, or adapters), and a student that is no longer the base."
    run = open_run(demo_recipe(merge_teachers=merge, trackers=[]))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for k, p in run.params.items():
            if 'lora_B' in k: p.copy_(.02*torch.randn(p.shape, generator=g))
    return run

def questions(run):
    "A round of the demo: its prompts for each of three teachers."
    b = round_batch(run.recipe, run.sources, 0)
    return prior(run.bb.latent_shape(), seeded(b.seeds)), dict(run.bb.encode(b.prompts), task=b.tasks), b.seeds

def counts(run): return [(c.calls, c.rows) for c in run.counters]

# Gradients and forwards

def gradients(run, how, *args):
    "The gradient of every parameter, and the forwards of one sample that it took: student, teachers."
    for p in run.params.values(): p.grad = None
    before = counts(run)
    walk(how, run, *args)
    student, *others = [b[1]-a[1] for a, b in zip(before, counts(run))]
    return {k: p.grad.clone() for k, p in run.params.items()}, student, sum(others)

def compare(run, objective, steps):
    "Largest difference of a gradient's element between the two ways, over the largest element of that parameter's gradient."
    x, cond, seeds = questions(run)
    args = x, make_steps(objective, run.bb.sigmas(steps)), objective, cond, seeds
    (one, s1, t1), (two, s2, t2) = (gradients(run, how, *args) for how in WAYS[:2])
    worst = max(float((one[k]-two[k]).abs().max()/two[k].abs().max().clamp(min=1e-30)) for k in one)
    return dict(solver=objective.solver, steps=steps, parameters=sum(p.numel() for p in run.params.values()), difference=worst,
                student=[s1/len(x), s2/len(x)], teachers=[t1/len(x), t2/len(x)])

# Time

def seconds(f):
    start = time.perf_counter(); f(); return time.perf_counter()-start

def interleave(jobs, repeats):
    "Seconds of each job, taken in turns, so that whatever else the machine does falls on all of them; every second turn is backwards."
    for f in jobs.values(): f()
    taken = {k: [] for k in jobs}
    for i in range(repeats):
        for k in list(jobs)[::1-2*(i % 2)]: taken[k].append(seconds(jobs[k]))
    return taken

def spread(values):
    "Median and quartiles."
    v = sorted(values)
    at = lambda q: v[min(len(v)-1, max(0, round(q*(len(v)-1))))]
    return [median(v), at(.25), at(.75)]

def time_ways(run, steps, repeats):
    o = Objective()
    x, cond, seeds = questions(run)
    kernels = make_steps(o, run.bb.sigmas(steps))
    taken = interleave({how: lambda how=how: walk(how, run, x, kernels, o, cond, seeds) for how in WAYS[:2]}, repeats)
    one, two = taken['one pass'], taken['two passes']
    return dict(steps=steps, one=spread(one), two=spread(two), ratio=spread([b/a for a, b in zip(one, two)]))

# Memory: a fresh process for each number, so that no way inherits what another one freed

def allocated(profile):
    "The peak of live tensor bytes over a profile, from the allocator's own events: the same on every machine and in every run."
    live = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]' and e.device_type() == torch.autograd.DeviceType.CPU]
    for e in sorted(events, key=lambda e: e.start_ns()):
        live += e.nbytes(); peak = max(peak, live)
    return peak

def resident(what):
    "A line of /proc/self/status in bytes, where there is such a file."
    return next(int(l.split()[1])*1024 for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(what))

def remember(how, steps):
    "Peak memory of one way in this process, above what was there before, in bytes."
    run, o = world(), Objective()
    x, cond, seeds = questions(run)
    args = run, x, make_steps(o, run.bb.sigmas(steps)), o, cond, seeds
    walk(how, run, x[:3], make_steps(o, run.bb.sigmas(2)), o, {k: v[:3] for k, v in cond.items()}, seeds[:3])  # gradients and buffers that stay
    proc = Path('/proc/self/clear_refs')
    if proc.exists():
        proc.write_text('5')  # the high-water mark starts here
        before = resident('VmRSS'); walk(how, *args); whole = resident('VmHWM')-before
    else: whole = None
    with torch.profiler.profile(profile_memory=True) as profile: walk(how, *args)
    return dict(how=how, steps=steps, tensors=allocated(profile), process=whole)

def measure_memory(how, steps):
    call = [sys.executable, __file__, '--memory', how, str(steps)]
    return json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

# The price of an update

def alone(run):
    "The model's calls of one update and nothing else, as functions: teachers, student, both. Every teacher is a network of its own."
    b, bb, per = round_batch(run.recipe, run.sources, 0), run.bb, run.recipe.batch
    cond, x = bb.encode(b.prompts), prior(bb.latent_shape(), seeded(b.seeds))
    plan = make_plan(run.recipe.objective, run.kernels, torch.Generator().manual_seed(0))
    levels = [k.sigma for k, wanted in zip(run.kernels, plan.wanted) if wanted]
    own = load_backbone('embedded')
    nets = []
    for t in run.recipe.tasks:
        load_adapter(own, t, teacher_folder(f'embedded:{t}'))
        nets.append(merged(own, t))
    rows = [slice(i, i+per) for i in range(0, len(x), per)]
    parts = [{k: v[r] for k, v in cond.items()} for r in rows]
    @torch.no_grad()
    def answers(s): return torch.cat([bb.velocity(n, x[r], s, c) for n, r, c in zip(nets, rows, parts)])
    def teachers(): [answers(s) for s in levels]
    def student(target=lambda s: 0.):
        with use(bb.net, 'student'):
            for s in levels:
                t = target(s)
                (bb.velocity(bb.net, x, s, cond)-t).square().mean().backward()
    return teachers, student, lambda: student(answers)

def prices(repeats):
    "Seconds of one update of the trainer, of the model's calls alone, and of its parts, taken in turns."
    run, switched = world(), world(merge=False)
    b, o = round_batch(run.recipe, run.sources, 0), run.recipe.optimiser
    teachers, student, both = alone(run)
    records = accumulate(run, b)
    names = ['student', *(f'teacher_{t}' for t in run.recipe.tasks)]
    def switches():
        for _ in records:
            for n in names:
                with use(switched.bb.net, n): pass
    def finish():
        torch.nn.utils.clip_grad_norm_(run.params.values(), o.clip); run.opt.step()
        if run.ema: run.ema.step(run.params.values())
        for p in run.params.values(): p.grad.zero_()
    jobs = {'calls alone': both, '- of the teachers': teachers, '- of the student, and backward': student,
            'update, teachers merged': lambda: step(run), 'update, teachers as adapters': lambda: step(switched), '- switching adapters': switches,
            '- encoding the prompts': lambda: run.bb.encode(b.prompts), '- clipping, optimiser, average': finish,
            '- prompts of the round': lambda: round_batch(run.recipe, run.sources, run.update),
            '- noise of each sample': lambda: prior(run.bb.latent_shape(), seeded(b.seeds)), '- numbers for the log': lambda: summarise([(b, records)], prod(run.bb.latent_shape()))}
    taken = interleave(jobs, repeats)
    floor = taken['calls alone']
    return dict(rows=len(b.prompts), states=len(records), jobs={k: dict(seconds=spread(v), ratio=spread([a/f for a, f in zip(v, floor)])) for k, v in taken.items()})

def profile_update(rows=12):
    "Where an update's time goes, by operator."
    run = world()
    step(run)
    with torch.profiler.profile() as p: step(run)
    events = sorted(p.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [dict(name=e.key, share=e.self_cpu_time_total/total, calls=e.count) for e in events[:rows]]

# Report

def hardware():
    name = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') if os.path.exists('/proc/cpuinfo') else ''
    return f'{name or platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python {platform.python_version()}'

def rows(head, lines):
    return '\n'.join(['| '+' | '.join(head)+' |', '|:--'+'|--:'*(len(head)-1)+'|', *('| '+' | '.join(map(str, l))+' |' for l in lines)])

def between(v, form='{:.2f}'): return f"{form.format(v[0])} ({form.format(v[1])}-{form.format(v[2])})"

def report(r):
    mb = lambda n: '' if n is None else f'{n/2**20:.1f}'
    at = {(m['how'], m['steps']): m for m in r['memory']}
    steps, u = list(dict.fromkeys(m['steps'] for m in r['memory'])), r['update']
    return '\n\n'.join(filter(None, [f"Hardware: {r['hardware']}.",
        '**Gradients and forwards**, for each sample: one pass / two passes', rows(['solver', 'steps', 'largest relative difference', 'student', 'teachers'],
            [[g['solver'], g['steps'], f"{g['difference']:.1e}", *(' / '.join(f'{n:g}' for n in g[k]) for k in ('student', 'teachers'))] for g in r['gradients']]),
        '**Time**, median (quartiles) of interleaved repeats', rows(['steps', 'one pass, s', 'two passes, s', 'two over one'], [[t['steps'], between(t['one']), between(t['two']), between(t['ratio'])] for t in r['time']]),
        steps and '**Peak memory** above the loaded model, MiB: live tensors / whole process', steps and rows(['steps', *WAYS], [[s, *(f"{mb(at[w, s]['tensors'])} / {mb(at[w, s]['process'])}" for w in WAYS)] for s in steps]),
        f"**One update of the trainer** ({u['rows']} samples, {u['states']} states each), median (quartiles)", rows(['what', 'ms', 'over the calls alone'], [[k, between([1000*s for s in v['seconds']], '{:.1f}'), between(v['ratio'])] for k, v in u['jobs'].items()]),
        '**Where an update spends its time**', rows(['operator', 'share', 'calls'], [[f"`{e['name']}`", f"{e['share']:.1%}", e['calls']] for e in r['operators']])]))

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--repeats', type=int, default=7, help='of each timing')
    a.add_argument('--steps', type=int, nargs='+', default=[5, 10, 20, 40], help='lengths of the walk')
    a.add_argument('--memory', nargs=2, help=argparse.SUPPRESS)
    a = a.parse_args()
    if a.memory: return print(json.dumps(remember(a.memory[0], int(a.memory[1]))))
    run, say = world(), lambda s: print(s, file=sys.stderr, flush=True)
    say('gradients'); equal = [compare(run, o, s) for s in (5, 10) for o in (Objective(), Objective('flow_sde', .7))]
    say('time'); times = [time_ways(run, s, a.repeats) for s in a.steps]
    say('memory'); memory = [measure_memory(how, s) for s in a.steps for how in WAYS]
    say('update'); update, operators = prices(a.repeats), profile_update()
    r = dict(hardware=hardware(), repeats=a.repeats, gradients=equal, time=times, memory=memory, update=update, operators=operators)
    print(report(r))
    if a.json: Path(a.json).write_text(json.dumps(r, indent=1)+'\n')

if __name__ == '__main__': main()
