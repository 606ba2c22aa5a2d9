"Package, notebooks and README say the same, and the notebooks keep to their form."
import ast, builtins, re, sys
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

@each
def test_exported_cells_are_checked(nb):
    "After a cell that exports a function or a class comes one that uses it."
    cells = [*code(nb), (None, {'export'})]
    fail([f'{nb.name}, cell {c.id}: no check follows {names[0]}' for (c, d), (_, after) in zip(cells, cells[1:])
          if exported(d) and exported(after) and (names := defined(c.source))])

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
