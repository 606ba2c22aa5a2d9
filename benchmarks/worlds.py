"""When does distillation pay? Every question asked of the 2-D worlds of `diffusionopd.worlds`, with five seeds.

    python benchmarks/worlds.py                          # about a quarter of an hour on one core; what is in the file is not done again
    python benchmarks/worlds.py --only methods --seeds 0 # one experiment, one seed
    python benchmarks/worlds.py --quick --out quick.json # everything cut short: does it run?

Each run is one entry of the results file, which is written whole after every run. `nbs/explanations/worlds.ipynb` draws it from the copy that ships
with the package (`--asset`). The learning rate of every way to train is the best of the same three values, on seeds of their own."""
import argparse, copy, json, math, os, sys
from functools import lru_cache
from pathlib import Path
from time import process_time

os.environ.setdefault('OMP_NUM_THREADS', '1')

from common import hardware, say
import torch
from diffusionopd.errors import Refusal, nearest, refuse
from diffusionopd.objective import Objective
from diffusionopd.report import write_whole
from diffusionopd.rollout import seed_of
from diffusionopd.targets import extrapolated
from diffusionopd.worlds import Team, Told, World, STATES, agreement, distilled, drift, imitated, listening, marks, on_ring, reinforced

HOME = Path(__file__).resolve().parents[1]
KEPT, ASSET = HOME/'benchmarks'/'results'/'worlds'/'results.json', HOME/'diffusionopd'/'assets'/'worlds.json'
RATES = (.005, .015, .045)
WORLDS = dict(easy=World(), hard=World(1.))
BETWEEN = dict(middle=World(.5), weak=World(told=.999, arc=.25), around=World(told=0., arc=1.)) # the last two: one half of conflict each
LONG = dict(rounds=80, at=[5, 10, 20, 40, 60, 80], updates=180, upto=[15, 30, 60, 120, 180], stage=120, joint=200, n=64, walks=16, width=32, wide=256, samples=800, rates=list(RATES), tuning=[100, 101])
SHORT = LONG | dict(rounds=4, at=[2, 4], updates=4, upto=[2, 4], stage=2, joint=30, wide=40, samples=40, rates=[.015], tuning=[100])
ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)) # of cascades: each task comes last once

# The file

def whole(told, path):
    "Is this a results file of ours? The sentence says what is wrong with it."
    good = isinstance(told, dict) and {'settings', 'runs'} <= told.keys() and isinstance(told['runs'], dict)
    refuse(not good, f'{path} is not a results file of this script: move it away, or name another with --out')
    def finite(v): return all(map(finite, v.values() if isinstance(v, dict) else v)) if isinstance(v, (dict, list)) else not isinstance(v, float) or math.isfinite(v)
    for key, run in told['runs'].items():
        fits = isinstance(run, dict) and isinstance(run.get('points'), list) and run['points'] and all(isinstance(p, dict) for p in run['points']) and finite(run)
        refuse(not fits, f'{path}: the run {key!r} is damaged: delete its line, and it is done again')
    return told

class Kept:
    "Finished runs in a file."
    def __init__(self, path, settings):
        self.path, self.fresh, self.spent, self.told = Path(path), 0, 0., dict(command='', hardware='', settings=settings, runs={})
        if not self.path.exists(): return
        try: told = json.loads(self.path.read_text(encoding='utf8'))
        except (OSError, ValueError) as e: raise Refusal(f'{path} cannot be read ({e}): move it away, or name another with --out') from None
        self.told = whole(told, path)
        odd = [k for k in settings if told['settings'].get(k) != settings[k]]
        refuse(bool(odd), f'{path} holds runs of another {odd[0] if odd else ""}: name another file with --out')

    def __call__(self, key, make):
        "The run of this name: from the file, or made now and written."
        if key not in self.told['runs']:
            start, before = process_time(), self.spent
            run = json.loads(json.dumps(make(), allow_nan=False))
            took = process_time()-start-(self.spent-before) # what it needed and made on the way has entries of its own
            self.spent += took
            self.told['runs'][key] = run | dict(cpu_s=round(took, 2))
            self.told |= dict(command='python benchmarks/worlds.py', hardware=hardware())
            self.write(); self.fresh += 1
            say(f'{self.fresh:4} {key}')
        return self.told['runs'][key]

    def write(self):
        "One line a run, so that a run can be taken out by hand."
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = ''.join(f'{json.dumps(k)}: {json.dumps(v)},\n' for k, v in self.told.items() if k != 'runs')
        write_whole(self.path, '{'+head+'"runs": {\n'+',\n'.join(f'{json.dumps(k)}: {json.dumps(v)}' for k, v in sorted(self.told['runs'].items()))+'}}\n')

