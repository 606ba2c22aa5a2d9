"""Stage 1 in small: does each method of reinforcement learning learn each task of the embedded world, and what does it cost?

    python benchmarks/rl_methods.py --json benchmarks/rl_methods.json > benchmarks/rl_methods.md    # about eight minutes on one quiet core
    python benchmarks/rl_methods.py --json benchmarks/rl_methods.json --show > benchmarks/rl_methods.md    # draw and tell what is stored
    python benchmarks/rl_methods.py --only text --methods nft --rounds 3
    python benchmarks/rl_methods.py --ratios > benchmarks/rl_ratios.md    # what the clip sees on the embedded model, half a minute

Three methods, three tasks, the same rounds, pictures, advantages, adapter and optimiser steps; only the method differs, and with it the sampler and the
learning rate, which is said. Finished runs are in the file and are not done again. It is evidence that a method learns, at one seed and a few rounds
each, not a ranking: for that see the suites of `diffusionopd compare`."""
import argparse, json, os, sys
from pathlib import Path
from time import process_time

os.environ.setdefault('OMP_NUM_THREADS', '1')

from common import hardware, rows, say
import torch
from diffusionopd.adapters import adapter_field
from diffusionopd.backbones import load_backbone
from diffusionopd.evaluate import exam, get_reward, judge
from diffusionopd.flow_grpo import RATIO_CLIP, noisy_steps, step_ratio
from diffusionopd.grpo_guard import guarded_ratio
from diffusionopd.prompts import prompt_source
from diffusionopd.recipes import TeachRecipe
from diffusionopd.show import CYCLE, STUDENT, TEACHER, panels, savefig
from diffusionopd.teach import Goal, ends, fit_walks, marked, open_training, own_judge, questions, teach, verdict, walks

TASKS = ('composition', 'text', 'aesthetics')
NOISY = dict(solver='flow_sde', eta=.7, levels=4)
METHODS = dict(nft=dict(optimiser=dict(lr=2e-3, decay=.5)), flow_grpo=dict(optimiser=dict(lr=2e-3, decay=.5), **NOISY), grpo_guard=dict(optimiser=dict(lr=2e-3, decay=.5), **NOISY))
COLOURS = dict(nft=TEACHER, flow_grpo=STUDENT, grpo_guard=CYCLE[0])
ROUNDS, EVERY, PICTURES = 20, 5, 96

def recipe(task, method, rounds=ROUNDS, pictures=PICTURES, seed=0):
    "The settings of one run."
    return TeachRecipe(task=task, prompts=f'embedded:{task}', method=method, iterations=rounds, prompts_per_iteration=8, images_per_prompt=8, steps=8, seed=seed,
                       evaluation=dict(every=EVERY, n=pictures, final=pictures, steps=8), **METHODS[method])

def at_start(bb, r):
    "Score and verdict of the base on the same held-out prompts and noise."
    source, e, seen = prompt_source(r.prompts), r.evaluation, []
    s = judge(bb, 'base', adapter_field(bb, None), r.task, source, get_reward(r.reward), e.n, e.seed, see=lambda *a: seen.append(a[2]), steps=e.steps, batch=e.batch)
    return s, verdict(Goal(source, get_reward(r.reward), judge=own_judge(source)), s, seen[0], exam(source, e.n, e.seed)[0])

def point(i, s, v, **cost):
    "One evaluation, as it is stored."
    return dict(round=i, score=round(s.score, 4), low=round(s.low, 4), high=round(s.high, 4), strict=round(s.strict, 4), judge=round(v.judge, 4), by=v.by, gap=round(v.gap, 4), **cost)

def run(task, method, rounds, pictures):
    "Train once; the held-out curve, the rounds' rewards and the cost."
    r, bb, rewards = recipe(task, method, rounds, pictures), load_backbone('embedded', device='cpu'), []
    start, points = process_time(), [point(0, *at_start(bb, r), images=0, forwards=0, backwards=0)]
    for t in teach(bb, r):
        rewards.append(round(t.reward, 4))
        if t.score: points.append(point(t.iteration, t.score, t.verdicts[task], images=t.images, forwards=t.forwards, backwards=t.backwards))
        say(f'{task} {method} round {t.iteration}: {t.reward:.3f}'+(f', held out {t.score.score:.3f}' if t.score else ''))
    return dict(task=task, method=method, rewards=rewards, points=points, cpu_s=round(process_time()-start), hardware=hardware(), recipe=r.model_dump(mode='json', exclude_defaults=True))

def ratios(method, rounds=2):
    "What the clip of a method sees in the first rounds: for each batch of a round, the ratios of all its steps just before it is trained on."
    r, f, seen = recipe('text', method), dict(flow_grpo=step_ratio, grpo_guard=guarded_ratio)[method], {}
    t = open_training(load_backbone('embedded', device='cpu'), r)
    for i in range(rounds):
        q = questions(r, t.goals, i)
        walked = walks(t, q)
        A = torch.tensor(marked(t, q, ends(t.bb, walked))[0], dtype=torch.float32)
        for n, w in enumerate(walked):
            with torch.no_grad(): seen.setdefault(n, []).append(torch.stack([f(s, t.ask('new')(s.x, s.kernel.sigma, w.cond)) for s in noisy_steps(w.steps)])-1)
            fit_walks(t, [w], A)
    return {n: torch.cat(x, 1) for n, x in seen.items()}

