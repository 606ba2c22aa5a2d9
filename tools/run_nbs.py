"""Execute notebooks in place, keep their outputs, and leave them clean.

    python tools/run_nbs.py                          every notebook
    python tools/run_nbs.py nbs/02_paths.ipynb       the ones named
    python tools/run_nbs.py --check [NOTEBOOK ...]   run, but write nothing; tell how many outputs come out as they are stored
    python tools/run_nbs.py --check --json NOTEBOOK  the same as data, with the place where an output differs
    python tools/run_nbs.py --jobs=2 ...             two at a time

Notebooks import the installed package. One alone runs in a fresh process. Of several, each runs in a fork of a process that has imported what the package
imports from elsewhere (seconds each time), and nothing of the package. Cells that the checks skip (`#| eval: false` and the flags in settings.ini) keep
the outputs they had, so pictures made on a GPU survive; NB_FLAGS="slow cuda" runs those cells too.
"""
import base64, gc, hashlib, io, json, os, re, resource, sys, traceback
from decimal import Decimal
from pathlib import Path

import numpy as np
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell, format_exc
from fastcore.ansi import strip_ansi
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from causes import cause, rest

def skip(cell, flags):
    "Is `cell` one that the checks would not run?"
    if cell.cell_type != 'code' or 'nbdev_export'+'(' in cell.source: return True
    d = extract_directives(cell, remove=False)
    return d.get('eval:', [''])[0].lower() == 'false' or bool(flags & d.keys())

def new_shell(fn):
    "A shell for the notebook `fn` whose pictures are SVG and the same in every run."
    os.environ['SOURCE_DATE_EPOCH'] = '0'  # else matplotlib writes the date into each picture
    shell = CaptureShell(fn, mpl_format='svg')
    shell._run("import matplotlib; matplotlib.rcParams['svg.hashsalt'] = 'diffusionopd'; del matplotlib")
    return shell

number, coordinate = (re.compile(rf'(-?\d+{p}(?:e[+-]?\d+)?)') for p in (r'(?:\.\d+|(?=e[+-]?\d))', r'(?:\.\d+)?'))  # in a drawing some are whole
name = re.compile(r'\b(?:[mp]|image)[0-9a-f]{10}\b')  # of a path or a picture in an SVG: a hash of its numbers
zero = re.compile(r'(?<![\d.])-0(?![\d.])')  # a rounded number that was below zero
drawing = re.compile(r'(<svg.*?</svg>)', re.S)
picture = re.compile(r'iVBORw0KGgo[A-Za-z0-9+/\s]+={0,2}') # a PNG

def shown(nb):
    "What each code cell shows, as one text."
    text = lambda o: ''.join(o.get('text') or '') + ''.join(k + ''.join(v) for k, v in sorted(o.get('data', {}).items()))
    return {c.id: '\n'.join(map(text, c.outputs)) for c in nb.cells if c.cell_type == 'code' and c.outputs}

def near(old, new, drawn=False):
    """Could two printed numbers be one that processors round differently? In a text by one unit of the last digit, or by 1e-5 of the number where it has
    more digits than float32 is sure of; in a drawing by less than a tenth of a point, which nobody sees."""
    a, b = Decimal(old), Decimal(new)
    return abs(a-b) < Decimal('.1') if drawn else abs(a-b) <= max(Decimal(1).scaleb(min(x.as_tuple().exponent for x in (a, b))), Decimal('1e-5')*max(abs(a), abs(b)))

def unlike_pictures(old, new):
    "Which pictures of two outputs are not the same, up to two of 255 levels of a pixel, as (stored, fresh). None where their numbers differ."
    read = lambda x: np.asarray(Image.open(io.BytesIO(base64.b64decode(x+'=='))).convert('RGBA')).astype(int)
    other = lambda a, b: a != b and ((p := read(a)).shape != (q := read(b)).shape or abs(p-q).max() > 2)
    a, b = (picture.findall(x) for x in (old, new))
    return [v for v in zip(a, b) if other(*v)] if len(a) == len(b) else None

def named(text, marked=()):
    "A text without its pictures; of those in `marked` a hash is left."
    return picture.sub(lambda m: 'PNG' + hashlib.sha256(m[0].encode()).hexdigest()[:8]*(m[0] in marked), text)

def alike(old, new, drawn=None):
    "Are two outputs the same, up to what processors differ in? Words and whole numbers must be equal; `drawn` is asked of the text unless it is given."
    if drawn is None:
        if unlike_pictures(old, new) != []: return False
        a, b = (drawing.split(named(x)) for x in (old, new))
        return len(a) == len(b) and all(alike(x, y, i % 2 == 1) for i, (x, y) in enumerate(zip(a, b)))
    a, b = ((coordinate if drawn else number).split(zero.sub('0', name.sub('', x))) for x in (old, new))
    return len(a) == len(b) and a[::2] == b[::2] and all(near(x, y, drawn) for x, y in zip(a[1::2], b[1::2]))

