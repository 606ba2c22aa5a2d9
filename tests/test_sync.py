"Package, notebooks and README say the same, and the notebooks keep to their form."
import ast, builtins, re, sys
from itertools import takewhile
from pathlib import Path

import pytest, yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

sys.path.insert(0, 'tools')
import check_sync, first_cells

notebooks = sorted(nbglob('nbs', as_path=True))
each = pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
local = re.compile(r'(?<![\w./])/(?:home|root|tmp|work|usr|opt|Users|var|mnt|content)/\S+|(?<!\w)[A-Z]:\\\S+')

plain = {*vars(builtins), 'Tensor', 'Callable', 'Path'}

def code(nb): return [(c, set(extract_directives(c, remove=False))) for c in read_nb(nb).cells if c.cell_type == 'code']

def exported(directives): return bool(directives & {'export', 'exports', 'exporti'})

def defined(source): return [n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]

def fail(problems):
    if problems: pytest.fail('\n'.join(problems), pytrace=False)

@pytest.mark.parametrize('kind', [check_sync.unexported, check_sync.unclean, check_sync.unread], ids=lambda f: f.__name__)
def test_in_step(kind, repo): fail([*kind(repo)])

@each
def test_exported_cells_are_short(nb):
    fail([f'{nb.name}, cell {c.id}: {n} lines' for c, d in code(nb) if exported(d) and (n := len(c.source.splitlines())) > 30])

CHECKS = re.compile(r'\bassert|refuses\(|\bcheck\w*\(|fig-cap|\bconform\(|Exam\(')  # in conformance.ipynb a question to a backbone raises by itself

@each
def test_exported_cells_are_checked(nb):
    "After a cell that exports a function or a class, and before the next such cell, something is asserted, refused or drawn."
    cells, lost = [*code(nb), (None, {'export'})], []
    for i, (c, d) in enumerate(cells[:-1]):
        below = [*takewhile(lambda x: not exported(x[1]), cells[i+1:])]
        if exported(d) and (names := defined(c.source)) and not CHECKS.search('\n'.join(a.source for a, _ in below)): lost.append(f'{nb.name}, cell {c.id}: no check follows {names[0]}')
    fail(lost)

@each
def test_imports_stand_alone(nb):
    "The site is built by running every cell that holds an import, so such a cell holds nothing else."
    fail([f'{nb.name}, cell {c.id}: imports and other code\n{c.source}\n' for c, d in code(nb)
          if not exported(d) and 'nbdev_export(' not in c.source and c.source != first_cells.setup(get_config()) and holds(c, (ast.Import, ast.ImportFrom)) and holds(c, (ast.Expr, ast.Assign))])

def holds(c, kinds): return any(isinstance(n, kinds) for n in ast.walk(ast.parse(c.source)))

@each
def test_docments(nb):
    "Public functions have a docstring, and say of every argument what it is: by a comment or by a type of their own."
    fail([f'{nb.name}, {f.name}: {what}' for c, d in code(nb) if d & {'export', 'exports'} for f in ast.parse(c.source).body
          if isinstance(f, ast.FunctionDef) and not f.name.startswith('_') for what in undocumented(f, c.source.splitlines())])

def undocumented(f, lines):
    if not ast.get_docstring(f): yield 'no docstring'
    a = f.args
    for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs]:
        kind = getattr(arg.annotation, 'value', arg.annotation)  # of `Annotated[...]`, which holds the help text of an option
        own = isinstance(kind, ast.Name) and kind.id not in plain and (kind is arg.annotation or kind.id == 'Annotated')
        if not own and '#' not in lines[arg.end_lineno-1]: yield f'nothing said of {arg.arg}'

