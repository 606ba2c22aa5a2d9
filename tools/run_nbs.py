"""Execute notebooks in place, keep their outputs, and leave them clean.

    python tools/run_nbs.py                          every notebook
    python tools/run_nbs.py nbs/02_paths.ipynb       the ones named
    python tools/run_nbs.py --check [NOTEBOOK ...]   run, but write nothing; tell how many outputs come out as they are stored
    python tools/run_nbs.py --check --json NOTEBOOK  the same as data, with the place where an output differs

Notebooks import the installed package. Cells that the checks skip (`#| eval: false` and the flags in settings.ini) keep
the outputs they had, so pictures made on a GPU survive; NB_FLAGS="slow cuda" runs those cells too.
"""
import json, math, os, re, resource, subprocess, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell, format_exc
from fastcore.ansi import strip_ansi
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

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

number, name = re.compile(r'(-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]?\d+)'), re.compile(r'\b[mp][0-9a-f]{10}\b')  # of a path in an SVG: a hash of its numbers

zero = re.compile(r'(?<![\d.])-0(?![\d.])')  # a rounded number that was below zero

def shown(nb):
    "What each code cell shows, as one text."
    text = lambda o: ''.join(o.get('text') or '') + ''.join(k + ''.join(v) for k, v in sorted(o.get('data', {}).items()))
    return {c.id: '\n'.join(map(text, c.outputs)) for c in nb.cells if c.cell_type == 'code' and c.outputs}

def alike(old, new):
    "Are two outputs the same, up to the last digits, in which processors differ?"
    (a, b), near = (number.split(zero.sub('0', name.sub('', x))) for x in (old, new)), lambda x, y: math.isclose(float(x), float(y), rel_tol=1e-3, abs_tol=1e-2)
    return len(a) == len(b) and a[::2] == b[::2] and all(map(near, a[1::2], b[1::2]))

def compared(old, new):
    "Cell -> `same`, `new` (nothing was stored) or where an output first differs, as (stored, fresh)."
    def verdict(a, b):
        if a and b: return 'same' if alike(a, b) else apart(a, b)
        return 'new' if b else (a[:80], '')
    return {i: verdict(old.get(i, ''), new.get(i, '')) for i in sorted({*old, *new})}

def apart(a, b):
    "Where two texts first differ: a few characters of each from there."
    a, b = (re.split(r'(\s+)', x) for x in (a, b))
    i = next((i for i, (x, y) in enumerate(zip(a, b)) if not alike(x, y)), min(len(a), len(b)))
    return tuple(''.join(x[max(0, i-6):i+12])[:160] for x in (a, b))

def same(found):
    "The verdicts of `compared` in one line; times and temporary folders never are as stored."
    stored, changed = [v for v in found.values() if v != 'new'], [i for i, v in found.items() if v not in ('same', 'new')]
    return f'{stored.count("same")} of {len(stored)} outputs as stored' + f', not those of {" ".join(changed)}'*bool(changed)

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
    return '', compared(old, shown(nb))

def main(args):
    cfg = get_config()
    opts, names = [a for a in args if a.startswith('--')], [a for a in args if not a.startswith('--')]
    if len(names) != 1:  # a process for each, so that no notebook sees what another left behind
        return max(subprocess.call([sys.executable, __file__, *opts, str(n)]) for n in names or sorted(nbglob(cfg.nbs_path)))
    fn = Path(names[0]).absolute()
    flags = set(cfg.tst_flags.split()) - set(os.environ.get('NB_FLAGS', '').split())
    failed, found = run_nb(fn, flags, write='--check' not in opts)
    took = sum(u.ru_utime+u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))  # of one core, whoever else is busy
    if '--json' in opts: print(json.dumps(dict(notebook=fn.relative_to(cfg.nbs_path.resolve()).as_posix(), seconds=took, failed=failed, outputs=found)))
    else: print(failed or f'{fn.name}  {took:.1f} s  {same(found)}', flush=True)
    return int(bool(failed))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
