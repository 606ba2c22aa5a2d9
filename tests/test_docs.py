"What the documents say, done: commands, examples, and the site itself."
import json, os, re, shutil, subprocess, sys

import pytest
from execnb.nbio import read_nb
from nbdev.doclinks import nbglob

from shells import bash, path, shell

sys.path.insert(0, 'tools')
import check_docs, docs

def test_shipped_recipe_is_the_long_demo(repo, opd, tmp_path):
    "recipes/three-teachers.yaml computes what `diffusionopd demo --long` computes."
    opd.python(tmp_path, f'''
from diffusionopd.demo import demo_recipe
from diffusionopd.recipes import load_recipe
from diffusionopd.checkpoints import differences, recipe_core
found = differences(recipe_core(load_recipe('distill', {str(repo/'recipes'/'three-teachers.yaml')!r})), recipe_core(demo_recipe('long')))
assert not found, found''')

# Commands of a page, from top to bottom; those of the README are in test_readme.py.

def prose(nb): return '\n\n'.join(c.source for c in read_nb(nb).cells if c.cell_type == 'markdown')

told = [p for p in sorted(nbglob('nbs', as_path=True)) if p.name != 'index.ipynb' and shell.search(prose(p))]

@pytest.mark.parametrize('page', told, ids=lambda p: p.stem)
def test_commands_of_a_page(page, path, tmp_path):
    "A reader who pastes every command of a page into a shell gets to its end."
    bash('\n'.join(shell.findall(prose(page))), tmp_path, path)

# The site

@pytest.fixture(scope='module')
def pages(site): return check_docs.pages(site)

def test_site(pages, site, repo):
    "No broken link or anchor, no raw formula, no figure that is missing or mute, no heavy page."
    found = [*check_docs.problems(pages, site, repo/'nbs')]
    if found: pytest.fail('\n'.join(found), pytrace=False)

def test_names_are_links(site):
    "A function, a class or a module that a page names in code letters leads to its place, except from its own page and from the changelog, which tells of the past."
    where = {name.split('.')[-1]: next(iter(syms.values()))[0].split('#')[0] for name, syms in docs.index().items() if syms}
    where |= {s.removeprefix(f'{name}.'): page.split('#')[0] for name, syms in docs.index().items() for s, (page, _) in syms.items()}
    plain, linked = [], 0
    for f in sorted(site.rglob('*.html')):
        prose = re.sub(r'<pre.*?</pre>|<title>.*?</title>', '', f.read_text(encoding='utf8'), flags=re.S)
        for a, name in re.findall(r'(<a [^>]*>)?<code[^>]*>([\w.]+)</code>', prose):
            if name not in where or f.name in (where[name], 'changelog.html'): continue
            linked += bool(a)
            if not a: plain.append(f'{f.name}: {name}')
    assert linked > 1500 and plain == ['notation.html: gap']    # a field of a record, which has the name of a function

def test_formulas_are_read(pages, site):
    "KaTeX, which sets the formulas in a reader's browser, understands every one."
    katex = site/'site_libs'/'katex'/'katex.min.js'
    if not (shutil.which('node') and katex.is_file()): pytest.skip('node and npm are needed to ask KaTeX')
    formulas = [(p.path.name, display, tex.strip()[2:-2]) for p in pages.values() for display, tex in p.math]
    asked = f'''
const katex = require({json.dumps(str(katex))}), wrong = []
for (const [page, displayMode, tex] of JSON.parse(require("fs").readFileSync(0)))
  try {{ katex.renderToString(tex, {{displayMode, strict: "ignore"}}) }} catch (e) {{ wrong.push(page + ": " + e.message) }}
console.log(JSON.stringify(wrong))'''
    said = subprocess.run(['node', '-e', asked], input=json.dumps(formulas), capture_output=True, text=True, check=True).stdout
    assert len(formulas) > 400 and json.loads(said) == []

WRONG = {
    'no.html is not there': '<a href="no.html">there</a>',
    'no such anchor': '<a href="#nowhere">here</a>',
    'x.svg is not there': '<img src="x.svg" alt="a picture that is not there">',
    'no alt text': '<img src="data:image/png;base64," alt="figure">',
    'formula is not marked': '<p>where $x_0$ is data</p>',
    'link is not marked': '<p>[there](page.html)</p>',
    'are more than': '<script src="heavy.js"></script>',
}

def problems(docs, nbs): return [*check_docs.problems(check_docs.pages(docs), docs, nbs)]

@pytest.mark.parametrize('what', WRONG)
def test_the_site_can_be_wrong(what, tmp_path):
    "Each kind of fault is noticed, and nothing is found in a page without any."
    docs, nbs = tmp_path/'docs', tmp_path/'nbs'
    docs.mkdir(); nbs.mkdir()
    (docs/'heavy.js').write_bytes(os.urandom(1_600_000))
    page = lambda body: (docs/'page.html').write_text(f'<html><body id="top"><a href="#top">up</a><code>$x$</code>{body}</body></html>')
    page('')
    assert problems(docs, nbs) == []
    page(WRONG[what])
    found = problems(docs, nbs)
    assert len(found) == 1 and what in found[0]

def test_a_figure_can_be_missing(site, repo):
    "A page without one of its notebook's pictures is noticed, and so is a notebook without a page."
    found = lambda pages: {what for _, what in check_docs.missing(pages, site, repo/'nbs')}
    there = check_docs.pages(site)
    page = there[(site/'paths.html').resolve()]
    page.alts.pop()
    assert found(there) == {f'has {len(page.alts)+1} pictures and its page {len(page.alts)}'}
    assert found({}) == {'has no page'}
