"""Commands of the documents, in a shell, as a reader pastes them.

`FULL_COMMANDS=1 pytest tests/test_readme.py tests/test_docs.py` runs them by the console script itself and as they are printed, which takes many minutes. Without
it, `diffusionopd` is asked of a process that has imported everything (`Installed.command`), and what would take minutes is made smaller (`test_readme.FEWER`)."""
import os, re, subprocess, sys

import pytest

FULL = bool(os.environ.get('FULL_COMMANDS'))
shell = re.compile(r'```(?:sh|bash)\n(.*?)```', re.S)

def commands(text): return [line.split('  #')[0].strip() for block in shell.findall(text) for line in block.splitlines() if line.strip() and line[0] != '#']

@pytest.fixture(scope='module')
def path(opd, tmp_path_factory):
    "Where a shell looks for commands first."
    own = os.path.dirname(sys.executable)
    return own if FULL else f'{opd.command(tmp_path_factory.mktemp("path"))}{os.pathsep}{own}'

def bash(script, cwd, path):
    "Run a script where the commands of `path` come first, and stop at the first that fails."
    run = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=cwd, env=dict(os.environ, PATH=f'{path}{os.pathsep}{os.environ["PATH"]}'), capture_output=True, text=True, timeout=3600 if FULL else 300)
    if run.returncode: pytest.fail(f'exit code {run.returncode}\n{script}\n{run.stdout}{run.stderr}', pytrace=False)
    return run.stdout
