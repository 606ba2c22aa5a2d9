"""Which walk and which weights? The same three teachers, the same updates, prompts and noise; only the objective changes.

    python benchmarks/objectives.py --jobs 2               # about an hour on two cores; what is done is not done again
    python benchmarks/objectives.py --updates 60 --seeds 0 --out runs/quick

Prints the share of each teacher's gain that the student recovers on held-out prompts, on the way and at the end."""
import argparse, json, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from diffusionopd.cli import quieten
quieten()
import torch
from diffusionopd.adapters import adapter_field, load_adapter
from diffusionopd.backbones import asset, load_backbone
from diffusionopd.demo import LENGTHS, demo_recipe, hardware
from diffusionopd.evaluate import get_reward, judge, recovered
from diffusionopd.prompts import prompt_source
from diffusionopd.trainer import examine, open_run, train
from diffusionopd.world import TAUGHT

FLAT = dict(weighting='velocity', query='drop_last')
FLOW = dict(solver='flow_sde', eta=.7)
WAYS = {
    'ODE, velocity weights':                  (dict(solver='euler'), FLAT),
    'ODE, mean weights':                      (dict(solver='euler'), dict(weighting='mean', query='drop_last')),
    'Flow-SDE, velocity weights':             (FLOW, FLAT),
    'Flow-SDE, exact KL':                     (FLOW, dict(weighting='kl', query='all')),
    'Flow-SDE, exact KL without last step':   (FLOW, dict(weighting='kl', query='drop_last')),
    'CPS, velocity weights':                  (dict(solver='cps', eta=.5), FLAT),
}

def levels(n):
    "Scores of the base and of each task's own teacher."
    bb = load_backbone('embedded')
    score = lambda name, f, t: judge(bb, name, f, t, prompt_source(f'embedded:{t}'), get_reward('embedded'), n).score
    base = {t: score('base', adapter_field(bb, None), t) for t in TAUGHT}
    for t in TAUGHT: load_adapter(bb, t, asset('teachers', t))
    return {t: (base[t], score(t, adapter_field(bb, t), t)) for t in TAUGHT}

def measure(way, seed, updates, n):
    "Distil with one objective and score at a quarter, a half and the end. All evaluations sample with the ODE, ten steps."
    torch.set_num_threads(1)
    rollout, loss = WAYS[way]
    run = open_run(demo_recipe(rollout=dict(steps=5, **rollout), loss=loss, updates=updates, seed=seed, trackers=[]))
    at, curve = {updates//4, updates//2, updates}, {}
    for u in train(run):
        if u.update in at: curve[u.update] = {s.task: s.score for s in examine(run, n)}
    return dict(way=way, seed=seed, updates=updates, n=n, forwards=u.forwards, curve=curve)

def stored(path, make):
    "What `make` returns, made once."
    if not path.is_file():
        result = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1)+'\n')
    return json.loads(path.read_text())

def one(way, seed, a):
    "One run, from its file if it is there."
    name = way.lower().replace(',', '').replace(' ', '-')
    got = stored(a.out/f'{name}-{seed}.json', lambda: measure(way, seed, a.updates, a.n))
    if (got['updates'], got['n']) != (a.updates, a.n): raise SystemExit(f'{a.out} holds runs of other lengths: name another folder with --out')
    print('done:', way, seed, file=sys.stderr, flush=True)
    return got

def table(results, at, update):
    "Recovered shares after an update: mean and range over the seeds."
    def cell(way, t):
        r = [100*recovered(*at[t], x['curve'][str(update)][t]) for x in results if x['way'] == way]
        return f'{mean(r):.0f} ({min(r):.0f} to {max(r):.0f}) %' if len(r) > 1 else f'{r[0]:.0f} %'
    lines = [f'| after {update} updates | '+' | '.join(TAUGHT)+' |', '|:--'+'|--:'*len(TAUGHT)+'|']
    return '\n'.join(lines+[f'| {way} | '+' | '.join(cell(way, t) for t in TAUGHT)+' |' for way in WAYS])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--json', help='write every number to this file too')
    p.add_argument('--out', type=Path, default=Path('runs/objectives'), help='folder where finished runs are kept')
    p.add_argument('--updates', type=int, default=LENGTHS['short'])
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--jobs', type=int, default=1, help='runs side by side, one thread each')
    p.add_argument('-n', type=int, default=200, help='pictures per score')
    a = p.parse_args()
    torch.set_num_threads(1)
    at = stored(a.out/'levels.json', lambda: levels(a.n))
    with ProcessPoolExecutor(a.jobs, mp_context=get_context('spawn')) as pool:
        jobs = [pool.submit(one, way, seed, a) for seed in a.seeds for way in WAYS]
        results = [j.result() for j in jobs]
    print('\n\n'.join(table(results, at, u) for u in sorted({a.updates//4, a.updates//2, a.updates})))
    print(f'\nShare of each teacher\'s gain, {a.n} held-out prompts a task, {len(a.seeds)} seed(s): mean (range). {hardware()}.')
    if a.json: Path(a.json).write_text(json.dumps(dict(hardware=hardware(), levels=at, results=results), indent=1)+'\n')

if __name__ == '__main__': sys.exit(main())
