"""One pass against the reference loop and against bare calls of the model, and the price of an update, on two models.

    python benchmarks/one_pass.py                # everything, about six minutes on one core
    python benchmarks/one_pass.py --json one_pass.json --repeats 9

What is measured, and how, is told in benchmarks/README.md."""
import argparse, json
from math import prod

from common import *
from diffusionopd.rollout import prior
from diffusionopd.trainer import accumulate, step, summarise

# Gradients and forwards

def counts(run): return [c.rows for c in run.counters]

def compare(name, run, objective, steps):
    "Largest difference of a gradient's element between the two ways, over the largest element of that parameter's gradient."
    x, cond, seeds = questions(run)
    args, seen, asked = (x, make_steps(objective, run.bb.sigmas(steps)), objective, cond, seeds), [], []
    for how in WAYS[:2]:
        before = counts(run)
        seen.append(gradients(run, how, *args))
        asked.append([(b-a)/len(x) for a, b in zip(before, counts(run))])
    one, two = seen
    return dict(world=name, solver=objective.solver, steps=steps, parameters=sum(p.numel() for p in run.params.values()),
                difference=max(float((one[k]-two[k]).abs().max()/two[k].abs().max().clamp(min=1e-30)) for k in one),
                norm=float((flat(one)-flat(two)).norm()/flat(two).norm()), student=[a[0] for a in asked], teachers=[sum(a[1:]) for a in asked])

# Time

def time_ways(name, run, nets, steps, repeats):
    "One pass, the reference loop and bare calls in turns."
    o = Objective()
    x, cond, seeds = questions(run)
    kernels = make_steps(o, run.bb.sigmas(steps))
    jobs = {how: lambda how=how: walk(how, run, x, kernels, o, cond, seeds) for how in WAYS[:2]}
    *_, jobs['bare calls'] = alone(run, nets, [k.sigma for k in kernels])
    taken = interleave(jobs, repeats)
    one, two, floor = taken.values()
    return dict(world=name, steps=steps, one=spread(one), two=spread(two), floor=spread(floor), ratio=over(two, one), above=over(one, floor))

# Memory: a fresh process for each number, so that no way inherits what another one freed

def remember(name, how, steps):
    "Peak memory of one way in this process, above what was there before, in bytes; two samples a task, or one task's with guidance."
    run, o = embedded(batch=2) if name == 'embedded' else sd3(tasks=1), Objective()
    x, cond, seeds = questions(run)
    args = run, x, make_steps(o, run.bb.sigmas(steps)), o, cond, seeds
    few = lambda v: {k: c[:1] for k, c in v.items()} if isinstance(v, dict) else v[:1]
    walk(how, run, few(x), make_steps(o, run.bb.sigmas(2)), o, few(cond), few(seeds))  # gradients and buffers that stay
    whole = high_water(lambda: walk(how, *args))
    return dict(world=name, how=how, steps=steps, tensors=peak(lambda: walk(how, *args)), process=whole)

# The price of an update

def prices(repeats):
    "Seconds of one update of the trainer, of the model's calls alone, and of its parts, taken in turns."
    run, switched = embedded(), embedded(merge=False)
    b, o = round_batch(run.recipe, run.sources, 0), run.recipe.optimiser
    plan = make_plan(run.recipe.objective, run.kernels, torch.Generator().manual_seed(0))
    teachers, student, both = alone(run, teacher_nets(run), [k.sigma for k, wanted in zip(run.kernels, plan.wanted) if wanted])
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
            'walk of one pass': lambda: accumulate(run, b),
            'update, teachers merged': lambda: step(run), 'update, teachers as adapters': lambda: step(switched), '- switching adapters': switches,
            '- encoding the prompts': lambda: run.bb.encode(b.prompts), '- clipping, optimiser, average': finish,
            '- prompts of the round': lambda: round_batch(run.recipe, run.sources, run.update),
            '- noise of each sample': lambda: prior(run.bb.latent_shape(), seeded(b.seeds)), '- numbers for the log': lambda: summarise([(b, records)], prod(run.bb.latent_shape()))}
    taken = interleave(jobs, repeats)
    return dict(rows=len(b.prompts), states=len(records), jobs={k: dict(seconds=spread(v), ratio=over(v, taken['calls alone'])) for k, v in taken.items()})

