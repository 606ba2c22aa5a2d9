"""Tell what is wrong with the site in _docs/: broken links, raw formulas and tables, figures that lack or say nothing, heavy pages.

    python tools/check_docs.py    exit with 1 if anything is wrong; `make docs` builds the site and then does this

Each fault is told with its page, the heading above it and the line of the page's HTML.
Links that leave the site are counted and not fetched: another's server may be down, and the site no worse for it.
A page weighs what its reader's browser fetches to show it: text compressed, as servers send it, and every figure.
Fonts, of which a browser fetches the few it needs, are counted by tests/test_browser.py, which has a browser.
"""
import gzip, re, sys
from bisect import bisect
from dataclasses import dataclass, field
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives
from readme import picture

HEAVIEST = 1.5e6  # bytes
link = re.compile(r'\]\([^)\s]+\)')
HEADS = {f'h{i}' for i in range(1, 7)}
SILENT = {'script', 'style', 'code', 'pre', 'svg'}  # what they hold is not prose
VOID = {'area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source', 'track', 'wbr'}
table = re.compile(r'^\|(?:\s*:?-+:?\s*\|)+\s*$', re.M)  # the line under the head of one
raw = re.compile(r'\$\$|(?<![\w\\])\$[^$\n]{1,80}\$(?!\d)|\\(?:begin|end|frac|tfrac|mathrm|mathbb|mathcal|lVert|operatorname|sqrt|sum|tag'
                 r'|alpha|beta|gamma|delta|varepsilon|epsilon|eta|theta|kappa|lambda|mu|nu|xi|pi|varrho|rho|sigma|tau|varphi|phi|chi|psi|omega|partial|nabla|cdot|times|leq|geq|approx)(?![a-z])')

@dataclass
class Page(HTMLParser):
    "What a page offers, asks for and says."
    path: Path
    ids: set = field(default_factory=set)
    links: list = field(default_factory=list)
    needs: set = field(default_factory=set)   # files fetched to show it
    alts: list = field(default_factory=list)  # of figures: (source, text)
    math: list = field(default_factory=list)  # formulas: (is it displayed?, TeX, its place)
    prose: dict = field(default_factory=dict) # the text under each heading: [(line, text), ...]
    tables: list = field(default_factory=list) # of Markdown, left raw in an output: their places
    where: dict = field(default_factory=dict) # address of a link or a file -> the place that first asks for it
    stack: list = field(default_factory=list) # open tags with their classes
    head: tuple = (0, '')                     # of the part that is read: its number and its words

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text(encoding='utf8'))

    def place(self, line=None, head=None):
        "Where something stands, in words; where the reading is, if nothing else is said."
        (_, words), line = head or self.head, line or self.getpos()[0]
        return f'under "{" ".join(words.split())}", line {line}' if words.strip() else f'line {line}'

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        kind = a.get('class') or ''
        if tag not in VOID: self.stack.append((tag, kind))
        if tag in HEADS: self.head = (self.head[0]+1, '')
        for ref in (a.get('href'), a.get('src', '')): self.where.setdefault(ref, self.place())
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'img': self.alts.append((a.get('src', ''), a.get('alt') or ''))
        if tag == 'svg':
            self.where.setdefault('an inline svg', self.place())
            self.alts.append(('an inline svg', a.get('aria-label') or ''))
        if 'math' in kind.split(): self.math.append(('display' in kind, '', self.place()))
        if tag in ('img', 'script') and a.get('src'): self.needs.add(a['src'])
        if tag == 'link' and a.get('rel') == 'stylesheet': self.needs.add(a['href'])

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop()[0] != tag: pass

    def handle_data(self, text):
        tags = {t for t, _ in self.stack}
        if tags & HEADS: self.head = (self.head[0], self.head[1]+text)
        if 'pre' in tags and table.search(text) and any('cell-output' in kind.split() for _, kind in self.stack): self.tables.append(self.place())
        if any('math' in kind.split() for _, kind in self.stack): self.math[-1] = (self.math[-1][0], self.math[-1][1]+text, self.math[-1][2])
        elif not tags & SILENT: self.prose.setdefault(self.head[0], []).append((self.getpos()[0], text, self.head))

    def at(self, ref, docs=None):
        "The file that a link of this page points to, and the anchor in it; none where it leaves the site and the repository."
        (url, anchor), cfg = urldefrag(ref), get_config()
        if url.startswith(source := f'{cfg.git_url}/blob/{cfg.branch}/'): return (cfg.config_path/unquote(url.removeprefix(source))).resolve(), ''
        if docs and url.startswith(home := f'{cfg.doc_host}{cfg.doc_baseurl}/'): return (docs/unquote(url.removeprefix(home))).resolve(), unquote(anchor)
        if urlparse(url).scheme or url.startswith('//'): return None, ''
        return ((self.path.parent/unquote(url)).resolve() if url else self.path.resolve()), unquote(anchor)

def pages(docs):
    "Every page of the site, by its path."
    return {f.resolve(): Page(f) for f in sorted(docs.rglob('*.html'))}

