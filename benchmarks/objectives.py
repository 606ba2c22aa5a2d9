"""Which walk and which weights? The same three teachers, the same updates, prompts and noise; only the objective changes.

    python benchmarks/objectives.py                # about ten minutes on two cores
    python benchmarks/objectives.py --json objectives.json --updates 50

Prints the share of each teacher's gain that the student recovers on held-out prompts."""
import argparse, json, sys
from pathlib import Path

from diffusionopd.cli import quieten
quieten()
from diffusionopd.adapters import adapter_field, load_adapter
from diffusionopd.backbones import asset, load_backbone
from diffusionopd.demo import demo_recipe, hardware
from diffusionopd.evaluate import get_reward, judge, recovered
from diffusionopd.prompts import prompt_source
from diffusionopd.trainer import examine, open_run, train
from diffusionopd.world import TAUGHT

WAYS = {
    'ODE, velocity weights':                  (dict(solver='euler'), dict(weighting='velocity', query='drop_last')),
    'Flow-SDE, velocity weights':             (dict(solver='flow_sde', eta=.7), dict(weighting='velocity', query='drop_last')),
    'Flow-SDE, exact KL':                     (dict(solver='flow_sde', eta=.7), dict(weighting='kl', query='all')),
    'Flow-SDE, exact KL without last step':   (dict(solver='flow_sde', eta=.7), dict(weighting='kl', query='drop_last')),
    'CPS, velocity weights':                  (dict(solver='cps', eta=.5), dict(weighting='velocity', query='drop_last')),
}

def levels(n):
    "Scores of the base and of each task's own teacher."
    bb = load_backbone('embedded')
    score = lambda name, f, t: judge(bb, name, f, t, prompt_source(f'embedded:{t}'), get_reward('embedded'), n).score
    base = {t: score('base', adapter_field(bb, None), t) for t in TAUGHT}
    for t in TAUGHT: load_adapter(bb, t, asset('teachers', t))
    return {t: (base[t], score(t, adapter_field(bb, t), t)) for t in TAUGHT}

def measure(way, updates, n, at, seed=0):
    "Distil with one objective and say what came over. All evaluations sample with the ODE, ten steps."
    rollout, loss = WAYS[way]
    run = open_run(demo_recipe(rollout=dict(steps=5, **rollout), loss=loss, batch=8, updates=updates, seed=seed, trackers=[]))
    last = list(train(run))[-1]
    scores = {s.task: s.score for s in examine(run, n)}
    return dict(way=way, updates=updates, n=n, seed=seed, forwards=last.forwards, scores=scores, recovered={t: recovered(*at[t], s) for t, s in scores.items()})

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='write every number to this file too')
    a.add_argument('--updates', type=int, default=50)
    a.add_argument('-n', type=int, default=128, help='pictures per score')
    a = a.parse_args()
    at, results = levels(a.n), []
    print('| walk and weights | '+' | '.join(TAUGHT)+' |\n|:--'+'|--:'*len(TAUGHT)+'|')
    for way in WAYS:
        results.append(measure(way, a.updates, a.n, at))
        print(f'| {way} | '+' | '.join(f'{100*r:.0f} %' for r in results[-1]['recovered'].values())+' |', flush=True)
    print(f'\nShare of each teacher\'s gain after {a.updates} updates, {a.n} held-out prompts a task, one seed. {hardware()}.')
    if a.json: Path(a.json).write_text(json.dumps(dict(hardware=hardware(), levels=at, results=results), indent=1)+'\n')

if __name__ == '__main__': sys.exit(main())
