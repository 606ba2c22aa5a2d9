"""Build the site in _docs/ from the notebooks: with Quarto where it is installed, else with smalldocs.

nbdev's own `nbdev_docs` would install Quarto as root, so its processor is called here directly.
"""
import re, shutil, subprocess, sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.serve import proc_nbs

prefix = re.compile(r'\b\d+[a-z]*_(\w+\.ipynb)')
outfile = re.compile(r'output-file: [^"\\]*\\n')

def flatten(p):
    "Name the pages in `p` without their numbers, as Quarto does by `output-file`, for that is where links point."
    for f in [*p.rglob('*.ipynb'), p/'_quarto.yml']:
        f.write_text(outfile.sub(r'\\n', prefix.sub(r'\1', f.read_text(encoding='utf8'))), encoding='utf8')
    for f in [*p.rglob('*.ipynb')]: f.rename(f.with_name(prefix.sub(r'\1', f.name)))

def main():
    cfg = get_config()
    for d in cfg.config_path/'_proc', cfg.doc_path: shutil.rmtree(d, ignore_errors=True)
    _build_modidx()
    p = proc_nbs(n_workers=0)
    quarto, smalldocs = shutil.which('quarto'), Path(sys.executable).with_name('smalldocs')
    if not quarto:
        if not smalldocs.exists(): return 'the site needs Quarto, or smalldocs (Python 3.11 and newer): install one of them'
        flatten(p)
    res = subprocess.call([quarto, 'render', p] if quarto else [smalldocs, 'render', '--strict', p])
    if not res: shutil.move(p/cfg.doc_path.name, cfg.doc_path)
    return res

if __name__ == '__main__': sys.exit(main())
