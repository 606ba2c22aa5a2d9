"A run that is stopped, by whom and how ever, ends where it would have ended."
import json, shutil, signal, socket, time

import pytest

from installed import SMALL, edit, lines, write

RECIPE = edit(SMALL, updates=40, checkpoint_every=7, evaluation=dict(every=10, n=2, final=3, steps=2), rollout__steps=2, trackers=[])
WEIGHTS = 'adapter_model.safetensors'

def log_of(run): return [{k: v for k, v in r.items() if k not in ('seconds', 'elapsed')} for r in lines(run/'log.jsonl')]

@pytest.fixture(scope='module')
def whole(opd, tmp_path_factory):
    "The run that nobody stopped."
    folder = tmp_path_factory.mktemp('whole')
    write(folder, RECIPE)
    opd.run(folder, 'distill', 'recipe.yaml', '-q').ok()
    return folder/'run'

def stop(opd, folder, number, *args):
    "Start the run, wait until it has done a few more updates, and send a signal; returns how it ended."
    log = folder/'run'/'log.jsonl'
    done = lambda: log.read_bytes().count(b'\n') if log.exists() else 0
    before, until = done(), time.monotonic()+300
    process = opd.start(folder, 'distill', 'recipe.yaml', '-q', *args)
    while done() <= before and time.monotonic() < until: time.sleep(.002)
    process.signal(number)
    return process.end()

@pytest.fixture(scope='module')
def stopped(opd, tmp_path_factory):
    "The same run, interrupted from the keyboard, told to go, killed, and each time gone on with."
    folder = tmp_path_factory.mktemp('stopped')
    write(folder, RECIPE)
    ends = [stop(opd, folder, signal.SIGINT)]
    kept = sorted(p.name for p in (folder/'run').iterdir())
    ends += [stop(opd, folder, number, '--resume') for number in (signal.SIGTERM, signal.SIGKILL)]
    return folder/'run', ends, kept, opd.run(folder, 'distill', 'recipe.yaml', '-q', '--resume')

def test_exit_codes(stopped):
    _, (interrupted, told, killed), kept, last = stopped
    assert (interrupted.code, told.code, killed.code, last.ok().code) == (130, 143, -9, 0)
    for e in interrupted, told:
        assert '--resume' in e.stderr and 'Traceback' not in e.stderr
    assert any(name.startswith('checkpoint-') for name in kept) and 'student' not in kept

def test_same_student(stopped, whole):
    run, *_ = stopped
    assert (run/'student'/WEIGHTS).read_bytes() == (whole/'student'/WEIGHTS).read_bytes()

def test_same_records(stopped, whole):
    "Every update and every evaluation once, with the same numbers."
    run, *_ = stopped
    assert log_of(run) == log_of(whole)
    assert lines(run/'scores.jsonl') == lines(whole/'scores.jsonl')

def test_nothing_left_over(stopped, whole):
    run, *_ = stopped
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())

def refused(ended, *words):
    assert ended.code == 2 and ended.stderr.startswith('Error: ') and ended.stderr.strip().count('\n') == 0, ended.stderr
    for w in words: assert w in ended.stderr

def test_another_recipe_is_refused(opd, whole):
    "What would change the run in mid-course is named; its folder stays as it is."
    folder = whole.parent
    before = {p: p.stat().st_mtime_ns for p in whole.rglob('*')}
    write(folder, edit(RECIPE, optimiser=dict(lr=1e-4)), 'other.yaml')
    refused(opd.run(folder, 'distill', 'other.yaml', '-q', '--resume'), 'optimiser.lr was 0.002, is 0.0001')
    refused(opd.run(folder, 'distill', 'recipe.yaml', '-q', '--resume', '--out', 'nowhere'), 'nowhere', 'no run to resume')
    refused(opd.run(folder, 'distill', 'recipe.yaml', '-q'), 'holds a run already', '--resume')
    assert {p: p.stat().st_mtime_ns for p in whole.rglob('*')} == before and not (folder/'nowhere').exists()

def test_changes_are_accepted(opd, whole, tmp_path):
    "By a flag that is for nothing else; from then on they are the run's settings."
    shutil.copytree(whole.parent, tmp_path/'copy')
    refused(opd.run(tmp_path/'copy', 'distill', 'recipe.yaml', '-q', '--accept-changes'), '--resume')
    ended = opd.run(tmp_path/'copy', 'distill', 'recipe.yaml', '-q', '--updates', 42, '--resume', '--accept-changes').ok()
    assert 'going on from update 40 with other settings: updates was 40, is 42' in ended.stderr
    assert [r['update'] for r in lines(tmp_path/'copy'/'run'/'log.jsonl')] == list(range(1, 43))
    opd.run(tmp_path/'copy', 'distill', 'run/recipe.json', '-q', '--resume').ok()