# One training

def number(v): return round(float(v), 4) if abs(v) < 1e6 else 1e6 # of a policy that has run away, too: no comparison with NaN holds
def rounded(values): return [number(v) for v in values]

def followed(laps, at, see):
    "A point of the curve at the laps asked for."
    return dict(points=[dict(index=lap.index, passes=lap.passes, **see(lap)) for lap in laps if lap.index in at])

class Lab:
    "Settings, finished runs, and the specialists that the rest is made of."
    def __init__(self, keep, settings):
        self.keep, self.s = keep, settings
        self.specialist = lru_cache(None)(self._specialist)

    def scores(self, w, policy, tasks=None): return dict(scores=rounded(marks(w, policy, tasks, self.s['samples'])))

    def rate(self, arm, world):
        "The best rate of this way to train: mean score on the seeds for tuning."
        near = 'easy' if world == 'easy' else 'hard'
        runs = self.keep.told['runs']
        def earned(r): return sum(sum(runs[f'tune/{near}/{arm}/{r}/{s}']['points'][-1]['scores']) for s in self.s['tuning'])
        return max(self.s['rates'], key=earned)

    def student(self, seed, width=None): return Told(width or self.s['width'], seed_of(seed, 'student'))

    def trained(self, w, task, seed, lr, width):
        "The laps of a specialist."
        return reinforced(w, Told(width, seed_of(seed, 'specialist', task)), (task,), self.s['rounds'], lr, self.s['n'], seed_of(seed, task))

    def _specialist(self, name, seed, width, task):
        "Rounds -> the specialist after them. Weights are made again when a run is resumed; the seed decides them."
        w, out = {**WORLDS, **BETWEEN}[name], {}
        own = World(w.conflict, 8, told=w.told, arc=w.arc)
        def make():
            points = []
            for lap in self.trained(w, task, seed, self.rate('specialist' if width == self.s['width'] else 'wide specialist', name), width):
                if lap.index not in self.s['at']: continue
                out[lap.index] = copy.deepcopy(lap.policy)
                points.append(dict(index=lap.index, passes=lap.passes, own=self.scores(own, lap.policy, (task,))['scores'][0]))
            return dict(points=[*points[:-1], points[-1] | self.scores(w, lap.policy)])
        self.keep(f'specialist/{name}/{width}/{task}/{seed}', make)
        if not out: make()
        return out

    def team(self, name, seed, width=None, tasks=range(4), rounds=None):
        "Specialists of a world, together."
        return Team({t: self.specialist(name, seed, width or self.s['width'], t)[rounds or self.s['rounds']] for t in tasks})

# Experiments: each adds its runs to the file

def base(lab):
    "What the base earns in each world, with each number of steps."
    for name, w in {**WORLDS, **BETWEEN}.items():
        for steps in (2, 4, 8, 16):
            full = World(w.conflict, 8, steps, w.told, w.arc)
            lab.keep(f'base/{name}/{steps}', lambda: dict(points=[lab.scores(full, Told())]))

def equal(s):
    "Rounds of joint training, and rounds a stage of a cascade, for the passes of four specialists and the stage of distillation; updates of fine-tuning for the stage."
    one, stage = s['n']*20, s['stage']*s['walks']*4*24
    total = 4*s['rounds']*one+stage
    return total//(4*one), total//(4*one), max(1, (stage-4*256*8)//(s['walks']*4*8*2))

WALKS = dict(opd='student', off='specialist')

def arm_run(lab, name, w, seed, lr, arm, decay=False):
    "One way to train, in a world of four tasks at the standard budget."
    s, (joint, _, sft), stage = lab.s, equal(lab.s), lab.s['stage']
    see = lambda lap: lab.scores(w, lap.policy)
    team = lambda: lab.team(name, seed)
    taught = lambda: followed(distilled(w, lab.student(seed), team(), range(4), stage, lr, s['walks'], seed, WALKS[arm], decay=decay), [stage], see)
    run = dict(joint=lambda: followed(reinforced(w, lab.student(seed), range(4), joint, lr, s['n'], seed, decay=decay), [joint], see),
               cascade=lambda: cascaded(lab, w, seed, lr, ORDERS[seed % 2]), opd=taught, off=taught,
               sft=lambda: followed(imitated(w, lab.student(seed), team(), range(4), sft, lr, s['walks'], seed, decay=decay), [sft], see))
    return run[arm]()

