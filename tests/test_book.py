"The notebooks as a reader's path: a question, what was shown, exercises whose solutions are folded and run, and pages that run anywhere."
import base64, io, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives
from PIL import Image

from diffusionopd.kernels import SOLVERS
from needs import need

sys.path.insert(0, 'tools')
import causes, check_docs, first_cells, run_nbs

notebooks = sorted(nbglob('nbs', as_path=True))
theory = [p for p in notebooks if re.match(r'(0[2-8]|1[0-2])[bc]?_', p.name) and not re.match(r'12[b-z]_', p.name)]
each = pytest.mark.parametrize('nb', theory, ids=lambda p: p.stem)

def texts(nb): return [c.source for c in read_nb(nb).cells if c.cell_type == 'markdown']

@each
def test_opens_with_its_question(nb):
    "The first prose of a theory notebook asks what the notebook answers."
    prose = [t for t in texts(nb)[1:] if not t.startswith('<small>')]
    assert '?' in prose[0].split('\n\n')[0], prose[0]

@each
def test_closes_with_what_was_shown(nb):
    heads = re.findall(r'^## (.*)', '\n'.join(texts(nb)), re.M)
    assert heads[-2:] == ['Exercises', 'What if'] and heads[-3] == 'What was shown'

@each
def test_shows_its_code(nb):
    "What a theory notebook exports, its page shows: functions and classes beside their formulas, and what only the checks import, in a fold."
    cells = [(c.source, extract_directives(c, remove=False)) for c in read_nb(nb).cells if c.cell_type == 'code']
    assert [s[:60] for s, d in cells if 'export' in d and '_all_' not in s] == []
    imports = [d for s, d in cells if not {'hide', 'exports'} & d.keys() and re.fullmatch(r'(#\|.*\n|\s*(from|import) .*\n?|\s.*\n?)+', s)]
    assert imports and all('code-fold:' in d for d in imports)

@each
def test_exercises(nb):
    "Two to four, each with a folded solution, and a cell that runs it."
    cells = read_nb(nb).cells
    start = next(i for i, c in enumerate(cells) if c.cell_type == 'markdown' and c.source.startswith('## Exercises'))
    text = '\n'.join(c.source for c in cells[start:] if c.cell_type == 'markdown')
    asked = re.findall(r'^\*\*(\d)\. \w+', text, re.M)
    assert asked == [str(i+1) for i in range(len(asked))] and 2 <= len(asked) <= 4
    assert len(re.findall(r'<details>\n<summary>Solution</summary>\n\n.+?\n\n</details>', text, re.S)) == text.count('<details>') == len(asked)
    checks = [c for c in cells[start:] if c.cell_type == 'code' and '#| code-summary: "Solution' in c.source]
    assert len(checks) == len(asked) and all('assert' in c.source and c.metadata == {'jupyter': {'source_hidden': True}} for c in checks)

@each
def test_what_if(nb):
    "A cell with a knob in capitals on its first line, and its output."
    cells = read_nb(nb).cells
    start = next(i for i, c in enumerate(cells) if c.cell_type == 'markdown' and '## What if' in c.source)
    code = [c for c in cells[start+1:] if c.cell_type == 'code' and 'hide' not in extract_directives(c, remove=False)]
    assert len(code) == 1 and re.match(r'(#\|.*\n)*[A-Z]+(, [A-Z]+)* = ', code[0].source) and code[0].outputs
    knobs = re.findall(r'^([A-Z]+(?:, [A-Z]+)*) = ', code[0].source, re.M)[0].split(', ')
    assert all(re.search(rf'\b{k}\b', code[0].source.split('=', 1)[1]) for k in knobs)

# Outputs as stored

def png(level, size=2):
    "A grey picture as a notebook stores it."
    Image.new('L', (size, 2), level).save(out := io.BytesIO(), 'png')
    return 'data:image/png;base64,'+base64.b64encode(out.getvalue()).decode()

LIKE = [('0.970', '0.971'), ('0.999', '1.000'), ('-0.0', '0.1'), ('101.4 (99.7 to 103.4) %', '101.4 (99.8 to 103.3) %'), ('0.3', '0.30000000000000004'), ('0.3', '0.31'), ('12345.678', '12345.701'), ('3.1e-07', '3.2e-07'), ('9.9e-05', '1.0e-04'),
        ('of -0 and', 'of 0 and'), ('<svg>M 12.3 4</svg>', '<svg>M 12.38 4.003</svg>'), ('<svg><path id="m0123456789"/></svg>', '<svg><path id="mabcdef0123"/></svg>'), ('-0.00 <svg>1</svg>', '0.00 <svg>1</svg>'),
        (f'<svg><image id="image0123456789" href="{png(100)}"/></svg>', f'<svg><image id="imageabcdef0123" href="{png(102)}"/></svg>')]
