"""Ideas for speed and memory, each measured beside the usual way: what pays is kept, what does not is said.

    python benchmarks/ideas.py --json diffusionopd/assets/ideas.json > benchmarks/ideas.md       # about six minutes on one core
    python benchmarks/ideas.py --only checkpointing random_steps

Ratios are taken turn by turn, memory is the peak of live tensors, gradients are compared at equal weights, states and noise."""
import argparse, copy, json, math, warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations

from common import *
from diffusionopd.adapters import adapter_field, module_field, tuner_layers
from diffusionopd.divergence import sq_gap
from diffusionopd.fields import branches, guided, widen
from diffusionopd.kernels import kernel_mean
from diffusionopd.objective import Plan
from diffusionopd.rollout import advance, sample
from diffusionopd.targets import routed

IDEAS = {}
def idea(what):
    "Register a measurement: what the idea is, in a sentence."
    def register(f): IDEAS[f.__name__] = (what, f); return f
    return register

def row(what, speed=None, memory=None, difference=None, **more):
    "One line of the table: times as fast, share of the peak, relative difference of the gradient."
    return dict(what=what, speed=speed, memory=memory, difference=difference, **more)

def apart(a, b): return float((flat(a)-flat(b)).norm()/flat(b).norm())

def cosine(a, b): return float(torch.nn.functional.cosine_similarity(a, b, 0))

def clear(run):
    for p in run.params.values(): p.grad = None

def gradient(run, f):
    "The gradient that a function leaves."
    clear(run); f()
    return {k: p.grad.clone() for k, p in run.params.items()}

def versus(run, usual, others, repeats, cpu=CPU):
    "Each other way beside the usual one: times as fast, peak against peak, difference of gradients."
    taken = interleave({'usual': usual, **others}, repeats, cpu)
    high, g = peak(usual), gradient(run, usual)
    return {k: dict(speed=over(taken['usual'], taken[k]), memory=peak(f)/high, difference=apart(gradient(run, f), g)) for k, f in others.items()}

def setting(run, steps, objective=None):
    "What a walk takes."
    o = objective or Objective()
    x, cond, seeds = questions(run)
    return x, make_steps(o, run.bb.sigmas(steps)), o, cond, seeds

def walker(run, student, target, x, kernels, o, cond, seeds, plan=None):
    "One pass of fields that are given, as a function."
    plan = plan or make_plan(o, kernels)
    return lambda: [None for _ in one_pass(student, target, x, kernels, o, cond, seeded(seeds), plan=plan)]

def raw(run, nets):
    "Student and teachers without guidance."
    return adapter_field(run.bb, 'student', True), {t: module_field(run.bb, n) for t, n in zip(run.recipe.tasks, nets)}

def two_calls(field, scale, uncond):
    "Guidance with a call for each branch."
    def answer(x, sigma, cond):
        un = {**cond, **spread_rows(uncond, len(x))}
        u, c = widen(field(x, sigma, un)), widen(field(x, sigma, cond))
        return u+scale*(c-u)
    return answer

# Batches

@idea('Both branches of guidance in one batch, instead of a call for each.')
def cfg_branches(repeats):
    for name, make, steps in (('sd3, 4 samples', sd3, 2), ('embedded, 36 samples', embedded, 2), ('embedded, 3 samples', lambda: embedded(batch=1), 2)):
        run = make()
        nets, args, un = teacher_nets(run), setting(run, steps), run.bb.unprompted()
        student, teachers = raw(run, nets)
        way = lambda guide: walker(run, guide(student, CFG, un), routed({t: guide(f, CFG, un) for t, f in teachers.items()}), *args)
        yield row(name, **versus(run, way(two_calls), dict(one=way(guided)), repeats)['one'])

@contextmanager
def mixture_of(net, names):
    "Rows with an adapter each, as peft's `adapter_names=` has it; a diffusers network does not take the argument, its layers do."
    def tell(module, args, kwargs): return args, {**kwargs, 'adapter_names': names}
    hooks = [m.register_forward_pre_hook(tell, with_kwargs=True) for m in tuner_layers(net)]
    try: yield
    finally:
        for h in hooks: h.remove()

def mixed_teachers(run):
    "All teachers in one forward, each row with its own adapter."
    @torch.no_grad()
    def answer(x, sigma, cond):
        with mixture_of(run.bb.net, [f'teacher_{t}' for t in cond['task']]): return run.bb.velocity(run.bb.net, x, sigma, cond)
    return answer

