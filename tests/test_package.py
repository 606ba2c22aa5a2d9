"The package as installed: what it brings, what it needs, and how light its import is."
import importlib.metadata as metadata
import re, subprocess, sys

import pytest

def python(code, cwd):
    "What `code` prints in a fresh interpreter that sees installed packages only."
    run = subprocess.run([sys.executable, '-I', '-c', code], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()

@pytest.fixture
def installed(tmp_path, repo):
    "The folder of the installed package; skips where that is the checkout itself."
    from pathlib import Path
    folder = Path(python('import diffusionopd; print(diffusionopd.__path__[0])', tmp_path))
    if folder == repo/'diffusionopd': pytest.skip('the package is installed in place: `make test` installs it as a user would')
    return folder

def test_import_is_light(tmp_path):
    code = '''
import socket, sys
def no(*args, **kw): raise RuntimeError('the network was touched')
socket.socket.connect = socket.getaddrinfo = no
import diffusionopd
print(*sorted({'torch', 'diffusers', 'transformers', 'numpy', 'matplotlib', 'nbdev', 'fastcore'} & sys.modules.keys()))'''
    assert python(code, tmp_path) == ''

def test_modules_need_no_notebook_tools(tmp_path):
    code = '''
import importlib, pkgutil, sys
for name in 'nbdev', 'fastcore', 'execnb', 'ghapi', 'IPython', 'pytest': sys.modules[name] = None # its import fails
import diffusionopd
for m in pkgutil.walk_packages(diffusionopd.__path__, 'diffusionopd.'): importlib.import_module(m.name)'''
    python(code, tmp_path)

def test_requirements():
    "What a user installs brings no notebook tools; those are for developers."
    plain = {re.match(r'[\w.-]+', r)[0].lower() for r in metadata.requires('diffusionopd') if 'extra ==' not in r}
    assert 'torch' in plain and not plain & {'nbdev', 'fastcore', 'execnb', 'pytest', 'jupyterlab', 'ipywidgets'}
    assert {'notebooks', 'ocr', 'judge', 'dev', 'all'} <= set(metadata.metadata('diffusionopd').get_all('Provides-Extra'))

def test_everything_is_in_the_wheel(installed, repo):
    "Modules, `py.typed` and assets, byte for byte; nothing of an older build."
    def files(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*') if f.is_file() and '__pycache__' not in f.parts}
    ours, theirs = files(repo/'diffusionopd'), files(installed)
    assert sorted(ours) == sorted(theirs)
    assert 'py.typed' in theirs
    assert not [p for p in ours if ours[p] != theirs[p]]

def test_versions_agree(repo):
    settings = (repo/'settings.ini').read_text(encoding='utf8')
    import diffusionopd
    assert f'version = {diffusionopd.__version__}\n' in settings and metadata.version('diffusionopd') == diffusionopd.__version__

def test_requirements_fit_together():
    run = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