def cascaded(lab, w, seed, lr, order):
    "One task after the other on the same network; a point after each."
    policy, points, passes = lab.student(seed), [], 0
    for task in order:
        for lap in reinforced(w, policy, (task,), equal(lab.s)[1], lr, lab.s['n'], seed_of(seed, task)): pass
        policy, passes = copy.deepcopy(lap.policy), passes+lap.passes
        points.append(dict(index=task, passes=passes, **lab.scores(w, policy)))
    return dict(points=points)

def tune(lab):
    "Three rates for every way, in both worlds, on seeds that nothing else uses."
    for name, w in WORLDS.items():
        for seed in lab.s['tuning']:
            for lr in lab.s['rates']:
                def alone(lr=lr):
                    runs = [[l for l in lab.trained(w, t, seed, lr, lab.s['width'])][-1] for t in range(4)]
                    return dict(points=[dict(scores=[lab.scores(w, l.policy, (t,))['scores'][0] for t, l in enumerate(runs)])])
                lab.keep(f'tune/{name}/specialist/{lr}/{seed}', alone)
        for seed in lab.s['tuning']:
            for lr in lab.s['rates']:
                def wide(lr=lr): return dict(points=[dict(scores=[lab.scores(w, [l for l in lab.trained(w, t, seed, lr, lab.s['wide'])][-1].policy, (t,))['scores'][0] for t in (0, 1)])])
                if name == 'hard': lab.keep(f'tune/{name}/wide specialist/{lr}/{seed}', wide)
        for seed in lab.s['tuning']:
            for arm in ('joint', 'cascade', 'opd', 'off', 'sft'):
                for lr in lab.s['rates']:
                    lab.keep(f'tune/{name}/{arm}/{lr}/{seed}', lambda: arm_run(lab, name, w, seed, lr, arm))
                    if arm != 'cascade': lab.keep(f'tune/{name}/falling {arm}/{lr}/{seed}', lambda: arm_run(lab, name, w, seed, lr, arm, True))