UNLIKE = [('0.970', '0.979'), ('0.970', '0.972'), ('0.3', '0.39'), ('101.4', '102.4'), ('3.1e-07', '3.9e-07'), ('1e-07', '3e-07'), ('12 of 13', '13 of 13'), ('0.970', '0.97 0'), ('0.97', '-0.97'), ('12345.678', '12346.678'), ('a 0.1', 'b 0.1'),
          ('<svg>M 12.3 4</svg>', '<svg>M 12.4 4</svg>'), ('<svg>M 12.3 4</svg>', '<svg>M 12.3 5</svg>'), ('<svg><use href="#glyph-39"/></svg>', '<svg><use href="#glyph-38"/></svg>'), ('0.97 <svg>1.5</svg>', '0.99 <svg>1.5</svg>'), ('<svg>1</svg>', '1'),
          (f'<svg><image href="{png(100)}"/></svg>', f'<svg><image href="{png(104)}"/></svg>'), (png(100), png(100, 3)), (f'{png(1)} {png(2)}', png(1))]

@pytest.mark.parametrize('old, new', LIKE)
def test_alike(old, new):
    "What processors round differently: one unit of the last printed digit, less than a tenth of a point in a drawing, and two levels of a pixel."
    assert run_nbs.alike(old, new) and run_nbs.alike(new, old)

@pytest.mark.parametrize('old, new', UNLIKE)
def test_unlike(old, new):
    "More than that is another result, and is told from the place where it begins."
    assert not run_nbs.alike(old, new) and not run_nbs.alike(new, old)
    assert run_nbs.compared(dict(a='0.5 '+old), dict(a='0.5 '+new))['a'] == run_nbs.apart('0.5 '+old, '0.5 '+new) != 'same'

CAUSED = [  # a cell, an output, another one that is told to differ for a cause, and one that is a fault
    ('12_readers.ipynb', '90a8ea39', 'templates 0.00\ntesseract 0.01\nppocr 0.00\n', 'templates 0.00\ntesseract 0.33\n', 'templates 0.40\ntesseract 0.01\nppocr 0.00\n'),
    ('12_readers.ipynb', '3dbc68ff', 'size 11: templates 0.00, tesseract 1.00, ppocr 1.00', 'size 11: templates 0.00', 'size 11: templates 0.50, tesseract 1.00, ppocr 1.00'),
    ('12_readers.ipynb', '05d8dc0d', 'templates keeps 1\nppocr 2\nimage/svg+xml<svg>\n1</svg>text/plain<Figure size 7x2>', 'templates keeps 1\nimage/svg+xml<svg>2</svg>', 'templates keeps 2\nppocr 2\nimage/svg+xml<svg>\n1</svg>'),
    ('12c_lettering.ipynb', '33f18b74', 'Cells are skipped, since it rains\n', '', 'Cells are skipped, since it rains\nNo other.\n'),
    ('15b_conformance.ipynb', 'f07a5d76', 'rows 4e-07', 'rows 9e-07', 'rows 4e+00'),
    ('26_explore.ipynb', '0bcf9116', 'image/svg+xml<svg>12 s</svg>', 'image/svg+xml<svg>15 s</svg>', 'image/svg+xml<svg>12 s</svg>More.'),
]

@pytest.mark.parametrize('nb, cell, old, other, fault', CAUSED, ids=lambda x: x if str(x).endswith('.ipynb') else '')
def test_a_cause_is_of_a_part(nb, cell, old, other, fault):
    "Of the cell that `causes` names, only the part may differ that it names; and the same difference in another cell, or another notebook, is a fault."
    ask = lambda a, b, i=cell, n=nb: run_nbs.compared({i: a} if a else {}, {i: b} if b else {}, n).get(i)
    assert ask(old, other) == 'caused' and ask(old, old) == 'same' and ask(other, old) in ('caused', None)
    assert ask(old, fault) not in ('same', 'caused') and all(ask(old, other, *x) not in ('same', 'caused', None) for x in (('0000',), (cell, '03_kernels.ipynb')))

