"""Build the site in _docs/ from the notebooks, with Quarto where it is installed, else with smalldocs; then check it.

    python tools/docs.py                exit with 1 if the site cannot be built, or if check_docs.py finds a fault in it
    python tools/docs.py --unchecked    build only

With Quarto the command is the same, `make docs`; it leaves README.md alone. nbdev's own `nbdev_docs` is not called: it would
install Quarto as root where it is missing, write nbs/nbdev.yml, leave out what is done here to links and sources, and write
README.md anew by Quarto wherever that file is older than nbs/index.ipynb, which after `git clone` is chance (`make sync` writes
ours again). So its processor is called here directly. What smalldocs lacks is
done here: pages named as links name them, figures as files with their alt text, which open alone at a touch, no fonts of
third parties, and KaTeX beside the pages where npm can fetch it (else the reader's browser takes it from a CDN), so that
the site works offline.
"""
import html, re, shutil, subprocess, sys, tempfile
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.process import extract_directives
from nbdev.serve import proc_nbs
import check_docs
from readme import picture

prefix = re.compile(r'(https?://[^\s)\"\\]+)|\b\d+[a-z]*_(\w+\.ipynb)')  # of a notebook; addresses elsewhere, such as Colab's, keep it
outfile = re.compile(r'output-file: [^"\\]*\\n')
fences = re.compile(r'(^```.*?^```)', re.S | re.M)
fence, link = re.compile(r'^```.*?^```', re.S | re.M), re.compile(r'\[(`[^`]*`)\]\([^)]*\)')
signature = re.compile(r'\n```python\n.*?\n```\s*(?:\*.*\*)?\s*\Z', re.S)  # at the end of what `show_doc` says, with the docstring
quartos = re.compile(r'^ +grid: .*\n', re.M)  # what only Quarto knows in _quarto.yml: smalldocs takes the widths from styles.css
cdn = re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@([\d.]+)/dist/')

def plain(text):
    "A text with notebooks named as their pages are, without numbers."
    return prefix.sub(lambda m: m[1] or m[2], text)

def flatten(p):
    "Name the pages in `p` without their numbers, as Quarto does by `output-file`, for that is where links point; drop what only Quarto knows."
    for f in [*p.rglob('*.ipynb'), p/'_quarto.yml']:
        f.write_text(outfile.sub(r'\\n', plain(f.read_text(encoding='utf8'))), encoding='utf8')
    yml = p/'_quarto.yml'
    yml.write_text(quartos.sub('', yml.read_text(encoding='utf8')), encoding='utf8')
    for f in [*p.rglob('*.ipynb')]: f.rename(f.with_name(plain(f.name)))

def index():
    "What each module holds, as nbdev found it: module -> name -> (page, file)."
    space = {}
    exec((get_config().lib_path/'_modidx.py').read_text(encoding='utf8'), space)
    return space['d']['syms']

def modules(p):
    """Link every module named in the prose and in the Markdown outputs of the notebooks in `p` to its page, for nbdev links functions and
    classes only; and say on that page, whose title is a phrase, what Python calls it."""
    pages = {name.split('.')[-1]: next(iter(syms.values()))[0].split('#')[0] for name, syms in index().items() if syms}
    name = re.compile(r'(?<![\[`\w])`('+'|'.join(sorted(pages, key=len, reverse=True))+r')`(?![`\]])')
    for nb in p.rglob('*.ipynb'):
        cells, up, own = read_nb(nb), '../'*(len(nb.relative_to(p).parts)-1), re.sub(r'^\d+[a-z]*_', '', nb.stem)
        here = nb.relative_to(p).with_name(own+'.html').as_posix() == pages.get(own)  # this is the page of the module `own`
        linked = lambda m: m[0] if here and m[1] == own else f'[{m[0]}]({up}{pages[m[1]]})'
        prose = lambda text: ''.join(part if fence.match(part) else name.sub(linked, part) for part in fences.split(text))
        for c in cells.cells:
            if c.cell_type == 'markdown': c.source = prose(c.source)
            if here and c.source.startswith('<small>Run this page:'): c.source = c.source.replace('</small>', f'. Module `{get_config().lib_name}.{own}`</small>')
            for o in c.get('outputs', []):
                if text := ''.join(o.get('data', {}).get('text/markdown', '')): o['data']['text/markdown'] = prose(text)
        write_nb(cells, nb)

def once(nb):
    """Where the notebook at the path `nb` shows the source of what it exports, its signature and docstring are in there: above the source leave the
    heading alone, to which links lead."""
    cells, heads = read_nb(nb), []
    for c in cells.cells:
        if c.cell_type != 'code': heads = []; continue
        if re.search(r'^show_doc\(', c.source, re.M): heads.append(c)
        elif '#| code-summary: "Exported source"' in c.source:
            for o in (o for h in heads for o in h.get('outputs', [])):
                o['data']['text/markdown'] = signature.sub('', ''.join(o['data']['text/markdown']))
            heads = []
    write_nb(cells, nb)