def leaving(site, docs=None):
    "Links that leave the site and its repository, which nobody fetches here."
    return [ref for page in site.values() for ref in page.links if page.at(ref, docs)[0] is None]

def broken(site, docs=None):
    "Links, anchors and files that are not there, on the site and in its repository."
    for page in site.values():
        for ref in [*dict.fromkeys(page.links), *sorted(page.needs)]:
            file, anchor = page.at(ref, docs)
            if file is None or ref == '#': continue
            if file.is_dir(): file = file/'index.html'
            if not file.is_file(): yield page, f'{page.where[ref]}: {ref} is not there'
            elif anchor and file in site and anchor not in site[file].ids: yield page, f'{page.where[ref]}: {ref}: no such anchor'

def untypeset(site):
    "TeX and Markdown that stand in the prose, where no reader's browser looks for them."
    for page in site.values():
        for pieces in page.prose.values():
            starts = [0]
            for _, text, _ in pieces: starts.append(starts[-1]+len(text)+1)
            for what, marks in (('formula', raw), ('link', link)):
                for found in marks.finditer(' '.join(text for _, text, _ in pieces)):
                    i = bisect(starts, found.start())-1
                    line = pieces[i][0]+pieces[i][1][:found.start()-starts[i]].count('\n')
                    yield page, f'{page.place(line, pieces[i][2])}: a {what} is not marked as one: {found[0]!r}'

def untabled(site):
    "Tables of Markdown that an output prints, where a reader sees bars and dashes."
    for page in site.values():
        for place in page.tables: yield page, f'{place}: an output holds a raw Markdown table'

def mute(site):
    "Figures without a description."
    for page in site.values():
        for src, alt in page.alts:
            if len(alt.split()) < 8: yield page, f'{page.where[src]}: {src[:60]} has no alt text to speak of: {alt!r}'

def heavy(site, most=HEAVIEST):
    "Pages that are slow to fetch."
    for page in site.values():
        if (n := weight(page)[0]) > most: yield page, f'{n/1e6:.2f} MB are more than {most/1e6:g} MB'

def weight(page):
    "Bytes to fetch for a page, compressed and not."
    sizes = [size(f) for f in (page.path, *(page.at(r)[0] for r in page.needs)) if f and f.is_file()]
    return tuple(map(sum, zip(*sizes)))

@lru_cache(None)
def size(f):
    "Bytes of a file, compressed if a server would, and as it lies."
    data = f.read_bytes()
    return len(data if f.suffix in ('.png', '.jpg') else gzip.compress(data)), len(data)

def shown(cell):
    "Pictures of a cell that its page shows."
    d = extract_directives(cell, remove=False)
    gone = 'hide' in d or d.get('include:') == ['false'] or d.get('output:') == ['false']
    return 0 if gone else sum(bool(picture(o.get('data', {}))) for o in cell.get('outputs', []))

def pictured(cell):
    "Does a cell hold a picture?"
    return any(picture(o.get('data', {})) for o in cell.get('outputs', []))

def missing(site, docs, nbs):
    "Notebooks without a page, and pages without all the pictures of their notebook."
    for nb in sorted(nbs.rglob('*.ipynb')):
        if '.ipynb_checkpoints' in nb.parts: continue
        at = docs/nb.relative_to(nbs).with_name(re.sub(r'^\d+[a-z]*_', '', nb.stem)+'.html')
        page = site.get(at.resolve())
        there, due = len(page.alts) if page else 0, sum(shown(c) for c in read_nb(nb).cells if c.cell_type == 'code')
        if page is None: yield nb, 'has no page'
        elif there < due: yield nb, f'has {due} pictures and its page {there}'
        for c in read_nb(nb).cells:
            if c.cell_type == 'code' and 'fig-cap:' in extract_directives(c, remove=False) and not pictured(c): yield nb, f'cell {c.id} has a caption and no picture'

def problems(site, docs, nbs):
    "Everything that is wrong, a line each."
    for found in broken(site, docs), untypeset(site), untabled(site), mute(site), heavy(site), missing(site, docs, nbs):
        for page, what in found: yield f'{getattr(page, "path", page)}: {what}'

def main(docs, nbs):
    "Tell what is wrong with the site in `docs`, or that nothing is; true if anything is."
    site = pages(docs)
    if not site: return print(f'there is no page in {docs}: make docs') or True
    found = [*problems(site, docs, nbs)]
    heaviest = max(site.values(), key=lambda p: weight(p)[0])
    print('\n'.join(found) or f'{len(site)} pages, {sum(len(p.links) for p in site.values())} links ({len(leaving(site, docs))} leave the site and were not fetched), {sum(len(p.math) for p in site.values())} formulas, '
          f'{sum(len(p.alts) for p in site.values())} figures: nothing is wrong; heaviest {heaviest.path.name}: '
          f'{weight(heaviest)[0]/1e6:.2f} MB, {weight(heaviest)[1]/1e6:.2f} MB unpacked')
    return bool(found)

if __name__ == '__main__': sys.exit(main(get_config().doc_path, get_config().nbs_path))
