"""Execute notebooks in place, keep their outputs, and leave them clean.

    python tools/run_nbs.py                          every notebook
    python tools/run_nbs.py nbs/02_paths.ipynb       the ones named
    python tools/run_nbs.py --check [NOTEBOOK ...]   run, but write nothing; tell how many outputs come out as they are stored

Notebooks import the installed package. Cells that the checks skip (`#| eval: false` and the flags in settings.ini) keep
the outputs they had, so pictures made on a GPU survive; NB_FLAGS="slow cuda" runs those cells too.
"""
import math, os, re, subprocess, sys, time
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

number, name = re.compile(r'(-?\d+\.\d+)'), re.compile(r'\b[mp][0-9a-f]{10}\b')  # of a path in an SVG: a hash of its numbers

def shown(nb):
    "What each code cell shows, as one text."
    text = lambda o: ''.join(o.get('text') or '') + ''.join(k + ''.join(v) for k, v in sorted(o.get('data', {}).items()))
    return {c.id: '\n'.join(map(text, c.outputs)) for c in nb.cells if c.cell_type == 'code' and c.outputs}

def alike(old, new):
    "Are two outputs the same, up to the last digits, in which processors differ?"
    (a, b), near = (number.split(name.sub('', x)) for x in (old, new)), lambda x, y: math.isclose(float(x), float(y), rel_tol=1e-3, abs_tol=1e-2)
    return len(a) == len(b) and a[::2] == b[::2] and all(map(near, a[1::2], b[1::2]))

def same(old, new):
    "How many outputs are as they were; times and temporary folders never are."
    changed = [i for i in sorted({*old, *new}) if not alike(old.get(i, ''), new.get(i, ''))]
    return f'{len(old)-len(changed)} of {len(old)} outputs as stored' + f', not those of {" ".join(changed)}'*bool(changed)

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
                return f'{fn.name}, cell {i} (id {cell.id}) failed:\n\n{cell.source}\n\n{strip_ansi(text)}', ''
    clean_nb(nb, allowed_cell_metadata_keys=kept_keys(), clean_ids=get_config().clean_ids)
    if write: write_nb(nb, fn)
    return '', same(old, shown(nb))

def main(args):
    cfg = get_config()
    opts, names = [a for a in args if a == '--check'], [a for a in args if a != '--check']
    if len(names) != 1:  # a process for each, so that no notebook sees what another left behind
        return max(subprocess.call([sys.executable, __file__, *opts, str(n)]) for n in names or sorted(nbglob(cfg.nbs_path)))
    fn, start = Path(names[0]).absolute(), time.time()
    flags = set(cfg.tst_flags.split()) - set(os.environ.get('NB_FLAGS', '').split())
    failed, compared = run_nb(fn, flags, write=not opts)
    print(failed or f'{fn.name}  {time.time()-start:.1f} s  {compared}', flush=True)
    return int(bool(failed))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