def compared(old, new, notebook=''):
    """Cell -> `same`, `caused` (only the part differs that `causes` names), `new` (nothing was stored) or where an output first differs, as (stored, fresh).
    Of a cell that has an output only here, for a cause, nothing is said."""
    def verdict(i, a, b):
        if a and b and alike(a, b): return 'same'
        if cause(notebook, i) and alike(*(rest(notebook, i, x).strip() for x in (a, b))): return 'caused' if a else None
        return apart(a, b) if a and b else 'new' if b else (a[:80], '')
    found = {i: verdict(i, old.get(i, ''), new.get(i, '')) for i in sorted({*old, *new})}
    return {i: v for i, v in found.items() if v}

def apart(a, b):
    "Where two texts first differ: a few characters of each from there."
    other = {p for pair in unlike_pictures(a, b) or () for p in pair}
    a, b = ([(w, i % 2 == 1) for i, part in enumerate(drawing.split(named(x, other))) for w in re.split(r'(\s+)', part)] for x in (a, b))
    i = next((i for i, (x, y) in enumerate(zip(a, b)) if not alike(x[0], y[0], x[1] and y[1])), min(len(a), len(b)))
    return tuple(''.join(w for w, _ in x[max(0, i-6):i+12])[:160] for x in (a, b))

def same(found):
    "The verdicts of `compared` in one line; times and temporary folders never are as stored."
    stored, changed, caused = [v for v in found.values() if v != 'new'], [i for i, v in found.items() if v not in ('same', 'caused', 'new')], [i for i, v in found.items() if v == 'caused']
    return f'{stored.count("same")} of {len(stored)} outputs as stored' + f', not those of {" ".join(changed)}'*bool(changed) + f'; for a cause, not those of {" ".join(caused)}'*bool(caused)

def kept_keys():
    "What cleaning leaves of a cell's metadata, as in settings.ini: JupyterLab folds a solution by it."
    return get_config().get('allowed_cell_metadata_keys', '').split()

def run_nb(fn, flags, write=True):
    "Run the notebook `fn` from its own folder; return the message of the cell that failed, if one did, and how its outputs compare."
    nb = read_nb(fn)
    old = shown(read_nb(fn))
    with working_directory(fn.parent):
        shell = new_shell(fn)
        for i, cell in enumerate(nb.cells, 1):
            if skip(cell, flags): continue
            cell.outputs = shell.run(cell.source, stderr=False)  # warnings go to the terminal, not into the notebook
            if shell.exc:
                text = ''.join(''.join(o['text']) for o in cell.outputs if o['output_type'] == 'stream')
                text = text or ''.join(format_exc(shell.exc))  # a closing semicolon silences the cell
                return f'{fn.name}, cell {i} (id {cell.id}) failed:\n\n{cell.source}\n\n{strip_ansi(text)}', {}
    clean_nb(nb, allowed_cell_metadata_keys=kept_keys(), clean_ids=get_config().clean_ids)
    if write: write_nb(nb, fn)
    return '', compared(old, shown(nb), fn.name)

def tell(fn, opts, **said):
    "Print what is to be said of the notebook `fn`, as a line or as data."
    if '--json' in opts: print(json.dumps(dict(notebook=fn.relative_to(get_config().nbs_path.resolve()).as_posix(), **said)), flush=True)
    else: print(said['failed'] or f'{fn.name}  {said["seconds"]:.1f} s  {same(said["outputs"])}', flush=True)

def report(fn, opts):
    "Run the notebook `fn` and tell of it; 1 if it failed."
    cfg = get_config()
    flags = set(cfg.tst_flags.split()) - set(os.environ.get('NB_FLAGS', '').split())
    failed, found = run_nb(fn, flags, write='--check' not in opts)
    took = sum(u.ru_utime+u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))  # of one core, whoever else is busy
    tell(fn, opts, seconds=took, failed=failed, outputs=found)
    return int(bool(failed))

def warm():
    "Import what the package imports from elsewhere, and forget the package."
    import torch, diffusionopd.demo, diffusionopd.teach, diffusionopd.cli, matplotlib.pyplot
    for m in [m for m in sys.modules if m.split('.')[0] == 'diffusionopd']: del sys.modules[m]
    gc.collect(); gc.freeze()  # else a fork's collector would touch, and so copy, all of that

def forked(fns, opts, jobs):
    "A process for each notebook, so that none sees what another left behind, some at a time; yields exit codes."
    warm()
    running, waiting = {}, list(fns)
    while running or waiting:
        while waiting and len(running) < jobs:
            fn = waiting.pop(0)
            sys.stdout.flush()
            if not (pid := os.fork()):
                try: sys.exit(report(fn, opts))                              # an exit as any: what waits for it is cleaned up
                except Exception: traceback.print_exc(); sys.exit(3)
            running[pid] = fn
        pid, status = os.wait()
        fn, code = running.pop(pid), os.waitstatus_to_exitcode(status)
        if code not in (0, 1): tell(fn, opts, seconds=0., failed=f'{fn.name} ended with {code}', outputs={})   # a signal, below 0, or an exit that it asked for
        yield abs(code)

def main(args):
    opts, names = [a for a in args if a.startswith('--')], [a for a in args if not a.startswith('--')]
    fns = [Path(n).resolve() for n in names or sorted(nbglob(get_config().nbs_path))]
    jobs = next((int(o.partition('=')[2]) for o in opts if o.startswith('--jobs=')), 1)
    return report(fns[0], opts) if len(fns) == 1 else max(forked(fns, opts, jobs))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
