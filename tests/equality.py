"""How far several processes are from one, in numbers: what test_parallel.py asserts, for the page of promises.

    python tests/equality.py                                              about a minute; prints a table
    python tests/equality.py --json diffusionopd/assets/equality.json     and keeps the numbers
"""
import argparse, json, tempfile
from importlib.util import find_spec
from pathlib import Path

import ranks
from installed import Installed
from test_parallel import MODEL, computed, far

SETTINGS = [(kind, world, dtype) for dtype in ('float64', 'float32') for kind in ('ddp', 'fsdp') for world in (2, 4)]
if find_spec('deepspeed'): SETTINGS.append(('deepspeed', 2, 'float32'))

def compared(got, one):
    "The largest differences of several processes from one, over all cases and processes."
    part = lambda tensors, after: {k: v for k, v in tensors.items() if k.startswith('after/') == after}
    pairs = [(t, told, *one[n][0]) for n in got for t, told in got[n]]
    relative = lambda a, b: abs(a-b)/abs(b)
    return dict(gradients=max(far(part(t, False), part(s, False)) for t, _, s, _ in pairs), loss=max(relative(told['told']['loss'], said['told']['loss']) for _, told, _, said in pairs),
                kl=max(relative(v, w) for _, told, _, said in pairs for k in said['told']['kl'] for v, w in zip(told['told']['kl'][k], said['told']['kl'][k])),
                rows=all(sorted(r[:3] for _, told in got[n] for r in told['rows'] if r[3]) == sorted(r[:3] for r in one[n][0][1]['rows']) for n in got))

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--json')
    args, names, table = parser.parse_args(), [*ranks.CASES], []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        opd = Installed(tmp)
        opd.python(tmp, MODEL)
        one = {dtype: computed(opd, tmp, tmp/dtype, 1, names, dtype) for dtype in ('float64', 'float32')}
        print('| processes | kept | arithmetic | gradients | loss | KL of a step | same rows |\n|--:|:--|:--|--:|--:|--:|:--|')
        for kind, world, dtype in SETTINGS:
            row = dict(kind=kind, world=world, dtype=dtype, cases=len(names)) | compared(computed(opd, tmp, tmp/f'{kind}{world}{dtype}', world, names, dtype, kind), one[dtype])
            table.append(row)
            print(f"| {world} | {kind} | {dtype} | {row['gradients']:.1e} | {row['loss']:.1e} | {row['kl']:.1e} | {row['rows']} |", flush=True)
        opd.process.stdin.close(); opd.process.wait()
    if args.json: Path(args.json).write_text(json.dumps(table, indent=1)+'\n')

if __name__ == '__main__': main()