def test_causes_are_of_cells():
    "Each cause names a cell of its notebook, a part that is not everything, and, where the cell has an output, one that is in it."
    for name, cells in causes.CAUSES.items():
        nb = read_nb(f'nbs/{name}')
        there, shown = {c.id for c in nb.cells if c.cell_type == 'code'}, run_nbs.shown(nb)
        assert [i for i in cells if i not in there] == [], name
        for i, (_, why) in cells.items():
            assert why and causes.rest(name, i, 'Words, 12 and 0.5.') == 'Words, 12 and 0.5.'
            if i in shown: assert causes.rest(name, i, shown[i]) != shown[i], (name, i)

# A minute

MINUTES = re.compile(r'takes (about|some|more than|a few) .{0,12}minutes?\b')

def book(): return json.loads(Path('diffusionopd/assets/book.json').read_text())
def measured(): return {n['notebook']: n['seconds'] for n in book()['notebooks']}

def test_every_notebook_was_measured():
    "None escapes the rule of the minute, or the page that tells of them all."
    there, known = {nb.relative_to('nbs').as_posix() for nb in notebooks}, measured().keys()
    lost = sorted(there - known)
    assert not lost, f'not measured: python tools/measure_book.py --json diffusionopd/assets/book.json --only {" ".join(Path(n).name for n in lost)}'
    assert known - there == set()
    told = {n['notebook']: n['outputs'] for n in book()['notebooks']}
    old = [n for n in sorted(there) if told[n] != len(run_nbs.shown(read_nb(f'nbs/{n}')))]
    assert not old, f'measured when they had other outputs, measure again: --only {" ".join(Path(n).name for n in old)}'

def test_the_site_was_measured(site):
    "What the page of numbers says of the site is what it is now, but for a line here and there."
    told, pages = book()['site'], check_docs.pages(site)
    now = dict(pages=len(pages)) | {k: sum(len(getattr(p, name)) for p in pages.values()) for k, name in dict(links='links', formulas='math', figures='alts').items()}
    assert told['pages'] == now['pages'] and told['broken'] == told['problems'] == 0
    assert all(abs(told[k]/n-1) < .02 for k, n in now.items()), (now, 'python tools/measure_book.py --json diffusionopd/assets/book.json --only site')

def test_more_than_a_minute_is_told():
    "A notebook that took more than a minute of one core when it was last measured, or that has slow cells, says so before its first code."
    took = measured()
    def told(nb):
        cells = read_nb(nb).cells
        first = next((i for i, c in enumerate(cells) if c.cell_type == 'code' and not {'hide', 'default_exp'} & extract_directives(c, remove=False).keys()), len(cells))
        return bool(MINUTES.search(' '.join(c.source for c in cells[:first] if c.cell_type == 'markdown')))
    slow = lambda nb: any('slow' in extract_directives(c, remove=False) for c in read_nb(nb).cells if c.cell_type == 'code')
    long = [nb for nb in notebooks if slow(nb) or took.get(nb.relative_to('nbs').as_posix(), 0) > 60]
    assert long and [nb.name for nb in long if not told(nb)] == []

def test_slow_cells_are_the_only_ones_of_minutes():
    "What tests run of a notebook took three minutes of one core at most when it was last measured."
    assert [n for n, seconds in measured().items() if seconds > 180] == []

# Words

def test_words_are_defined():
    "The glossary has every solver, and what the heads of tables and the theory pages take for known."
    text = Path('nbs/explanations/glossary.ipynb').read_text(encoding='utf8')
    heads = ' '.join(re.findall(r'\*\*([^*]+)\.\*\*', text)).lower().replace('-', '_')
    assert [s for s in SOLVERS if s not in heads and f'`{s}`' not in text] == []
    told = 'velocity,noise level,latent,grid,shift,kernel,score,nat,lora,ppo,reinforce,flow_grpo,grpo_guard,nft,sft,path kl,critical path,mpasses,share of gain,recovered gain,joint,cascade,off_policy,judge,vp'
    assert [w for w in told.split(',') if w not in heads] == []

# Folds, wherever the pages are built

FOLD = re.compile(r'<details>.*?</details>', re.S)

