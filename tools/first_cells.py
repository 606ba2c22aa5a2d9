"""Put the cells in place that let a notebook run anywhere: a link to Colab and Binder, an install where the package is missing, a tolerant last cell.

    python tools/first_cells.py [NOTEBOOK ...]          the ones named, else all
    python tools/first_cells.py --check [NOTEBOOK ...]  write nothing; exit with 1 if that would change anything

Every page says below its title where it can be run: its cells, or its commands where it has no other code; a page of prose says that there
is nothing to run. The first code cell does nothing where the package is installed, and tests and the site leave it out. The last one exports
the notebook in a checkout with nbdev, and is silent where a reader has only the wheel.
"""
import hashlib, json, re, sys
from pathlib import Path
from urllib.parse import quote

from nbdev.config import get_config
from nbdev.doclinks import nbglob

shell = re.compile(r'^```(?:sh|bash)\n', re.M)
PROSE = '<small>There is nothing to run on this page.</small>'
FOOTER = '#| hide\nimport nbdev; nbdev.nbdev_export()'
TOLERANT = '#| hide\ntry: import nbdev; nbdev.nbdev_export()   # in a checkout; a reader of the wheel needs no nbdev\nexcept ImportError: pass'

def setup(cfg):
    "The source of the first code cell, the same everywhere."
    return ('#| hide\n#| eval: false\ntry: import diffusionopd\n'
            f"except ImportError: get_ipython().run_line_magic('pip', 'install -q diffusionopd@git+{cfg.git_url}')")

def links(cfg, path, runs):
    "Where the notebook at `path`, relative to the repository, can be run; `runs` says what of it."
    if runs == 'nothing': return PROSE
    colab = cfg.git_url.replace('https://github.com/', 'https://colab.research.google.com/github/')
    binder = cfg.git_url.replace('https://github.com/', 'https://mybinder.org/v2/gh/')
    way = ' its commands, in a terminal of' if runs == 'commands' else ''
    return f'<small>Run this page:{way} [Colab]({colab}/blob/{cfg.branch}/{path}), [Binder]({binder}/{cfg.branch}?labpath={quote(path, safe="")})</small>'

def cell(kind, source, stem):
    "A cell whose id follows from the notebook and its purpose."
    c = dict(cell_type=kind, id=hashlib.sha256(f'{stem} {kind} first'.encode()).hexdigest()[:8], metadata={}, source=source.splitlines(True))
    return c if kind == 'markdown' else c | dict(execution_count=None, outputs=[])

def runs(nb):
    "What of a notebook can be run: its `cells`, only the `commands` in its prose, or `nothing`."
    text = lambda kind: [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == kind]
    if any('nbdev_export(' not in source for source in text('code')): return 'cells'
    return 'commands' if any(map(shell.search, text('markdown'))) else 'nothing'

def mended(nb, path, cfg):
    "The notebook with its first cells and last one in place; the cells of `nb` itself otherwise."
    stem, text = Path(path).with_suffix('').as_posix(), lambda c: ''.join(c['source'])
    ids = {cell(k, '', stem)['id'] for k in ('markdown', 'code')}
    own = lambda c: c['id'] in ids or text(c).startswith(('<small>Run this page:', PROSE)) or text(c) == setup(cfg)  # also copies, of another notebook
    cells = [c for c in nb['cells'] if not own(c)]
    cells = [c | dict(source=TOLERANT.splitlines(True)) if text(c).strip() == FOOTER else c for c in cells]
    what = runs(nb | dict(cells=cells))
    new = [cell('markdown', links(cfg, path, what), stem), cell('code', setup(cfg), stem)]
    return nb | dict(cells=cells[:1] + new[:1 if what == 'nothing' else 2] + cells[1:])

def main(args):
    cfg = get_config()
    check, names = '--check' in args, [a for a in args if a != '--check']
    stale = []
    for f in map(Path, names or sorted(nbglob(cfg.nbs_path))):
        nb = json.loads(f.read_text(encoding='utf8'))
        new = mended(nb, f.resolve().relative_to(cfg.config_path.resolve()).as_posix(), cfg)
        if new == nb: continue
        stale.append(f)
        if not check: f.write_text(json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True)+'\n', encoding='utf8')
    for f in stale: print(f'{f.name}: '+('would be changed: run `python tools/first_cells.py`' if check else 'first and last cells put in place'))
    return bool(stale and check)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