def test_another_kind_of_run_is_refused(opd, whole, tmp_path):
    "A specialist's folder, and a run that was begun under another seed and has no checkpoint yet, are left as they are."
    specialist = tmp_path/'specialist'
    specialist.mkdir()
    (specialist/'recipe.json').write_text(json.dumps(dict(task='text', prompts='embedded:text')))
    (specialist/'log.jsonl').write_text('{"update": 60}\n')
    begun = tmp_path/'begun'
    begun.mkdir()
    (begun/'recipe.json').write_bytes((whole/'recipe.json').read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.rglob('*.json*')}
    write(tmp_path, edit(RECIPE, seed=1))
    refused(opd.run(tmp_path, 'distill', 'recipe.yaml', '-q', '--resume', '--out', 'specialist'), 'specialist holds a run of teach')
    refused(opd.run(tmp_path, 'distill', 'recipe.yaml', '-q', '--resume', '--out', 'begun'), 'begun holds another run: seed was 0, is 1')
    assert {p: p.read_bytes() for p in tmp_path.rglob('*.json*')} == before

def test_time_goes_on(stopped, whole):
    "What a stopped run took is not forgotten; lost updates and loading count too."
    for run in stopped[0], whole:
        log = lines(run/'log.jsonl')
        assert all(a['elapsed'] < b['elapsed'] for a, b in zip(log, log[1:])) and log[-1]['elapsed'] > sum(r['seconds'] for r in log)

RANK = '''
import os
os.environ.update(RANK='{rank}', LOCAL_RANK='{rank}', WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT='{port}', ACCELERATE_USE_CPU='true')
from diffusionopd.errors import Refusal
from diffusionopd.recipes import load_recipe
from diffusionopd.runs import distill
try: print(len(list(distill(load_recipe('distill', 'recipe.yaml'), {resume}))))
except Refusal as e: print(e)
'''

def together(opd, folder, resume=False, kill=0):
    "The run of a folder, by two processes that share its rows, killed after some updates; returns what each of them printed."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    both, log = [opd.start(folder, code=RANK.format(rank=r, port=port, resume=resume)) for r in (0, 1)], folder/'run'/'log.jsonl'
    while kill and not (log.exists() and log.read_bytes().count(b'\n') >= kill): time.sleep(.002)
    for p in both if kill else (): p.signal(signal.SIGKILL)
    return [p.end().stdout.strip() for p in both]

def test_two_processes_are_one_run(opd, tmp_path):
    "They share the rows, one of them writes, and the log is that of all rows. Killed and resumed elsewhere, they end with the same bytes."
    small = edit(RECIPE, updates=5, checkpoint_every=2, evaluation=dict(every=3, n=2, final=2, steps=2), loss=dict(lam=1.1))
    runs = []
    for name in 'alone', 'both':
        folder = tmp_path/name
        folder.mkdir()
        write(folder, small)
        runs.append(folder/'run')
    opd.run(tmp_path/'alone', 'distill', 'recipe.yaml', '-q').ok()
    assert together(opd, tmp_path/'both') == ['8', '8']
    assert sorted(p.name for p in runs[0].iterdir()) == sorted(p.name for p in runs[1].iterdir())
    for one, two in zip(*map(log_of, runs), strict=True):
        assert one['forwards'] == two['forwards'] and one['loss'] == pytest.approx(two['loss'], rel=1e-3) and one['norm'] == pytest.approx(two['norm'], rel=1e-3)
        for k in 'kl', 'surrogate':
            for t in one[k]: assert one[k][t] == pytest.approx(two[k][t], rel=1e-2)
    assert [len(lines(run/'scores.jsonl')) for run in runs] == [6, 6]
    first, second = together(opd, tmp_path/'both')
    assert 'holds a run already' in first and first == second  # one decides, both hear it
    (tmp_path/'killed').mkdir()
    write(tmp_path/'killed', small)
    together(opd, tmp_path/'killed', kill=3)
    (tmp_path/'killed').rename(tmp_path/'moved')
    assert len({*together(opd, tmp_path/'moved', resume=True)}) == 1
    assert (tmp_path/'moved'/'run'/'student'/WEIGHTS).read_bytes() == (runs[1]/'student'/WEIGHTS).read_bytes()
    assert log_of(tmp_path/'moved'/'run') == log_of(runs[1]) and lines(tmp_path/'moved'/'run'/'scores.jsonl') == lines(runs[1]/'scores.jsonl')
