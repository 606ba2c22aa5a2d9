"""Rebuild the model and the teachers inside the package, from nothing.

    python tools/make_assets.py [--out runs/assets] [--install]

Three steps, each skipped where its result is there already: `diffusionopd pretrain`, `diffusionopd teach` for every
recipes/teach-*.yaml, and the scores of all of them on every task, which go into the manifests. --install then copies
the result to diffusionopd/assets; the student and the numbers there are older then: tools/make_results.py --install makes
them anew. About an hour on two idle cores.
"""
import argparse, json, os, shutil, subprocess, sys
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
TASKS = ('composition', 'text', 'aesthetics')
CLI = [sys.executable, '-c', 'from diffusionopd.cli import main; main()']

def start(*args, threads):
    "Begin a command of the package that is installed here."
    print('$ diffusionopd', *args, flush=True)
    return subprocess.Popen([*CLI, *map(str, args), '--quiet', '--cpu-threads', str(threads)], cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': str(threads)})

def finish(jobs):
    "Wait for commands; stop if one failed."
    if any(j.wait() for j in jobs): sys.exit('a command failed')

def build(out, cores):
    "Base, then teachers, as many at a time as there are cores."
    base = out/'base'
    if not (base/'manifest.json').is_file(): finish([start('pretrain', '--out', base, threads=cores)])
    todo = [t for t in TASKS if not (out/'teachers'/t/'manifest.json').is_file()]
    for i in range(0, len(todo), cores):
        finish([start('teach', f'recipes/teach-{t}.yaml', '--model', base, '--out', out/'teachers'/t, threads=1) for t in todo[i:i+cores]])

def measure(out, n):
    "Score base and teachers on every task and write the scores into the manifests."
    from diffusionopd.adapters import adapter_field, load_adapter, read_manifest, write_manifest
    from diffusionopd.backbones import load_backbone
    from diffusionopd.demo import examine_all
    bb = load_backbone(str(out/'base'))
    models = {'base': (adapter_field(bb, None), 1.)} | {t: (adapter_field(bb, t), load_adapter(bb, t, out/'teachers'/t).guidance) for t in TASKS}
    scores = {}
    for s in examine_all(bb, models, n, wordings=('usual', 'reworded')):
        print(f'{s.model:12} {s.task:12} {s.wording:9} {s.score:.3f} {s.strict:.3f} {s.content:.3f}', flush=True)
        kept = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(s).items() if k not in ('model', 'task', 'wording')}
        scores.setdefault(s.model, {}).setdefault(s.wording, {})[s.task] = kept
    for name, kept in scores.items():
        folder = out/'base' if name == 'base' else out/'teachers'/name
        write_manifest(replace(read_manifest(folder), scores=kept), folder)

def install(out):
    "Copy what ships into the package: weights, configurations and manifests."
    from diffusionopd.adapters import DIFFUSERS_FILE, PEFT_FILE
    assets = ROOT/'diffusionopd'/'assets'
    for old in ('base', 'teachers'): shutil.rmtree(assets/old, ignore_errors=True)
    shutil.copytree(out/'base', assets/'base', ignore=shutil.ignore_patterns('log.jsonl', 'recipe.json'))
    for t in TASKS:
        source, target = out/'teachers'/t, assets/'teachers'/t
        target.mkdir(parents=True)
        for name in (PEFT_FILE, DIFFUSERS_FILE, 'adapter_config.json', 'manifest.json', 'log.jsonl'): shutil.copy(source/name, target/name)
    size = sum(p.stat().st_size for p in assets.rglob('*') if p.is_file())/1e6
    print(f'{assets}: {size:.1f} MB')
    assert size < 10, 'the assets must stay below 10 MB'

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path('runs/assets'))
    p.add_argument('--cores', type=int, default=os.cpu_count())
    p.add_argument('-n', type=int, default=400, help='pictures per score')
    p.add_argument('--install', action='store_true')
    a = p.parse_args()
    os.chdir(ROOT)
    build(a.out, a.cores)
    measure(a.out, a.n)
    if a.install: install(a.out)
