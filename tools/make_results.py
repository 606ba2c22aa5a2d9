"""Measure the demo and collect what the README shows.

    python tools/make_results.py [--out runs/results] [--seeds 0 1 2] [--install]

Runs `diffusionopd demo` and `diffusionopd demo --long` once per seed, one after the other, skipping runs that are
finished, and gathers their results.json. --install copies the collection and the long run's first student into the package.
"""
import argparse, json, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLI = [sys.executable, '-c', 'from diffusionopd.cli import main; main()']

def run(folder, long, seed, n):
    "One demo, unless its results are there."
    if not (folder/'results.json').is_file():
        shutil.rmtree(folder, ignore_errors=True)
        args = ['demo', '--out', folder, '--seed', seed, '-n', n, '--quiet', *(['--long'] if long else [])]
        print('$ diffusionopd', *args, flush=True)
        subprocess.run([*CLI, *map(str, args)], check=True)
    return json.loads((folder/'results.json').read_text())

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=ROOT/'runs'/'results')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('-n', type=int, default=200, help='pictures per score')
    p.add_argument('--install', action='store_true')
    a = p.parse_args()
    results = {name: [run(a.out/f'{name}-{s}', name == 'long', s, a.n) for s in a.seeds] for name in ('short', 'long')}
    from diffusionopd.report import result_tables
    print(result_tables(results))
    if a.install:
        assets = ROOT/'diffusionopd'/'assets'
        (assets/'results.json').write_text(json.dumps(results, indent=1)+'\n')
        shutil.rmtree(assets/'student', ignore_errors=True)
        (assets/'student').mkdir()
        for name in ('adapter_model.safetensors', 'pytorch_lora_weights.safetensors', 'adapter_config.json', 'manifest.json'):
            shutil.copy(a.out/f'long-{a.seeds[0]}'/'student'/name, assets/'student'/name)