def methods(lab, seed):
    "Every way, to its end, in both worlds: curves, cosines of the tasks' gradients, distances from the specialists."
    s, (joint, _, sft) = lab.s, equal(lab.s)
    for name, w in WORLDS.items():
        team, rate = lab.team(name, seed), lambda arm: lab.rate(arm, name)
        seen = lambda lap: lab.scores(w, lap.policy)
        pull = lambda target: lambda lap: dict(**lab.scores(w, lap.policy), cosine=rounded(agreement(w, lap.policy, target, 128, seed)))
        both = lambda lap: dict(**pull(team)(lap), **{k: number(v) for k, v in drift(w, lap.policy, team).items()})
        at = sorted({*s['at'], 1, 3, joint, 160, s['joint']})
        lab.keep(f'methods/{name}/joint/{seed}', lambda: followed(reinforced(w, lab.student(seed), range(4), s['joint'], rate('joint'), s['n'], seed), at, pull(None)))
        for arm, states in WALKS.items():
            walk = lambda: distilled(w, lab.student(seed), team, range(4), s['updates'], rate(arm), s['walks'], seed, states)
            lab.keep(f'methods/{name}/{arm}/{seed}', lambda: followed(walk(), [1, 5, *s['upto']], both))
        lab.keep(f'methods/{name}/sft/{seed}', lambda: followed(imitated(w, lab.student(seed), team, range(4), 2*sft, rate('sft'), s['walks'], seed), [sft//4, sft//2, sft, 2*sft], seen))
        for order in ORDERS[:4 if name == 'hard' else 2]: lab.keep(f'methods/{name}/cascade {"".join(map(str, order))}/{seed}', lambda: cascaded(lab, w, seed, rate('cascade'), order))

def between(lab, seed):
    "Distillation and joint training at equal sums, from no conflict to conflict, and with one half of it."
    for name, w in BETWEEN.items():
        for arm in ('joint', 'opd'): lab.keep(f'between/{name}/{arm}/{seed}', lambda: arm_run(lab, name, w, seed, lab.rate(arm, name), arm))

def falling(lab, seed):
    "Equal sums again, with rates that fall to zero, tuned anew."
    for name, w in WORLDS.items():
        for arm in ('joint', 'opd', 'off', 'sft'): lab.keep(f'falling/{name}/{arm}/{seed}', lambda: arm_run(lab, name, w, seed, lab.rate(f'falling {arm}', name), arm, True))

def shortcut(lab, seed):
    "On the student's, on the specialists' and on borrowed states, in the worlds with neither, one or both halves of conflict."
    s = lab.s
    for name in ('easy', 'weak', 'around', 'hard'):
        w = {**WORLDS, **BETWEEN}[name]
        for states in STATES:
            def make():
                team = lab.team(name, seed)
                see = lambda lap: lab.scores(w, lap.policy) | {k: number(v) for k, v in (drift(w, lap.policy, team) | listening(w, lap.policy, team)).items()}
                return followed(distilled(w, lab.student(seed), team, range(4), s['stage'], lab.rate('opd' if states == 'student' else 'off', name), s['walks'], seed, states), s['upto'], see)
            lab.keep(f'shortcut/{name}/{states}/{seed}', make)

def one_more(lab, seed):
    "A student of three specialists and a joint policy of three tasks, and then a fourth task."
    s = lab.s
    for name, w in WORLDS.items():
        team, few, rate = lab.team(name, seed), lab.team(name, seed, tasks=range(3)), lambda arm: lab.rate(arm, name)
        see, half, end = lambda lap: lab.scores(w, lap.policy), [s['stage']//8, s['stage']//4, s['stage']//2, s['stage']], {}
        def three(kind):
            laps = (distilled(w, lab.student(seed), few, range(3), s['stage'], rate('opd'), s['walks'], seed) if kind == 'opd'
                    else reinforced(w, lab.student(seed), range(3), equal(s)[0], rate('joint'), s['n'], seed))
            for end[kind] in laps: pass
            return dict(points=[dict(passes=end[kind].passes, **see(end[kind]))])
        def start(kind):
            if kind not in end: three(kind)
            return copy.deepcopy(end[kind].policy)
        more = seed_of(seed, 'more')
        ways = {'all teachers': lambda: followed(distilled(w, start('opd'), team, range(4), s['stage'], rate('opd'), s['walks'], more), half, see),
                'new teacher only': lambda: followed(distilled(w, start('opd'), lab.team(name, seed, tasks=(3,)), (3,), s['stage'], rate('opd'), 4*s['walks'], more), half, see),
                'joint goes on': lambda: followed(reinforced(w, start('joint'), range(4), s['rounds'], rate('joint'), s['n'], more), s['at'], see),
                'new reward only': lambda: followed(reinforced(w, start('opd'), (3,), s['rounds'], rate('cascade'), s['n'], more), s['at'], see)}
        for kind in ('opd', 'joint'): lab.keep(f'one_more/{name}/three by {kind}/{seed}', lambda: three(kind))
        for way, make in ways.items(): lab.keep(f'one_more/{name}/{way}/{seed}', make)

def policies(lab, seed):
    "On- and off-policy in the world of conflict with a short stage, one property changed at a time."
    s, w, U = lab.s, WORLDS['hard'], lab.s['stage']//2
    changed = {f'width {v}': dict(width=v) for v in (8, 16, 64)} | {f'steps {v}': dict(steps=v) for v in (2, 16)} | {f'rounds {v}': dict(rounds=v) for v in s['at'][:3:2]}
    changed |= {'noise 0.7': dict(objective=Objective('flow_sde', .7, query='drop_last')), 'walks 4': dict(walks=4), 'told apart': dict(world='around'), 'near places': dict(world='weak')}
    changed |= {f'rate {v}': dict(rate=v) for v in s['rates']}
    for what, c in changed.items():
        name = c.get('world', 'hard')
        here = {**WORLDS, **BETWEEN}[name]
        walk = World(here.conflict, 4, c.get('steps', 8), here.told, here.arc)
        for arm, states in WALKS.items():
            def make():
                team = lab.team(name, seed, rounds=c.get('rounds'))
                laps = distilled(walk, lab.student(seed, c.get('width')), team, range(4), U, c.get('rate', lab.rate(arm, 'hard')), c.get('walks', s['walks']), seed, states, c.get('objective', Objective()))
                out = followed(laps, [U//2, U], lambda lap: dict(**lab.scores(walk, lap.policy), **{k: number(v) for k, v in drift(walk, lap.policy, team).items()}))
                return out | dict(top=lab.scores(walk, team)['scores'])
            lab.keep(f'policies/{what}/{arm}/{seed}', make)

def scaling(lab, seed):
    "One to eight tasks for a student of one size, and for a small one; the small one trained jointly too."
    s = lab.s
    for name, w in WORLDS.items():
        for m in (1, 2, 4, 8):
            here = World(w.conflict, m)
            joint = lambda: reinforced(here, lab.student(seed, 8), range(m), equal(s)[0], lab.rate('joint', name), s['n'], seed)
            lab.keep(f'scaling/{name}/joint 8/{m}/{seed}', lambda: followed(joint(), [equal(s)[0]], lambda lap: lab.scores(here, lap.policy)))
            for width in (8, s['width'])[:2 if name == 'hard' else 1]:
                def make():
                    team = lab.team(name, seed, tasks=range(m))
                    laps = distilled(here, lab.student(seed, width), team, range(m), s['stage'], lab.rate('opd', name), s['walks'], seed)
                    return followed(laps, [s['stage']//4, s['stage']//2, s['stage']], lambda lap: lab.scores(here, lap.policy))
                lab.keep(f'scaling/{name}/{width}/{m}/{seed}', make)

def early(lab, seed):
    "Specialists stopped early: the student at the specialists, beyond them, and with a last stage on the rewards."
    s, name, w = lab.s, 'hard', WORLDS['hard']
    for rounds in sorted({*s['at'][:4], s['rounds']}):
        for lam in (1., 1.5):
            def make():
                team = lab.team(name, seed, rounds=rounds)
                target = team if lam == 1 else extrapolated(team, on_ring, lam)
                for lap in distilled(w, lab.student(seed), target, range(4), s['stage'], lab.rate('opd', name), s['walks'], seed): pass
                points = [dict(passes=lap.passes, **lab.scores(w, lap.policy))]
                if lam == 1:
                    for more in reinforced(w, copy.deepcopy(lap.policy), range(4), 10, lab.rate('joint', name), s['n'], seed_of(seed, 'last')): pass
                    points.append(dict(passes=lap.passes+more.passes, **lab.scores(w, more.policy)))
                return dict(points=points, top=lab.scores(w, team)['scores'])
            lab.keep(f'early/{rounds}/{lam}/{seed}', make)

def sizes(lab, seed):
    "Wide specialists, narrow students."
    s, name, w = lab.s, 'hard', WORLDS['hard']
    for width in (8, 16, 32, 64):
        for arm, states in WALKS.items():
            def make():
                team = lab.team(name, seed, s['wide'])
                laps = distilled(w, lab.student(seed, width), team, range(4), s['stage'], lab.rate(arm, name), s['walks'], seed, states)
                return followed(laps, [s['stage']//2, s['stage']], lambda lap: dict(**lab.scores(w, lap.policy), **{k: number(v) for k, v in drift(w, lap.policy, team).items()}))
            lab.keep(f'sizes/{width}/{arm}/{seed}', make)

EXPERIMENTS = dict(methods=methods, falling=falling, between=between, shortcut=shortcut, one_more=one_more, policies=policies, scaling=scaling, early=early, sizes=sizes)

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=KEPT, help='results file; finished runs in it are kept')
    p.add_argument('--only', nargs='+', default=list(EXPERIMENTS), help='names of experiments')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    p.add_argument('--quick', action='store_true', help='everything cut short')
    p.add_argument('--asset', action='store_true', help='copy the file into the package when all is done')
    a = p.parse_args(argv)
    try:
        for name in a.only: refuse(name not in EXPERIMENTS, f'unknown experiment {name!r}: {nearest(name, EXPERIMENTS)}')
        refuse(a.quick and a.out == KEPT, 'a quick run is no result: name another file with --out')
        settings = SHORT if a.quick else LONG
        keep = Kept(a.out, settings)
    except Refusal as e:
        say(f'error: {e}')
        return 2
    torch.set_num_threads(1)
    lab = Lab(keep, settings)
    base(lab); tune(lab)
    for seed in a.seeds:
        for name in a.only: EXPERIMENTS[name](lab, seed)
        lab.specialist.cache_clear()
    spent = sum(r['cpu_s'] for r in keep.told['runs'].values())
    print(f"{a.out.name}: {len(keep.told['runs'])} runs, {keep.fresh} of them now, {spent/60:.1f} minutes of one core in all")
    if a.asset: write_whole(ASSET, a.out.read_text(encoding='utf8'))

if __name__ == '__main__': sys.exit(main())