@each
def test_outputs_travel(nb):
    "No output holds an error, a warning or a path of the machine it was made on."
    problems = []
    for c, _ in code(nb):
        for o in c.outputs:
            text = ''.join(o.get('text', '')) + ''.join(''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/'))
            if o.output_type == 'error' or o.get('name') == 'stderr': problems.append(f'{nb.name}, cell {c.id}: {o.output_type} {text[:200]}')
            problems += [f'{nb.name}, cell {c.id}: {p}' for p in local.findall(text)]
    fail(problems)

def test_every_notebook_has_a_page():
    "The sidebar of the site is written by hand; no notebook is left out of it."
    site = yaml.safe_load(Path('_quarto.yml').read_text(encoding='utf8'))
    listed = set(re.findall(r'[\w/]+\.ipynb', str(site['website']['sidebar'])))
    here = {p.relative_to('nbs').as_posix() for p in notebooks}
    fail([f'_quarto.yml does not list {p}' for p in sorted(here-listed)] + [f'_quarto.yml lists {p}, which is not there' for p in sorted(listed-here)])

# _quarto.yml: the pure-Python builder passes over what it does not know, and Quarto is not everywhere.

NAV = [(str, {'text': str, 'href': str})]
GROUP = {'section': str, 'contents': []}
GROUP['contents'] = [(*NAV[0], GROUP)]
QUARTO = {  # of Quarto's schema (1.9), the part that this file uses: a type, a set of words, a mapping, a list; or several, of which one must fit
    'project': {'type': {'website'}, 'output-dir': str, 'preview': {'port': int, 'browser': bool}},
    'format': {'html': {'theme': {'light': str, 'dark': str}, 'css': str, 'fontsize': str, 'toc': bool, 'code-fold': (bool, {'show'}), 'include-after-body': {'text': str},
                        'grid': {'sidebar-width': str, 'body-width': str, 'margin-width': str}}},
    'website': {'title': str, 'favicon': str, 'search': bool, 'page-navigation': bool, 'navbar': {'background': str, 'search': bool, 'left': NAV},
                'sidebar': {'style': {'docked', 'floating'}, 'contents': GROUP['contents']}},
}

def odd(value, shape, at=''):
    "What of a value does not fit a shape, a line each."
    if isinstance(shape, tuple):
        tries = [[*odd(value, s, at)] for s in shape if type(s) is not dict or isinstance(value, dict) and value.keys() <= s.keys()]
        yield from min(tries, key=len, default=[f'{at}: {value!r} is not one of the forms'])
    elif isinstance(shape, dict):
        if not isinstance(value, dict): return (yield f'{at}: {value!r} is not a mapping')
        for k, v in value.items(): yield from odd(v, shape[k], f'{at}/{k}') if k in shape else [f'{at}/{k} is unknown']
    elif isinstance(shape, list):
        if not isinstance(value, list): return (yield f'{at}: {value!r} is not a list')
        for i, v in enumerate(value): yield from odd(v, shape[0], f'{at}/{i}')
    elif not (value in shape if isinstance(shape, set) else type(value) is shape): yield f'{at}: {value!r}'

def linked(value):
    "The pages and files that _quarto.yml names."
    if isinstance(value, str): return {value} if re.fullmatch(r'[\w/]+\.(ipynb|md|css|svg)', value) else set()
    return set().union(*map(linked, value.values() if isinstance(value, dict) else value if isinstance(value, list) else []))

def test_quarto_knows_every_key():
    "_quarto.yml says nothing that Quarto would not understand, and names only files that are there."
    site = yaml.safe_load(Path('_quarto.yml').read_text(encoding='utf8'))
    fail([*odd(site, QUARTO), *(f'{f} is not there' for f in sorted(linked(site)) if not (Path('nbs')/f).is_file())])

@pytest.mark.parametrize('right, wrong', [('output-dir', 'output-dri'), ('page-navigation: true', 'page-navigation: 7'), ('style: floating', 'style: flaoting'), ('toc: true', 'toc: yess'),
                                          ('code-fold: show', 'code-fold: shwo'), ('section: Learn', 'sektion: Learn'), ('- index.ipynb', '- 7'), ('left:', 'centre:')])
def test_quarto_can_be_misspelt(right, wrong):
    text = Path('_quarto.yml').read_text(encoding='utf8')
    assert text.count(right)==1 and len([*odd(yaml.safe_load(text.replace(right, wrong)), QUARTO)])==1

def test_no_directives_in_modules():
    "What tells the site how to show a cell is no part of a module."
    fail([f.name for f in sorted(Path('diffusionopd').glob('*.py')) if re.search(r'^#\| ', f.read_text(encoding='utf8'), re.M)])