def near(nb, home):
    """Let the links of the notebook at the path `nb` that nbdev made lead into this site, wherever it lies: to a class where
    they mean a method of it, which has no heading, and none inside code. An argument that may be left out is no `NoneType`: signatures say `=None` alone."""
    cells = read_nb(nb)
    for c in cells.cells:
        for o in c.get('outputs', []):
            if text := ''.join(o.get('data', {}).get('text/markdown', '')): o['data']['text/markdown'] = fence.sub(lambda m: link.sub(r'\1', m[0]).replace(':NoneType=None', '=None'), text)
    write_nb(cells, nb)
    up = '../'*(len(nb.relative_to(get_config().config_path/'_proc').parts)-1)
    nb.write_text(re.sub(re.escape(home)+r'([^)\s]*?#\w+)[\w.]*', rf'{up}\1', nb.read_text(encoding='utf8')), encoding='utf8')

def kind(pic):
    "How a picture `(suffix, bytes)` can be shown in the dark: a `drawing` of lines and letters turns over, what holds pixels is a `painting` and does not."
    return 'drawing' if pic[0] == '.svg' and b'<image' not in pic[1] else 'painting'

def figure(src, options, kind):
    "A picture in the markup of a figure; it leads to its file, which a reader of a small screen can enlarge."
    alt, cap = (html.escape(str(options.get(k, ''))) for k in ('fig-alt', 'fig-cap'))
    caption = f'<figcaption>{cap}</figcaption>' if cap else ''
    return (f'<div class="quarto-figure quarto-figure-center"><figure class="figure">'
            f'<p><a href="{src}" title="Open the figure alone"><img src="{src}" alt="{alt}" class="img-fluid figure-img {kind}" loading="lazy"></a></p>'
            f'{caption}</figure></div>')

def options(cell):
    "The directives of a cell."
    return {k.rstrip(':'): ' '.join(v).strip('"') for k, v in extract_directives(cell, remove=False).items()}

def figures(nb):
    "Put the pictures in the outputs of the notebook at the path `nb` into files beside it."
    cells, folder = read_nb(nb), nb.with_name(nb.stem+'_files')
    for i, c in enumerate(cells.cells):
        for j, o in enumerate(c.get('outputs', [])):
            if not (pic := picture(o.get('data', {}))): continue
            folder.mkdir(exist_ok=True)
            file = folder/f'cell-{i}-{j}{pic[0]}'
            file.write_bytes(pic[1])
            o['data'] = {'text/html': figure(f'{folder.name}/{file.name}', options(c), kind(pic))}
    write_nb(cells, nb)

def fonts(docs):
    "Let the themes use the reader's own fonts instead of fetching some from a third party."
    for f in (docs/'site_libs'/'themes').glob('*.css'):
        f.write_text(re.sub(r'@import url\(https?://[^)]*\);?', '', f.read_text(encoding='utf8')), encoding='utf8')

def katex(docs):
    "Put KaTeX beside the pages that load it from a CDN; tell if that is impossible."
    pages = {f: text for f in docs.rglob('*.html') if cdn.search(text := f.read_text(encoding='utf8'))}
    if not pages: return
    version = cdn.search(next(iter(pages.values())))[1]
    if not fetch(f'katex@{version}', docs/'site_libs'/'katex'): return print('npm cannot fetch KaTeX: pages load it from a CDN')
    for f, text in pages.items():
        up = '../'*(len(f.relative_to(docs).parts)-1)
        f.write_text(cdn.sub(f'{up}site_libs/katex/', text), encoding='utf8')

def fetch(package, target):
    "Copy what a page needs of an npm package's `dist`; false where there is no npm or no network."
    with tempfile.TemporaryDirectory() as tmp:
        if not shutil.which('npm') or subprocess.run(['npm', 'pack', '--silent', package], cwd=tmp, capture_output=True, timeout=120).returncode: return False
        shutil.unpack_archive(next(Path(tmp).glob('*.tgz')), tmp)
        dist = Path(tmp)/'package'/'dist'
        for pattern in '*.min.css', '*.min.js', 'contrib/auto-render.min.js', 'fonts/*.woff2':
            for f in dist.glob(pattern):
                to = target/f.relative_to(dist)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(f, to)
    return True

def build(cfg):
    "Write the site; a word or a number other than 0 where that fails."
    for d in cfg.config_path/'_proc', cfg.doc_path: shutil.rmtree(d, ignore_errors=True)
    _build_modidx(skip_exists=True)  # the export keeps it in step, and to write it anew would take it from under tests that run beside this
    p = proc_nbs(n_workers=0)
    for f in p.rglob('*.ipynb'): once(f)
    modules(p)
    quarto, smalldocs = shutil.which('quarto'), Path(sys.executable).with_name('smalldocs')
    if not quarto:
        if not smalldocs.exists(): return 'the site needs Quarto, or smalldocs (Python 3.11 and newer): install one of them'
        flatten(p)
        for f in p.rglob('*.ipynb'):
            near(f, cfg.doc_host+cfg.doc_baseurl+'/')
            figures(f)
    res = subprocess.call([quarto, 'render', p] if quarto else [smalldocs, 'render', '--strict', '--quiet', p])  # it would name a folder that moves
    if res: return res
    shutil.move(p/cfg.doc_path.name, cfg.doc_path)
    if not quarto:
        for d in p.rglob('*_files'): shutil.copytree(d, cfg.doc_path/d.relative_to(p))
        fonts(cfg.doc_path)
        katex(cfg.doc_path)
    n = sum(1 for _ in cfg.doc_path.rglob('*.html'))
    print(f'{n} page{"s"*(n != 1)} in {cfg.doc_path}')

def main(args):
    cfg = get_config()
    return build(cfg) or ('--unchecked' not in args and check_docs.main(cfg.doc_path, cfg.nbs_path))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
