"What the documents say, done: commands, examples, and the site itself."
import html, json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote

import pytest, typer, yaml
from accelerate.commands.launch import launch_command_parser
from execnb.nbio import read_nb
from nbdev.doclinks import nbglob

from diffusionopd.cli import app
from diffusionopd.divergence import WEIGHTINGS
from needs import need
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

# Commands that no test runs, since they stand in a sentence or are for other machines

block, span = re.compile(r'^```\w*\n(.*?)^```', re.S | re.M), re.compile(r'`([^`\n]+)`')
command = re.compile(r'(?:^|\s)((?:diffusionopd|accelerate launch)\s[^|;&<>()#]*)')

def written(text):
    "Lines of all blocks, and what stands in code letters."
    return [line for body in block.findall(text) for line in re.sub(r'\\\n\s*', ' ', body).splitlines()] + span.findall(block.sub('', text))

def unknown(line):
    "Subcommands and options of a line that there are not."
    own, wrong = typer.main.get_command(app).commands, []
    for words in map(str.split, command.findall(line)):
        if words[0] == 'accelerate':
            end = words.index('-m') if '-m' in words else len(words)
            wrong += [w for w in words[2:end] if w.startswith('-') and w.split('=')[0] not in launch_command_parser()._option_string_actions]
            words = words[end+1:]
        if words[:1] != ['diffusionopd'] or not re.fullmatch('[a-z-]+', ''.join(words[1:2])): continue
        known = {o for p in own[words[1]].params for o in (*p.opts, *p.secondary_opts, '--help')} if words[1] in own else wrong.append(words[1]) or ()
        wrong += [w for w in words[2:] if re.match('--?[a-z]', w) and w.split('=')[0] not in known]
    return wrong

def test_options_exist():
    "Every command that a page shows, run or not, has a subcommand and options that there are."
    lines = [(nb.name, line) for nb in sorted(nbglob('nbs', as_path=True)) for line in written(prose(nb))]
    assert sum(len(command.findall(line)) for _, line in lines) > 60
    assert [(name, line, w) for name, line in lines if (w := unknown(line))] == []
    assert unknown('accelerate launch --num_machinez 2 -m diffusionopd distill r.yaml --ot x') == ['--num_machinez', '--ot'] and unknown('diffusionopd reportt runs/x') == ['reportt']

def test_table_of_the_house():
    "The table of the architecture page has every module."
    page = prose(Path('nbs/explanations/architecture.ipynb'))
    told = [m for row in re.findall(r'^\| .*', page, re.M)[1:] for m in re.findall(r'`(\w+)`', row.split('|')[2])]
    assert sorted(told) == sorted(p.stem for p in Path('diffusionopd').glob('*.py') if p.stem[0] != '_' and p.stem not in ('errors', 'show'))

# The site

@pytest.fixture(scope='module')
def pages(site): return check_docs.pages(site)

def test_site(pages, site, repo):
    "No broken link or anchor, no raw formula, no figure that is missing or mute, no heavy page."
    found = [*check_docs.problems(pages, site, repo/'nbs')]
    if found: pytest.fail('\n'.join(found), pytrace=False)

def test_pages_say_where_they_run(site):
    "Below its title, every page of a notebook says where it can be run, or that there is nothing to run."
    asked = {f: re.search(r'<small>(Run this page:.*?|There is nothing to run on this page.)</small>', f.read_text(encoding='utf8')) for f in site.rglob('*.html')}
    assert [f.name for f, found in asked.items() if not found] == ['changelog.html']
    run = [found[1] for found in asked.values() if found and found[1].startswith('Run')]
    there = [re.findall(r'blob/main/([^"]+)"|labpath=([^"]+)"', r) for r in run]
    assert len(run) > 80 and all(len(found) == 2 and all(Path(unquote(a or b)).is_file() for a, b in found) for found in there)

def test_titles(site):
    "A page of Learn is called by the same phrase at its head, in the sidebar, in the browser's tab and where its neighbours point to it; it tells its module's name."
    learn = next(p for p in yaml.safe_load(open('_quarto.yml'))['website']['sidebar']['contents'] if isinstance(p, dict) and p['section'] == 'Learn')['contents']
    where = {docs.plain(f).replace('.ipynb', '.html'): re.match('# (.*)', read_nb(f'nbs/{f}').cells[0].source)[1] for f in learn}
    texts = lambda page, pattern: [re.sub(r'<.*?>', '', html.unescape(t)).strip() for t in re.findall(pattern, page, re.S)]
    for (name, title), after in zip(where.items(), [*where][1:]):
        page = (site/name).read_text(encoding='utf8')
        assert re.match(r'\w+: \w+ ', title) and texts(page, r'<h1.*?>(.*?)</h1>') == [title]
        assert texts(page, rf'<a [^>]*href="(?:\./)?{after}"[^>]*>(.*?)</a>').count(where[after]) >= 2     # in the sidebar, and at the page's foot
        assert texts(page, r'<title>(.*?)</title>')[0].startswith(title) and f'diffusionopd.{name[:-5]}</code>' in page