@idea('All teachers in one forward, each row with its own adapter (PEFT `adapter_names=`); without guidance. Usual: adapters that are switched.')
def mixed_adapters(repeats):
    for batch in (12, 1):
        run = embedded(merge=False, batch=batch)
        args, nets = setting(run, 2), teacher_nets(run)
        merged_ones = routed(raw(run, nets)[1])
        ways = {'mixed batch': mixed_teachers(run), 'merged copies': merged_ones}
        got = versus(run, walker(run, run.student, run.target, *args), {k: walker(run, run.student, f, *args) for k, f in ways.items()}, repeats)
        weights = sum(p.numel()*p.element_size() for n in nets for p in n.parameters())
        for k, v in got.items(): yield row(f'{k}, {3*batch} samples', **v, copies=weights if k == 'merged copies' else None)

def joined(run, x, kernels, o, cond, seeds, teachers):
    "One pass whose teachers and student answer in one forward of mixed adapters, both branches of each: `teachers` are their names."
    bb, un = run.bb, spread_rows(run.bb.unprompted(), len(x))
    part = {k: torch.cat([un[k], cond[k]]) for k in un}
    whole = {k: torch.cat([v, v]) for k, v in part.items()}
    names, plan = teachers*2+['student']*(2*len(x)), make_plan(o, kernels)
    def go():
        y = x
        for j, k in enumerate(kernels):
            with mixture_of(bb.net, names): tu, tc, su, sc = bb.velocity(bb.net, torch.cat([y]*4), k.sigma, whole).chunk(4)
            out = su+CFG*(sc-su)
            s = advance(j, k, y, out)
            supervise(s, ((1., (tu+CFG*(tc-tu)).detach()),), plan)[0].backward()
            y = s.x_next
    return go

def borrowed(run, args, nets):
    "Guided teachers that take the student's unconditional answer for their own: a quarter of the forwards less, another target."
    x, kernels, o, cond, seeds = args
    student, teachers = raw(run, nets)
    teachers, un, plan = routed(teachers), run.bb.unprompted(), make_plan(o, kernels)
    def go():
        y = x
        for j, k in enumerate(kernels):
            with torch.no_grad(): t = teachers(y, k.sigma, cond)
            u, c = branches(student, y, k.sigma, {n: v for n, v in cond.items() if torch.is_tensor(v)}, un)
            s = advance(j, k, y, u+CFG*(c-u))
            base = u.detach()
            supervise(s, ((1., base+CFG*(t-base)),), plan)[0].backward()
            y = s.x_next
    return go

@idea("The student's and the teachers' unconditional branches together: all rows in one forward of mixed adapters (exact); or the student's answer lent to the teachers (another target).")
def unconditional(repeats):
    for world, run in {'sd3, random teachers': sd3(merge=False), 'embedded': embedded(merge=False, batch=2, guidance=CFG)}.items():
        args, nets = setting(run, 2), teacher_nets(run)
        names = [f'teacher_{t}' for t in args[3]['task']]
        got = versus(run, walker(run, run.student, run.target, *args), {'one forward for all': joined(run, *args, names), "the student's, lent": borrowed(run, args, nets)}, repeats)
        for k, v in got.items(): yield row(f'{k}; {world}', **v)

# Precision, layout, compilation

@idea('Teachers in bfloat16, or with channels last.')
def teacher_formats(repeats):
    run = embedded()
    args, nets = setting(run, 2), teacher_nets(run)
    student = raw(run, nets)[0]
    ways = {'bfloat16': [copy.deepcopy(n).bfloat16() for n in nets], 'channels last': [copy.deepcopy(n).to(memory_format=torch.channels_last) for n in nets]}
    way = lambda nets: walker(run, student, routed(raw(run, nets)[1]), *args)
    size = lambda nets: sum(p.numel()*p.element_size() for n in nets for p in n.parameters())
    for k, v in versus(run, way(nets), {k: way(n) for k, n in ways.items()}, repeats).items(): yield row(k, **v, weights=size(ways[k])/size(nets))

