"""Keep what a comparison found, without its weights: the records, the tables, and of each complete run the files that say it is complete.

    python tools/keep_results.py runs/paper benchmarks/results/paper diffusionopd/assets/suites/paper
    diffusionopd compare recipes/suites/paper.yaml --out benchmarks/results/paper    # goes on from there; of arms with `after`, the students must be there too

A third folder gets the records and the summary alone: what the pages of the site, and readers of the wheel, draw their figures from.
"""
import json, shutil, sys
from pathlib import Path

SHOWN = ('results.json', 'summary.json')
WHOLE, RUN = ('suite.json', 'results.csv', 'table.md', *SHOWN), ('arm.json', 'points.jsonl', 'rounds.jsonl', 'done.json', 'marks*.npz')

def keep(out, to, shown=None):
    "Copy the small files of a comparison; returns the names of the runs that are complete."
    done = sorted(p.parent for p in Path(out).glob('runs/*/done.json'))
    for p in [Path(out)/f for f in WHOLE]+[p for r in done for f in RUN for p in sorted(r.glob(f))]:
        if not p.is_file(): continue
        target = Path(to)/p.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        if p.name == 'suite.json': target.write_text(json.dumps(json.loads(p.read_text()) | dict(out=f'runs/{Path(to).name}'), indent=1)+'\n') # not where it was run
        else: shutil.copyfile(p, target)
        if shown and p.parent == Path(out) and p.name in SHOWN: Path(shown).mkdir(parents=True, exist_ok=True); shutil.copyfile(p, Path(shown)/p.name)
    return [r.name for r in done]

if __name__ == '__main__': print('\n'.join(keep(*sys.argv[1:])))