def test_reference_has_groups(site):
    "In the list of pages each module stands in a group of ten at most, after its name come a few words, and the reference has the same groups."
    part = next(p for p in yaml.safe_load(open('_quarto.yml'))['website']['sidebar']['contents'] if isinstance(p, dict) and p['section'] == 'API reference')['contents']
    module = lambda page: re.sub(r'^\d+[a-z]*_', '', (page['href'] if isinstance(page, dict) else page)).removesuffix('.ipynb')
    groups = {p['section']: [*map(module, p['contents'])] for p in part if isinstance(p, dict)}
    text = '\n'.join(''.join(o['data'].get('text/markdown', '')) for c in read_nb('nbs/reference.ipynb').cells if c.cell_type == 'code' for o in c.outputs if o.get('data'))
    told = {head: re.findall(r'^### (.*)', body, re.M) for head, body in re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', text, re.M | re.S)}
    assert len(groups) > 8 and max(map(len, groups.values())) <= 10 and set(told) == {*groups, 'Learn', 'Command line and explorers'} - {'Command line'}
    for head, modules in groups.items(): assert set(modules) == set(told.get(head) or told['Command line and explorers']) - {'explore'}, head
    side = (site/'reference.html').read_text(encoding='utf8').split('id="quarto-sidebar"')[1].split('</nav>')[0]
    words = {page: html.unescape(text) for page, text in re.findall(r'<a href="(\w+)\.html" class="sidebar-item-text[^"]*"[^>]*><span class="menu-text">(.*?)</span>', side)}
    assert [m for ms in groups.values() for m in ms if not re.fullmatch(rf'(?i){m}: \w.+', words[m])] == []

def test_signatures(site):
    "An argument that may be left out has no type that nobody gave it, and a page of Learn shows what its functions do."
    assert [f.name for f in site.rglob('*.html') if 'NoneType=' in re.sub(r'<.*?>', '', f.read_text(encoding='utf8'))] == []
    shown = lambda name: html.unescape(re.sub(r'<.*?>', '', (site/name).read_text(encoding='utf8')))
    assert shown('divergence.html').count('def gaussian_kl(') == 1 and 'id="gaussian_kl"' in (site/'divergence.html').read_text(encoding='utf8')       # the source once, under a heading that links lead to
    for name, line in {'paths.html': 'return (x - bcast(sigma, x)*v).to(x.dtype)', 'divergence.html': 'WEIGHTINGS = dict(', 'distill.html': 'def one_pass('}.items(): assert line in shown(name)

def test_names_are_links(site):
    "A function, a class or a module that a page names in code letters leads to its place, except from its own page and from the changelog, which tells of the past."
    where = {name.split('.')[-1]: next(iter(syms.values()))[0].split('#')[0] for name, syms in docs.index().items() if syms}
    where |= {s.removeprefix(f'{name}.'): page.split('#')[0] for name, syms in docs.index().items() for s, (page, _) in syms.items()}
    plain, linked = [], 0
    for f in sorted(site.rglob('*.html')):
        prose = re.sub(r'<pre.*?</pre>|<title>.*?</title>', '', f.read_text(encoding='utf8'), flags=re.S)
        for a, name in re.findall(r'(<a [^>]*>)?<code[^>]*>([\w.]+)</code>', prose):
            if name not in where or name in WEIGHTINGS or f.name in (where[name], 'changelog.html'): continue     # a weighting may be called like a function
            linked += bool(a)
            if not a: plain.append(f'{f.name}: {name}')
    assert linked > 1500 and plain == ['notation.html: gap', 'notation.html: log_ratio', 'notation.html: scale']    # a field and arguments, which have the names of functions

def test_formulas_are_read(pages, site):
    "KaTeX, which sets the formulas in a reader's browser, understands every one."
    katex = site/'site_libs'/'katex'/'katex.min.js'
    need('node', shutil.which('node') and katex.is_file(), 'node and npm are needed to ask KaTeX')
    formulas = [(f'{p.path.name}, {place}', display, tex.strip()[2:-2]) for p in pages.values() for display, tex, place in p.math]
    asked = f'''
const katex = require({json.dumps(str(katex))}), wrong = []
for (const [page, displayMode, tex] of JSON.parse(require("fs").readFileSync(0)))
  try {{ katex.renderToString(tex, {{displayMode, strict: "ignore"}}) }} catch (e) {{ wrong.push(page + ": " + e.message) }}
console.log(JSON.stringify(wrong))'''
    said = subprocess.run(['node', '-e', asked], input=json.dumps(formulas), capture_output=True, text=True, check=True).stdout
    assert len(formulas) > 1000 and json.loads(said) == []

WRONG = {
    'no.html is not there': '<a href="no.html">there</a>',
    'no such anchor': '<a href="#nowhere">here</a>',
    'x.svg is not there': '<img src="x.svg" alt="a picture of which the file is not there">',
    'no alt text': '<img src="data:image/png;base64," alt="figure">',
    'formula is not marked': '<p>where $x_0$ is data</p>',
    "formula is not marked as one: '\\\\mu'": r'<p>where \mu_S is small</p>',
    'nbs/no.ipynb is not there': '<a href="https://github.com/diffusionopd/diffusionopd/blob/main/nbs/no.ipynb">there</a>',
    'diffusionopd.github.io/diffusionopd/no.html is not there': '<a href="https://diffusionopd.github.io/diffusionopd/no.html">there</a>',
    'link is not marked': '<p>[there](page.html)</p>',
    'an output holds a raw Markdown table': '<div class="cell-output cell-output-stdout"><pre><code>| a | b |\n|:--|--:|\n| 1 | 2 |\n</code></pre></div>',
    'are more than': '<script src="heavy.js"></script>',
}

def problems(docs, nbs): return [*check_docs.problems(check_docs.pages(docs), docs, nbs)]

@pytest.mark.parametrize('what', WRONG)
def test_the_site_can_be_wrong(what, tmp_path, capsys):
    "Each kind of fault is noticed and its place told, and nothing is found in a page without any."
    docs, nbs = tmp_path/'docs', tmp_path/'nbs'
    docs.mkdir(); nbs.mkdir()
    (docs/'heavy.js').write_bytes(os.urandom(1_600_000))
    page = lambda body: (docs/'page.html').write_text(f'<html><body id="top"><a href="#top">up</a><code>$x$</code><pre><code>|:--|</code></pre>\n<h2>Some <em>part</em></h2>\n<p>$ 5\n</p>{body}</body></html>')
    page('')
    assert problems(docs, nbs) == [] and not check_docs.main(docs, nbs)
    page(WRONG[what])
    found = problems(docs, nbs)
    assert len(found) == 1 and what in found[0] and ('page.html: under "Some part", line 4: ' in found[0] or 'heavy' in WRONG[what])
    capsys.readouterr()
    assert check_docs.main(docs, nbs) and capsys.readouterr().out == found[0]+'\n'

def test_links_that_leave_are_counted(tmp_path, capsys):
    "Nobody fetches a link that leaves the site, and the report says how many there are; the repository's own do not leave."
    (tmp_path/'page.html').write_text('<a href="https://arxiv.org/abs/1">a paper</a><a href="https://arxiv.org/abs/1">again</a><a href="#top">up</a><p id="top"></p>'
                                      '<a href="https://github.com/diffusionopd/diffusionopd/blob/main/README.md">ours</a>')
    assert check_docs.leaving(check_docs.pages(tmp_path), tmp_path) == 2*['https://arxiv.org/abs/1']
    assert not check_docs.main(tmp_path, tmp_path) and '4 links (2 leave the site and were not fetched)' in capsys.readouterr().out

def test_a_build_checks_itself(repo, tmp_path):
    "A site that is built with a broken link in it is a failure, unless nobody wants to know."
    if sys.version_info < (3, 11): pytest.skip('smalldocs, which builds the site, needs Python 3.11')
    (tmp_path/'nbs').mkdir(); (tmp_path/'diffusionopd').mkdir()
    shutil.copy(repo/'settings.ini', tmp_path)
    (tmp_path/'diffusionopd'/'__init__.py').write_text('__version__ = "0.1.0"\n')
    (tmp_path/'nbs'/'_quarto.yml').write_text('project: {type: website, output-dir: _docs}\nformat: {html: {toc: true}}\nwebsite: {title: small, sidebar: {contents: [index.ipynb]}}\n')
    cells = [dict(cell_type='markdown', id=f'c{i}', metadata={}, source=text) for i, text in enumerate(['# Small', '## Here\n\nA page that leads [nowhere](#nowhere).'])]
    (tmp_path/'nbs'/'index.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    build = lambda *more: subprocess.run([sys.executable, repo/'tools'/'docs.py', *more], cwd=tmp_path, capture_output=True, text=True)
    run = build()
    assert run.returncode == 1 and f'1 page in {tmp_path/"_docs"}' in run.stdout and 'under "Here"' in run.stdout and '#nowhere: no such anchor' in run.stdout
    assert build('--unchecked').returncode == 0

def test_a_figure_can_be_missing(site, repo, tmp_path):
    "A page without one of its notebook's pictures is noticed, and so are a notebook without a page and a caption without a picture."
    found = lambda pages, nbs=repo/'nbs': {what for _, what in check_docs.missing(pages, site, nbs)}
    there = check_docs.pages(site)
    page = there[(site/'paths.html').resolve()]
    page.alts.pop()
    assert found(there) == {f'has {len(page.alts)+1} pictures and its page {len(page.alts)}'}
    assert found({}) == {'has no page'}
    bare = dict(cell_type='code', id='bare', metadata={}, execution_count=None, outputs=[], source='#| fig-cap: "A picture"\npass')
    (tmp_path/'a.ipynb').write_text(json.dumps(dict(cells=[bare], metadata={}, nbformat=4, nbformat_minor=5)))
    assert found({}, tmp_path) == {'has no page', 'cell bare has a caption and no picture'}