@idea('`torch.compile` for a teacher and for the student, of one task.')
def compiled(repeats):
    os.environ['TORCHINDUCTOR_FORCE_DISABLE_CACHES'] = '1' # a compilation by an earlier run does not count
    run = embedded(tasks=1)
    args, nets, plain = setting(run, 2), teacher_nets(run), run.bb.net
    usual = walker(run, *(lambda s, t: (s, routed(t)))(*raw(run, nets)), *args)
    before = dict(time=median(interleave({'': usual}, 3)['']), peak=peak(usual), g=gradient(run, usual))
    quick, took = [torch.compile(n, dynamic=False) for n in nets], {}
    student, teachers = raw(run, nets)
    half = walker(run, student, routed(raw(run, quick)[1]), *args)
    took['teacher'] = seconds(half, cpu=False)
    net = torch.compile(plain, dynamic=False)
    def fast(x, sigma, cond): # the adapter stays active: switching inside a compiled graph would compile again
        return run.bb.velocity(net, x, sigma, cond)
    whole = walker(run, fast, routed(raw(run, quick)[1]), *args)
    with use(plain, 'student'): took['teacher and student'] = took['teacher']+seconds(whole, cpu=False)
    taken = interleave({'usual': usual, 'teacher': half, 'teacher and student': whole}, repeats)
    for k, f in (('teacher', half), ('teacher and student', whole)):
        saved = median(taken['usual'])-median(taken[k])
        yield row(k, over(taken['usual'], taken[k]), peak(f)/before['peak'], apart(gradient(run, f), before['g']), compile_seconds=took[k],
                  pays_after_states=2*took[k]/saved if saved > 0 else None)

# Memory

@idea('Gradient checkpointing: activations are computed again in the backward.')
def checkpointing(repeats):
    for name, run in dict(embedded=embedded(), sd3=sd3()).items():
        way = lambda: walk('one pass', run, *setting(run, 2))
        def again():
            run.bb.net.enable_gradient_checkpointing(); run.bb.net.train()
            try: way()
            finally: run.bb.net.disable_gradient_checkpointing(); run.bb.net.eval()
        run.bb.net.set_adapter('student')
        yield row(name, **versus(run, way, dict(again=again), repeats)['again'])

@idea('Activation offload: saved tensors leave the accelerator until the backward. On a CPU there is nowhere to go: counted, not timed.')
def offload(repeats):
    for name, run in dict(embedded=embedded(), sd3=sd3()).items():
        x, kernels, o, cond, seeds = setting(run, 1)
        own, saved = {p.untyped_storage().data_ptr() for p in run.bb.net.parameters()}, {}
        def keep(t):
            if t.untyped_storage().data_ptr() not in own: saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or keep(t), lambda t: t): loss = run.student(x, 1., cond).square().mean()
        t = median(seconds(lambda: run.student(x, 1., cond).square().mean().backward()) for _ in range(3))
        kept.clear()
        yield row(f'{name}, {len(x)} samples', bytes_saved=sum(saved.values()), bytes_per_sample=sum(saved.values())/len(x), bandwidth_to_hide=2*sum(saved.values())/t)

# Fewer states

@idea('Stop the walk at the last supervised step. Usual: walk to the end.')
def early_stop(repeats):
    run = embedded()
    for query, k in (('drop_last', 1), ('first', 2)):
        x, kernels, o, cond, seeds = setting(run, 5, Objective(query=query, k=k))
        plan = make_plan(o, kernels)
        short = lambda: walk('one pass', run, x, kernels, o, cond, seeds)
        def full():
            walk('one pass', run, x, kernels, o, cond, seeds)
            sample(run.student, x, kernels[plan.last+1:], cond)
        yield row(f'{query}, k = {k}, of 5 steps', **versus(run, full, dict(short=short), repeats)['short'])

def each_step(run, x, kernels, o, cond, seeds):
    "The gradient of each state's term, from one walk: `(steps, parameters)`."
    out, plan = [], make_plan(o, kernels)
    def backward(loss):
        clear(run); loss.backward()
        out.append(torch.cat([p.grad.flatten() for p in run.params.values()]))
    for _ in one_pass(run.student, run.target, x, kernels, o, cond, seeded(seeds), backward, plan): pass
    return torch.stack(out)

def rounds(run, n):
    "The same for several rounds of prompts."
    for i in range(n):
        b = round_batch(run.recipe, run.sources, i)
        yield run.bb.start(seeded(b.seeds)), condition(run.bb, b.prompts, b.tasks), b.seeds

