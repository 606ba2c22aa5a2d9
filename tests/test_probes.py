"Probes: what is finished is read and not made again; what is wrong is said in one sentence, before anything is asked."
import json, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest, torch

from diffusionopd.errors import refuses
from diffusionopd.probes import ASKS, MIXES, cosines, mixed_marks, questions_of, read_probe, students_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
import probes as script

def ran(*args):
    "Exit code, output and complaints of the script."
    out, err = StringIO(), StringIO()
    with mock.patch.object(sys, 'argv', ['probes.py', *map(str, args)]), redirect_stdout(out), redirect_stderr(err):
        try: script.main()
        except SystemExit as e: return e.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()

def says(*args, contains):
    code, out, err = ran(*args)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith('Error: ') and contains in last and not out, (code, err[-2000:])

def tree(folder): return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "An exam of four pictures a question, and gradients of three draws at the start."
    out = tmp_path_factory.mktemp('probes')
    args = ['--adapters', 'shipped=embedded:student', '--only', 'exam', 'gradient', '--losses', 'opd', '--updates', 0, '-n', 4, '--draws', 3, '--out', out/'records', '--work', out/'work', '--json', out/'told.json']
    code, text, err = ran(*args)
    assert code == 0, err[-2000:]
    return out, args, text

def test_finished_probes_are_read(small):
    "The same command runs nothing and says the same."
    out, args, text = small
    before = tree(out/'records')
    assert {n.removesuffix('.json') for n in before} == {*(f'exam-{m}' for m in ('base', 'composition', 'text', 'aesthetics', 'shipped')), *(f'gradient-opd-{p}' for p in ('0', 'shipped'))}
    code, again, err = ran(*args)
    assert (code, again, tree(out/'records')) == (0, text, before) and 'shipped: text' not in err
    told = json.loads((out/'told.json').read_text())
    assert {*told['exam']['shipped']} == {*ASKS} and told['n'] == 4 and [g['loss'] for g in told['gradient']] == ['opd', 'opd']
    assert 'python benchmarks/probes.py' in told['commands'][0] and told['hardware'][0]
    assert ran('--show', '--out', out/'records')[1] == text

def test_bad_input_is_refused(repo, small, tmp_path):
    "Unknown names, missing weights, damaged and foreign records; finished records stay as they are."
    out, args, _ = small
    before, at = tree(out/'records'), ['--out', out/'records']
    says(*at, '--only', 'exams', contains="unknown probe 'exams': did you mean 'exam'?")
    says(*at, '--adapters', f'mine={tmp_path}/nowhere', contains='there is no adapter in')
    says(*at, '--adapters', 'mine=embedded:txt', contains="the package has no teacher 'txt': did you mean 'text'?")
    says(*at, '--adapters', 'mine', contains="'mine' is not NAME=FOLDER")
    says(*at, '--suite', repo/'benchmarks'/'results'/'reduced', contains='holds no student of a complete run')
    says(*at, '--losses', 'ppo', contains="unknown loss 'ppo'")
    says(*at, '-n', 0, contains='at least two pictures')
    says(*args[:args.index('-n')], '-n', 5, *at, contains='was made with other settings (n was 4, is 5)')
    says('--show', '--out', tmp_path, contains='holds no records to show')
    assert tree(out/'records') == before
    done = subprocess.run([sys.executable, repo/'benchmarks'/'probes.py', '--only', 'exams'], capture_output=True, text=True)   # the same from a shell
    assert done.returncode == 2 and done.stderr.startswith("Error: --only: unknown probe 'exams'") and 'Traceback' not in done.stderr
    (tmp_path/'exam-base.json').write_text('{"settings": ')
    says('--only', 'exam', '--out', tmp_path, contains='exam-base.json is damaged')
    assert (tmp_path/'exam-base.json').read_text() == '{"settings": '

def test_empty_questions_are_refused():
    for ask in ('text', next(iter(MIXES))):
        with refuses(contains='at least one prompt, not 0'): questions_of(ask, 0)
    with refuses(contains='0 prompts and 0 pictures'): mixed_marks(torch.zeros(0, 3, 16, 32), [])
    with refuses(contains='an empty prompt asks for nothing'): mixed_marks(torch.zeros(1, 3, 16, 32), [''])
    with refuses(contains='holds no student'): students_of('nowhere')
    with refuses(contains='one draw of a gradient'): cosines(np.ones((2, 1, 2, 1)))

def test_stored_records_are_whole(repo):
    "What is stored was made with its command, and the file that ships is what the records say."
    folder = repo/'benchmarks'/'results'/'probes'
    records = [read_probe(p) for p in folder.glob('*.json')]
    assert records and all(r['command'].startswith('python benchmarks/probes.py') and r['hardware'] and r['seconds'] > 0 for r in records)
    told = json.loads((repo/'diffusionopd'/'assets'/'probes.json').read_text())
    assert {*told['exam']} == {r['settings']['model'] for r in records if r['settings']['probe'] == 'exam'}
    assert len(told['gradient']) == sum(r['settings']['probe'] == 'gradient' for r in records)
