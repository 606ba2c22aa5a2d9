"A run that is stopped, by whom and how ever, ends where it would have ended."
import signal, time

import pytest

from installed import SMALL, edit, lines, write

RECIPE = edit(SMALL, updates=40, checkpoint_every=7, evaluation=dict(every=10, n=2, final=3, steps=2), rollout__steps=2, trackers=[])
WEIGHTS = 'adapter_model.safetensors'

def log_of(run): return [{k: v for k, v in r.items() if k != 'seconds'} for r in lines(run/'log.jsonl')]

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

def test_damaged_checkpoint_is_refused(opd, stopped):
    run, *_ = stopped
    newest = sorted(run.glob('checkpoint-*'))[-1]/'state.safetensors'
    content = newest.read_bytes()
    newest.write_bytes(content[:-100])
    try: refused(opd.run(run.parent, 'distill', 'recipe.yaml', '-q', '--resume'), newest.parent.name, 'damaged')
    finally: newest.write_bytes(content)