def ratio_report():
    "A line for each method and batch."
    lines, factor = [], {}
    for method in ('flow_grpo', 'grpo_guard'):
        for n, x in ratios(method).items():
            spread = x.std(1)
            if n: factor.setdefault(method, []).append(float(spread[-2]/spread[0]))
            lines.append([method, n+1, f'{x.abs().max():.1e}', *(f'{v:.1e}' for v in (spread[0], spread[-2], spread[-1])), f'{(x.abs() > RATIO_CLIP[method]).float().mean():.0%}'])
    times = {m: f'{sum(v)/len(v):.0f}' for m, v in factor.items()}
    return '\n\n'.join([f'Hardware: {hardware()}. Text, the first two rounds, flow_sde with eta 0.7 in 8 steps, the clips that are the defaults.',
        rows(['method', 'batch of the round', 'largest distance of a ratio from 1', 'spread in the first step', 'in the last but one', 'in the last', 'beyond the clip'], lines),
        f'The first batch of a round is fresh: its ratios are 1 to the last bit. Then those of Flow-GRPO scatter {times["flow_grpo"]} times as much in the last step but one as in the first, those of '
        f'GRPO-Guard {times["grpo_guard"]} times: what is left is the change of the network itself. The last step of this grid is very short, and GRPO-Guard measures in units of its length.'])

def draw(runs, path):
    "Held-out reward against pictures, a panel a task."
    tasks = [t for t in TASKS if any(r['task']==t for r in runs)]
    fig, axs = panels(len(tasks), w=3., h=2.3)
    for ax, task in zip(axs, tasks):
        for r in (r for r in runs if r['task']==task):
            x, y, low, high = ([p[k] for p in r['points']] for k in ('images', 'score', 'low', 'high'))
            ax.plot(x, y, 'o-', ms=3, color=COLOURS[r['method']], label=r['method'])
            ax.fill_between(x, low, high, color=COLOURS[r['method']], alpha=.15, lw=0)
        ax.set(title=task, xlabel='pictures', ylabel='held-out reward' if ax is axs[0] else '')
    axs[0].legend(frameon=False, fontsize=8)
    savefig(fig, path)

def report(runs):
    "The table, with what was run where."
    lines = [[r['task'], r['method'], f"{len(r['rewards'])}", f"{r['points'][-1]['images']:,}", f"{r['points'][-1]['forwards']:,} + {r['points'][-1]['backwards']:,}", f"{r['cpu_s']}",
              *(f"{p['score']:.3f} ({p['low']:.2f}-{p['high']:.2f})" for p in (r['points'][0], r['points'][-1])), f"{r['points'][0]['strict']:.2f} to {r['points'][-1]['strict']:.2f}",
              f"{r['points'][0]['judge']:.2f} to {r['points'][-1]['judge']:.2f} ({r['points'][-1]['by']})", f"{r['points'][-1]['gap']-r['points'][0]['gap']:+.3f}"] for r in runs]
    seen = sorted({r['hardware'] for r in runs})
    fell = [f"{r['task']} by {r['method']} ({a['judge']:.2f} to {b['judge']:.2f})" for r in runs for a, b in [(r['points'][0], r['points'][-1])] if b['score'] > a['score'] and b['judge'] < a['judge']]
    return '\n\n'.join([f"Hardware: {'; '.join(seen)}. Seed 0, {runs[0]['recipe']['evaluation']['n']} held-out prompts from fixed noise, the ODE in 8 steps, 95 % intervals that resample prompts.",
        rows(['task', 'method', 'rounds', 'pictures', 'forwards + backwards', 'CPU s', 'base', 'after', 'strict', 'judge', 'gap grew by'], lines),
        '![Held-out reward against pictures](rl_methods.svg)',
        'A gap that grows says that the reward rose by more than the judge agrees with. Tesseract judges what is read and nothing else, where the reward of text also asks for vivid ink and a frame.'
        +(f' The judge fell while the reward rose: {", ".join(fell)}.' if fell else ''), 'One seed a run: that a curve rises is shown by its interval, which method is better is not.'])

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--json', help='where finished runs are kept; those that are there already are not done again')
    a.add_argument('--only', nargs='+', choices=TASKS, default=list(TASKS), help='some tasks')
    a.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS), help='some methods')
    a.add_argument('--rounds', type=int, default=ROUNDS, help='of each run')
    a.add_argument('--pictures', type=int, default=PICTURES, help='held-out pictures of each evaluation')
    a.add_argument('--ratios', action='store_true', help='measure ratios, and nothing else')
    a.add_argument('--show', action='store_true', help='run nothing')
    a = a.parse_args()
    if a.ratios: return print(ratio_report())
    file = Path(a.json) if a.json else None
    runs = json.loads(file.read_text()) if file and file.exists() else []
    for task, method in [(t, m) for t in a.only for m in a.methods if not a.show]:
        if any((r['task'], r['method'])==(task, method) for r in runs): continue
        runs.append(run(task, method, a.rounds, a.pictures))
        if file: file.write_text(json.dumps(runs, indent=1)+'\n')
    runs.sort(key=lambda r: (TASKS.index(r['task']), list(METHODS).index(r['method'])))
    if file: draw(runs, file.with_suffix('.svg'))
    print(report(runs))

if __name__ == '__main__': main()