def profile_update(rows=12):
    "Where an update's time goes, by operator."
    run = embedded()
    step(run)
    with torch.profiler.profile() as p: step(run)
    events = sorted(p.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [dict(name=e.key, share=e.self_cpu_time_total/total, calls=e.count) for e in events[:rows]]

# Time against the number of tasks

def line(xs, ys):
    "Least squares: intercept, slope, share of the variance that the line leaves."
    n, mx, my = len(xs), sum(xs)/len(xs), sum(ys)/len(ys)
    slope = sum((x-mx)*(y-my) for x, y in zip(xs, ys))/sum((x-mx)**2 for x in xs)
    a = my-slope*mx
    return dict(intercept=a, slope=slope, left=sum((y-a-slope*x)**2 for x, y in zip(xs, ys))/sum((y-my)**2 for y in ys), points=n)

def at_zero(f, sizes, repeats):
    "What a job of so many rows would cost with none of them: a line through two sizes."
    taken = interleave({n: (lambda n=n: f(n)) for n in sizes}, repeats)
    (n, a), (m, b) = ((k, median(v)) for k, v in taken.items())
    return a-n*(b-a)/(m-n)

def time_tasks(repeats, most=6, batch=6):
    "Updates with one to six tasks, teachers merged, the same number of prompts for each; and what does not depend on the tasks."
    runs = {n: embedded(tasks=n, batch=batch) for n in range(1, most+1)}
    taken = interleave({n: (lambda r=r: step(r)) for n, r in runs.items()}, repeats)
    run, o = runs[most], runs[most].recipe.optimiser
    x, cond, _ = questions(run)
    plan = make_plan(run.recipe.objective, run.kernels, torch.Generator().manual_seed(0))
    levels = [k.sigma for k, wanted in zip(run.kernels, plan.wanted) if wanted]
    def student(n):
        c = {k: v[:n] for k, v in cond.items()}
        for s in levels: run.student(x[:n], s, c).square().mean().backward()
    def finish():
        torch.nn.utils.clip_grad_norm_(run.params.values(), o.clip); run.opt.step(); run.ema.step(run.params.values())
    student(2)
    fixed = {'student, calls without rows': at_zero(student, (batch, batch*most), repeats), 'clipping, optimiser, average': median(seconds(finish) for _ in range(9))}
    return dict(batch=batch, states=len(levels), seconds={n: spread(v) for n, v in taken.items()}, **line(list(taken), [median(v) for v in taken.values()]), fixed=fixed)

# Report

def report(r):
    at = {(m['world'], m['how'], m['steps']): m for m in r['memory']}
    steps, u, t = list(dict.fromkeys(m['steps'] for m in r['memory'])), r['update'], r['tasks']
    said = lambda w, d: f"- *{w}*: {d['parameters']:,} parameters, {d['trained']:,} of them trained (adapter), {d['layers']} blocks of width {d['width']}, {d['tasks']} tasks, {d['rows']} samples, guidance {d['guidance']:g}."
    ms = lambda s: f'{1000*s:.0f}'
    return '\n\n'.join(filter(None, [f"Hardware: {r['hardware']}.", '\n'.join(said(*d) for d in r['worlds'].items()),
        '**Gradients and forwards**, for each sample: one pass / reference loop', rows(['world', 'solver', 'steps', 'largest relative difference', 'of norms', 'student', 'teachers'],
            [[g['world'], g['solver'], g['steps'], f"{g['difference']:.1e}", f"{g['norm']:.1e}", *(' / '.join(f'{n:g}' for n in g[k]) for k in ('student', 'teachers'))] for g in r['gradients']]),
        '**Time**, median (quartiles) of interleaved repeats', rows(['world', 'steps', 'one pass, s', 'reference loop, s', 'bare calls, s', 'reference over one pass', 'one pass over bare calls'],
            [[t['world'], t['steps'], *(between(t[k]) for k in ('one', 'two', 'floor', 'ratio', 'above'))] for t in r['time']]),
        '**Peak memory** above the loaded model, MiB: live tensors / whole process', rows(['world', 'steps', *WAYS],
            [[w, s, *(f"{mib(at[w, h, s]['tensors'])} / {mib(at[w, h, s]['process'])}" if (w, h, s) in at else '' for h in WAYS)] for w in r['worlds'] for s in steps if (w, WAYS[0], s) in at]),
        f"**One update of the trainer** (embedded, {u['rows']} samples, {u['states']} states each), median (quartiles)", rows(['what', 'ms', 'over the calls alone'],
            [[k, between([1000*s for s in v['seconds']], '{:.1f}'), between(v['ratio'])] for k, v in u['jobs'].items()]),
        f"**Against the number of tasks** (embedded, {t['batch']} samples a task, {t['states']} states, teachers merged), an update in ms", rows(['tasks', *t['seconds']], [['ms', *(ms(v[0]) for v in t['seconds'].values())],
            ['line', *(ms(t['intercept']+t['slope']*int(n)) for n in t['seconds'])]]),
        f"The line has a slope of {ms(t['slope'])} ms a task and an intercept of {ms(t['intercept'])} ms, and leaves {t['left']:.1e} of the variance. What no task adds to: "+', '.join(f'{k} {ms(v)} ms' for k, v in t['fixed'].items())+'.',
        '**Where an update spends its time**', rows(['operator', 'share', 'calls'], [[f"`{e['name']}`", f"{e['share']:.1%}", e['calls']] for e in r['operators']])]))

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--repeats', type=int, default=5, help='of each timing')
    a.add_argument('--memory', nargs=3, help=argparse.SUPPRESS)
    a = a.parse_args()
    if a.memory: return print(json.dumps(remember(*a.memory[:2], int(a.memory[2]))))
    runs, equal, times = {n: f() for n, f in WORLDS.items()}, [], []
    for name, run in runs.items():
        say(f'{name}: gradients'); equal += [compare(name, run, o, 5) for o in (Objective(), Objective('flow_sde', .7))]
        nets = teacher_nets(run)
        for s in (5, 10) if name == 'embedded' else (5,): say(f'{name}: time of {s} steps'); times.append(time_ways(name, run, nets, s, a.repeats))
    say('memory')
    memory = [fresh(__file__, '--memory', name, how, s) for name in WORLDS for s in (5, 20, 50) for how in (WAYS if name == 'embedded' else WAYS[:2])
              if name == 'embedded' or s in (5, 50)]
    say('update'); update, operators = prices(a.repeats), profile_update()
    say('tasks'); tasks = time_tasks(a.repeats)
    r = dict(hardware=hardware(), repeats=a.repeats, worlds={n: describe(run) for n, run in runs.items()}, gradients=equal, time=times, memory=memory, update=update,
             tasks=tasks, operators=operators)
    save(r, a.json)
    print(report(r))

if __name__ == '__main__': main()