def test_folds_on_the_site(site):
    "A fold of a notebook is one on its page, with its formulas marked and no Markdown left in it."
    for nb in theory:
        want = sum(t.count('<details>') for t in texts(nb))
        page = (site/(re.sub(r'^\d+[a-z]*_', '', nb.stem)+'.html')).read_text(encoding='utf8')
        folds = FOLD.findall(page)
        assert len(folds) == want, nb.name
        assert not any(re.search(r'\$|\*\*|`', re.sub(r'<code.*?</code>|<span class="math.*?</span>', '', f, flags=re.S)) for f in folds), nb.name

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_markdown_is_pandocs(nb):
    "Quarto reads Markdown with pandoc: it takes every cell without a warning, finds every formula, and nothing that should be one is left as text."
    pandoc = shutil.which('pandoc')
    need('pandoc', pandoc, 'pandoc is not installed')
    run = subprocess.run([pandoc, '-f', 'markdown', '-t', 'json', '--verbose'], input='\n\n'.join(texts(nb)), capture_output=True, text=True)
    warnings = [l for l in run.stderr.splitlines() if 'WARNING' in l]
    assert run.returncode == 0 and not warnings, warnings
    words = re.findall(r'\{"t":"Str","c":"((?:[^"\\]|\\.)*)"', run.stdout)
    assert [w for w in words if re.search(r'\$|\\\\(frac|mathrm|begin|tfrac|sqrt)', w)] == []
    assert run.stdout.count('"<details>') == sum(t.count('<details>') for t in texts(nb))

# Anywhere

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_first_cells(nb):
    "A link to Colab, and a cell that installs the package where it is missing."
    old = json.loads(nb.read_text(encoding='utf8'))
    path = nb.resolve().relative_to(get_config().config_path.resolve()).as_posix()
    new = first_cells.mended(old, path, get_config())
    assert new == old, 'run `python tools/first_cells.py`'

def test_first_cell_installs_only_what_lacks():
    "It asks pip where the import fails, and does nothing else."
    source, asked = first_cells.setup(get_config()), []
    shell = type('Shell', (), dict(run_line_magic=lambda self, *args: asked.append(args)))()
    exec(source, dict(get_ipython=lambda: shell))
    assert asked == []
    exec(source.replace('import diffusionopd', 'import diffusionopd_that_is_not_there'), dict(get_ipython=lambda: shell))
    assert asked == [('pip', f'install -q diffusionopd@git+{get_config().git_url}')]

repository = re.compile(r'''['"](?:\.\./|\./)*(?:(?:tests|tools|recipes|nbs(?!/\()|benchmarks)/|settings\.ini|constraints\.txt)|['"](?:\.\./)+(?:tests|tools|recipes|nbs|benchmarks)['"]|\bget_config\(''')

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_no_path_of_the_repository(nb):
    "Code cells name nothing that only a checkout has."
    assert [c.source for c in read_nb(nb).cells if c.cell_type == 'code' and repository.search(c.source)] == []

def test_paths_of_the_repository_are_seen():
    for there in ("Path('../recipes/suites')", "open('tests/x')", "Path('../nbs')", '"./settings.ini"', 'get_config()'): assert repository.search(there), there
    for fine in ("tests = told['tests']", "Path('runs/recipes')", r"re.search(r'nbs/(\S+)', s)"): assert not repository.search(fine), fine

FLAGS = {*get_config().tst_flags.split()}

def set_aside(cell):
    "Is a cell slow, or not to be run but by hand? The one that installs the package where it is missing is run."
    d = extract_directives(cell, remove=False)
    return bool(FLAGS & d.keys()) or d.get('eval:') == ['false'] and 'import diffusionopd' not in cell.source

# Some notebooks, the night all of them: NIGHTLY=1 pytest tests/test_book.py -k far
FAR = notebooks if os.environ.get('NIGHTLY') else [Path(f'nbs/{n}.ipynb') for n in ('02_paths', '06_fields', '10_world')]

@pytest.mark.parametrize('nb', FAR, ids=lambda p: p.stem)
def test_runs_far_from_the_repository(nb, tmp_path):
    "A notebook alone in a folder, with the package but without nbdev and a checkout, runs from top to bottom, but for its slow cells."
    cells = [dict(id=c.id, source=c.source) for c in read_nb(nb).cells if c.cell_type == 'code' and not set_aside(c)]
    (tmp_path/'cells.json').write_text(json.dumps(cells))
    (tmp_path/'far').mkdir()
    script = '''
import sys, json
sys.modules['nbdev'] = None
from execnb.shell import CaptureShell
shell = CaptureShell()
for c in json.load(open('../cells.json')):
    shell.run(c['source'])
    if shell.exc: sys.exit(f"{c['id']}: {shell.exc}")
'''
    run = subprocess.run([sys.executable, '-c', script], cwd=tmp_path/'far', capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