@idea('A random subset of K states stands for all, without bias (`query = random`). Usual: all of 8.')
def random_steps(repeats, n=8):
    run = embedded(batch=4)
    o = Objective()
    kernels = make_steps(o, run.bb.sigmas(n))
    G = [each_step(run, x, kernels, o, cond, seeds) for x, cond, seeds in rounds(run, 6)]
    size = torch.stack(G).mean(0).sum(0).norm()
    draws = float(torch.stack([g.sum(0) for g in G]).var(0).sum().sqrt()/size)                        # of another round of prompts
    x, cond, seeds = next(rounds(run, 1))
    jobs = {}
    for k in (1, 2, 4):
        subsets = list(combinations(range(n), k))
        mean = torch.stack([G[0][list(s)].sum(0)*n/k for s in subsets]).mean(0)
        sd = math.sqrt(sum(float(sum((g[list(s)].sum(0)*n/k-g.sum(0)).square().sum() for s in subsets))/len(subsets) for g in G)/len(G))/float(size)
        plans = [make_plan(Objective(query='random', k=k), kernels, torch.Generator().manual_seed(i)) for i in range(6)]
        def some(plans=plans):
            for p in plans: walk('one pass', run, x, kernels, o, cond, seeds, p)
        jobs[k] = some, float((mean-G[0].sum(0)).norm()/G[0].sum(0).norm()), sd
    taken = interleave({'usual': lambda: [walk('one pass', run, x, kernels, o, cond, seeds) for _ in range(6)], **{k: f for k, (f, *_) in jobs.items()}}, max(1, repeats//3))
    for k, (_, bias, sd) in jobs.items():
        cost = median(taken[k])/median(taken['usual'])
        yield row(f'K = {k} of {n}, {len(x)} samples', over(taken['usual'], taken[k]), None, None, bias=bias, deviation=sd, deviation_of_a_round=draws,
                  cost=cost, variance_times_cost=cost*(draws**2+sd**2)/draws**2)

def coarse_states(run, x, kernels, cond, every):
    "States at the levels of a fine grid along a walk of every so many steps: straight lines between its states."
    at = []
    for j in range(0, len(kernels), every):
        with torch.no_grad(): v = run.student(x, kernels[j].sigma, cond)
        end = kernels[min(j+every, len(kernels))-1].sigma_next
        at += [x+(k.sigma-kernels[j].sigma)*v for k in kernels[j:j+every]]
        x = x+(end-kernels[j].sigma)*v
    return at, x

@idea('A rollout with fewer steps than the comparison has levels. Usual: as many, 10.')
def coarse_rollout(repeats, n=10, every=2):
    run = embedded(batch=4)
    o = Objective()
    fine, short = make_steps(o, run.bb.sigmas(n)), make_steps(o, run.bb.sigmas(n//every))
    plan = make_plan(o, fine)
    def replayed(x, cond):
        for j, (k, y) in enumerate(zip(fine, coarse_states(run, x, fine, cond, every)[0])):
            pulls = answers(run.target, y, k.sigma, cond)
            supervise(advance(j, k, y, run.student(y, k.sigma, cond)), pulls, plan)[0].backward()
    found = {'walk of 5, states between by straight lines, 10 levels compared': [], 'walk of 5, 5 levels compared': []}
    usual, ends = [], []
    for x, cond, seeds in rounds(run, 4):
        usual.append(flat(gradient(run, lambda: walk('one pass', run, x, fine, o, cond, seeds))))
        for k, f in zip(found, (lambda: replayed(x, cond), lambda: walk('one pass', run, x, short, o, cond, seeds))): found[k].append(flat(gradient(run, f)))
        a, b = sample(run.student, x, fine, cond), coarse_states(run, x, fine, cond, every)[1]
        ends.append(float((a-b).norm()/a.norm()))
    x, cond, seeds = next(rounds(run, 1))
    taken = interleave({'usual': lambda: walk('one pass', run, x, fine, o, cond, seeds), **dict(zip(found, (lambda: replayed(x, cond), lambda: walk('one pass', run, x, short, o, cond, seeds))))}, repeats)
    mean = lambda gs: torch.stack(gs).mean(0)
    between_rounds = sum(cosine(a, b) for a, b in combinations(usual, 2))/math.comb(len(usual), 2)
    for k, gs in found.items():
        yield row(k, over(taken['usual'], taken[k]), None, float((mean(gs)-mean(usual)).norm()/mean(usual).norm()), cosine=cosine(mean(gs), mean(usual)),
                  cosine_between_rounds=between_rounds, end_state=sum(ends)/len(ends))

# At the same time

@idea("The teachers' next forward during the student's backward, on a second thread. Streams of an accelerator: not measured, there was none.")
def overlap(repeats):
    run = embedded()
    x, kernels, o, cond, seeds = setting(run, 3)
    plan = make_plan(o, kernels)
    def go():
        with ThreadPoolExecutor(1) as pool:
            y, waiting = x, pool.submit(answers, run.target, x, kernels[0].sigma, cond)
            for j, k in enumerate(kernels):
                out = run.student(y, k.sigma, cond)
                s, pulls = advance(j, k, y, out), waiting.result()
                if j+1 < len(kernels): waiting = pool.submit(answers, run.target, s.x_next, kernels[j+1].sigma, cond)
                supervise(s, pulls, plan)[0].backward()
                y = s.x_next
    way = lambda: walk('one pass', run, x, kernels, o, cond, seeds)
    got = versus(run, way, {'teachers on a second thread': go}, repeats, cpu=False)
    for k, v in got.items(): yield row(k, **v)

# Optimisers

def optimisers():
    known = {'for loop': dict(foreach=False), 'foreach': dict(foreach=True), 'fused': dict(fused=True)}
    out = {k: lambda ps, kw=kw: torch.optim.AdamW(ps, 1e-3, **kw) for k, kw in known.items()}
    try: import bitsandbytes as bnb
    except ImportError: return out
    return out | {f'8-bit, bitsandbytes {bnb.__version__}': lambda ps: bnb.optim.AdamW8bit(ps, 1e-3)}

@idea("Other forms of AdamW: foreach, fused, and 8-bit where bitsandbytes is installed. Usual: torch's own loop. Speed is that of the optimiser's step alone.")
def optimiser_forms(repeats):
    run = embedded()
    for name, shapes in {'adapter': [p.shape for p in run.params.values()], 'whole network': [p.shape for n, p in run.bb.net.named_parameters() if 'lora' not in n]}.items():
        made, start = {}, [torch.randn(s, generator=torch.Generator().manual_seed(i))*.02 for i, s in enumerate(shapes)]
        for k, f in optimisers().items():
            ps = [torch.nn.Parameter(p.clone()) for p in start]
            for i, p in enumerate(ps): p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))*1e-3
            made[k] = f(ps), ps
        taken = interleave({k: o.step for k, (o, _) in made.items()}, 20)
        held = lambda o: sum(t.numel()*t.element_size() for s in o.state.values() for t in s.values() if torch.is_tensor(t))
        (usual, plain), spent = made['for loop'], median(taken['for loop'])
        moved = torch.cat([(p-s).detach().flatten() for p, s in zip(plain, start)])
        for k, (o, ps) in made.items():
            if k == 'for loop': continue
            there = torch.cat([(p-s).detach().flatten() for p, s in zip(ps, start)])
            yield row(f'{k}, {name}', over(taken['for loop'], taken[k]), held(o)/held(usual), float((there-moved).norm()/moved.norm()), step_seconds=spent, state_bytes=held(o))

# Report

VERDICTS = dict(
    cfg_branches=('Kept', '`fields.branches` asks once. It pays most where a batch is too small to fill the machine; the difference of the gradient is rounding.'),
    mixed_adapters=('Not kept', 'It beats switching, above all with few rows, but merged copies beat it: they have no adapter to run at all. `merge_teachers` is what to set where copies fit. '
                    'Where they do not fit the network is large, its matrices take the time, and what mixing saves, calls and switches, should be small beside them. PEFT offers it for inference only.'),
    unconditional=('Not kept', 'One forward for all puts the teachers into the graph: twice the memory, and a backward over rows that have no gradient. '
                   "Lending the student's unconditional answer to the teachers is fast and wrong: guidance multiplies the difference of the two, and the gradient is another one altogether."),
    teacher_formats=('Not kept as a default', 'No gain in time from bfloat16 for matrices of this size on this processor; half the weights is what remains, at the price of an error in the target. On accelerators `model_dtype` has it for the whole base. '
                     'Channels last does nothing to a network of tokens.'),
    compiled=('Not kept', 'Some gain, that pays for the compilation only after more states than either length of the demo has, and every other batch size compiles again. Nothing prevents a user from compiling a field of their own.'),
    checkpointing=('Kept as an option', "diffusers' `enable_gradient_checkpointing` works with one pass and gives the same gradient; it is for networks whose single state does not fit."),
    offload=('Not kept', 'One pass holds one state at a time, and checkpointing takes most of the rest without a link.'),
    early_stop=('Kept', 'Exact and free: `Plan.last` ends the walk.'),
    random_steps=('Kept as an option', 'Unbiased, as the mean over all subsets shows. But cost falls more slowly than variance rises: counting the noise of prompts as well, a unit of computing buys less. It is for walks so long that an update is too dear.'),
    coarse_rollout=('Not kept', "In one pass the walk's forwards are the supervised ones, so a rollout of fewer steps saves nothing unless fewer states are compared. With states in between it is slower, and biased; "
                    'with fewer of both it is simply `rollout.steps`, biased against the finer grid but less than two rounds of prompts differ.'),
    overlap=('Not kept', 'A second core gives less than it has; two processes, each with rows of its own, use it without any code. On an accelerator a large forward should fill the device by itself.'),
    optimiser_forms=('Not kept', 'An optimiser step is a small part of an update, of an adapter above all. Fused is the fastest and rounds differently. 8 bits save memory only where the whole network is trained, at an error in every step and several times the time on this processor.'))
UNMEASURED = {"Teachers' forward during the student's backward on two streams": 'needs an accelerator; two threads of a processor stand above.',
              'Activation offload, timed': 'needs an accelerator and its link; the bytes and the bandwidth that would hide them stand above.',
              'float16 and float8 teachers': 'made for accelerators; not tried.',
              'Paged optimisers': 'page between accelerator and host; bitsandbytes falls back to plain ones without.'}

def show(r):
    "The numbers of one line beyond the common three."
    told = dict(compile_seconds='{:.0f} s to compile', pays_after_states='pays after {:.0f} states', bytes_saved='{:,} bytes saved for a backward', bytes_per_sample='{:,.0f} bytes a sample',
                bandwidth_to_hide='{:.1e} bytes/s to hide both ways behind this machine', bias='mean over all subsets off by {:.0e}', deviation='deviation of the gradient by the draw {:.2f}',
                deviation_of_a_round='by the prompts {:.2f}', cost='cost {:.2f}', variance_times_cost='variance x cost {:.2f} of all states', cosine='cosine {:.4f}',
                cosine_between_rounds='cosine of two rounds {:.4f}', end_state='end states {:.3f} apart', step_seconds="torch's loop {:.4f} s", state_bytes='{:,} bytes of state', weights='weights {:.2f}', copies='{:,} bytes of copies')
    return '; '.join(told[k].format(v) for k, v in r.items() if k in told and v is not None)

def report(result):
    out = [f"Hardware: {result['hardware']}."]
    for name, i in result['ideas'].items():
        v = i['verdict']
        out += [f"## {name}", i['what'], rows(['variant', 'times as fast', 'peak memory', 'difference of the gradient', 'also'],
            [[r['what'], between(r['speed']) if r['speed'] else '', '' if r['memory'] is None else f"{r['memory']:.2f}", '' if r['difference'] is None else f"{r['difference']:.1e}", show(r)] for r in i['rows']]),
            f"**{v['kept']}.** {v['why']}"]
    out += ['## Not measured', *(f'- {k}: {v}' for k, v in UNMEASURED.items())]
    return '\n\n'.join(out[:-len(UNMEASURED)])+'\n\n'+'\n'.join(out[-len(UNMEASURED):])

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--repeats', type=int, default=3, help='of each timing')
    a.add_argument('--only', nargs='+', choices=IDEAS, default=list(IDEAS), help='some of them')
    a = a.parse_args()
    result = dict(hardware=hardware(), repeats=a.repeats, ideas={}, unmeasured=UNMEASURED)
    for name in a.only:
        what, f = IDEAS[name]
        say(name)
        start = time.perf_counter()
        result['ideas'][name] = dict(what=what, rows=list(f(a.repeats)), verdict=dict(zip(('kept', 'why'), VERDICTS[name])))
        say(f'  {time.perf_counter()-start:.0f} s')
    save(result, a.json)
    print(report(result))

if __name__ == '__main__': main()
