"""What a run survives, counted. Every fault is done to real runs of the installed package, which then must end as if nothing had been.

    python tests/faults.py                                                 every fault, about fifteen minutes on one core; prints a table
    python tests/faults.py kills signals --seed 1                          some of them
    python tests/faults.py --json diffusionopd/assets/faults.json          and keeps the numbers, beside those of other faults

`test_faults.py` does a few cases of each.
"""
import argparse, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path

import psutil, yaml

from installed import SMALL, Installed, edit, lines, write

RECIPE = edit(SMALL, updates=12, batch=1, checkpoint_every=2, keep_last=3, evaluation=dict(every=4, n=2, final=2, steps=2), rollout__steps=2, trackers=[])
WEIGHTS = 'student/adapter_model.safetensors'

def timeless(path): return [{k: v for k, v in r.items() if k not in ('seconds', 'elapsed')} for r in lines(path)]
def names(run): return sorted(p.name for p in run.iterdir() if p.name != 'notices.jsonl' and not p.name.endswith('.damaged'))

class Lab:
    "Runs of one recipe, and the one that nobody disturbed."
    def __init__(self, opd, folder, seed=0, recipe=RECIPE):
        self.opd, self.folder, self.rng, self.recipe, self.count = opd, folder, random.Random(seed), recipe, 0
        begin = time.monotonic()
        self.whole = self.fresh()
        self.finish(self.whole, resume=False)
        self.seconds = time.monotonic()-begin

    def fresh(self, name=None, **changes):
        "A folder with the recipe."
        self.count += 1
        place = self.folder/(name or f'case-{self.count}')
        place.mkdir(parents=True, exist_ok=True)
        write(place, edit(self.recipe, **changes))
        return place

    def start(self, place, *args): return self.opd.start(place, 'distill', 'recipe.yaml', '-q', *args)

    def finish(self, place, resume=True):
        "Let the run of a folder end by itself."
        return self.opd.run(place, 'distill', 'recipe.yaml', '-q', *(['--resume'] if resume and begun(place) else [])).ok()

    def same(self, place, scores=True):
        "Is the run of a folder what it would have been? Student and records, and nothing left over."
        run, whole = place/'run', self.whole/'run'
        alike = (run/WEIGHTS).read_bytes() == (whole/WEIGHTS).read_bytes() and timeless(run/'log.jsonl') == timeless(whole/'log.jsonl')
        return alike and (not scores or lines(run/'scores.jsonl') == lines(whole/'scores.jsonl') and names(run) == names(whole))

    def midway(self, updates=9, **changes):
        "A run that was killed after some updates."
        place = self.fresh(**changes)
        process = self.start(place)
        while done(place) < updates: time.sleep(.002)
        process.signal(signal.SIGKILL); process.end()
        return place

def done(place):
    log = place/'run'/'log.jsonl'
    return log.read_bytes().count(b'\n') if log.exists() else 0

def begun(place): return (place/'run').is_dir() and any(not p.name.startswith('.') for p in (place/'run').iterdir())

def refused(ended):
    "Exit code 2 and one sentence."
    said = [l for l in ended.stderr.strip().splitlines() if l.startswith('Error: ')]
    return ended.code == 2 and len(said) == 1 and 'Traceback' not in ended.stderr

def case(fault, survived, **more): return dict(fault=fault, survived=bool(survived), **more)

# Each fault is a generator of cases

def kills(lab, n=30):
    "SIGKILL at a random moment, again and again, until the run has ended in spite of it."
    place, before = lab.fresh(), 0
    for _ in range(n):
        if done(place) >= lab.recipe['updates'] and (place/'run'/'figures').exists():   # it got through: another one
            lab.finish(place)
            yield case('SIGKILL, then resumed', lab.same(place), kills=before)
            place, before = lab.fresh(), 0
        process = lab.start(place, *(['--resume'] if begun(place) else []))
        time.sleep(lab.rng.uniform(0, .7*lab.seconds))
        process.signal(signal.SIGKILL); process.end()
        before += 1
    lab.finish(place)
    yield case('SIGKILL, then resumed', lab.same(place), kills=before)

COUNTED = '''
import os, shutil, signal, sys
calls = 0
def counted(f):
    def g(*args, **kw):
        global calls
        calls += 1
        if calls == {k}: os.kill(os.getpid(), signal.SIGKILL)
        return f(*args, **kw)
    return g
os.replace, os.fsync, shutil.rmtree = map(counted, (os.replace, os.fsync, shutil.rmtree))
from diffusionopd.recipes import load_recipe
from diffusionopd.runs import distill
for _ in distill(load_recipe('distill', 'recipe.yaml')): pass
print(calls)
'''

def saves(lab, n=None):
    "SIGKILL before the k-th time that something is forced to the disk, renamed or deleted; all of them, or n."
    total = int(lab.opd.python(lab.fresh(), COUNTED.format(k=0)))
    for k in range(1, total+1) if n is None else lab.rng.sample(range(1, total+1), n):
        place = lab.fresh()
        code = lab.opd.start(place, code=COUNTED.format(k=k)).end().code
        lab.finish(place)
        yield case('SIGKILL inside a save, then resumed', code == -signal.SIGKILL and lab.same(place), kills=1, of=total)
        shutil.rmtree(place)

def signals(lab, n=10):
    "Ctrl-C and SIGTERM at random moments of the work: a checkpoint, the right exit code, and on it goes."
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for _ in range(n):
            place = lab.fresh()
            process, target = lab.start(place), lab.rng.randrange(1, lab.recipe['updates']-2)
            while done(place) < target: time.sleep(.001)
            time.sleep(lab.rng.uniform(0, .1))
            process.signal(number)
            ended, updates = process.end(), done(place)
            kept = (place/'run'/f'checkpoint-{updates:06d}').is_dir()
            lab.finish(place)
            yield case(f'{number.name}: exit code {code} and a checkpoint, then resumed', ended.code == code and kept and '--resume' in ended.stderr and lab.same(place))

@contextmanager
def mounted(folder, size):
    "A file system of so many KiB."
    folder.mkdir(parents=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'tmpfs', str(folder)], check=True, capture_output=True)
    try: yield lambda options: subprocess.run(['mount', '-o', f'remount,{options}', str(folder)], check=True)
    finally: subprocess.run(['umount', '-l', str(folder)], check=True)

def may_mount():
    "Why no file system can be mounted here; nothing where it can."
    if os.geteuid(): return 'only root may mount a file system'
    with tempfile.TemporaryDirectory() as tmp:
        try:
            with mounted(Path(tmp)/'m', 64): return ''
        except (OSError, subprocess.CalledProcessError): return 'file systems cannot be mounted here'

def disks(lab, sizes=(64, 256, 1400, 2000, 2800, 3500, 4200, 5000, 5600)):
    "A disk that fills up in the middle: one sentence, nothing broken; with more room the run goes on."
    for size in sizes:
        with mounted(lab.folder/f'disk-{lab.count}', size) as remount:
            place = lab.fresh(f'disk-{lab.count}')
            ended = lab.start(place).end()
            full = refused(ended) and ('No space left' in ended.stderr or 'cannot write' in ended.stderr)
            remount('size=100m')
            lab.finish(place)
            yield case('full disk, then resumed with more room', (full or not ended.code) and lab.same(place), full=bool(ended.code), updates=done(place))

def closed(lab):
    "A folder that cannot be written to: from the start, and from some update on."
    with mounted(lab.folder/f'disk-{lab.count}', 100_000) as remount:
        place = lab.fresh(f'disk-{lab.count}')
        remount('ro')
        ended = lab.start(place).end()
        yield case('read-only from the start: refused', refused(ended) and 'cannot write' in ended.stderr and not begun(place))
        remount('rw')
        process = lab.start(place)
        while done(place) < 5: time.sleep(.002)
        until = time.monotonic()+60
        while time.monotonic() < until and process.running():                           # a file that is open for writing stands in the way
            try: remount('ro'); break
            except subprocess.CalledProcessError: time.sleep(.002)
        ended = process.end()
        remount('rw')
        lab.finish(place)
        yield case('read-only in the middle: refused, then resumed', refused(ended) and lab.same(place))

def damage(lab, n=20):
    "A bit flipped or the end cut off, anywhere in the newest checkpoint: it goes on from the one before."
    killed = lab.midway()
    for i in range(n):
        place = lab.folder/f'damaged-{i}'
        shutil.copytree(killed, place)
        newest = sorted((place/'run').glob('checkpoint-*'))[-1]
        file = newest/('state.json' if i % 4 == 0 else 'state.safetensors')
        content, what = file.read_bytes(), 'truncated' if i % 2 else 'bit flipped'
        k = lab.rng.randrange(len(content))
        file.write_bytes(content[:k] if i % 2 else content[:k]+bytes([content[k] ^ 1 << lab.rng.randrange(8)])+content[k+1:])
        ended = lab.finish(place)
        yield case(f'newest checkpoint {what}: the one before', newest.name in ended.stderr and lab.same(place) and (place/'run'/f'{newest.name}.damaged').is_dir())
        shutil.rmtree(place)
    for p in (killed/'run').glob('checkpoint-*'): (p/'state.json').write_bytes(b'')
    yield case('every checkpoint damaged: refused', refused(lab.start(killed, '--resume').end()))

def crowds(lab, n=3):
    "Two processes start in one folder at once; another tries to go on with a run that is on its way; after a SIGKILL it may."
    for _ in range(n):
        place = lab.fresh()
        both = [p.end() for p in [lab.start(place), lab.start(place)]]
        yield case('two runs in one folder: one is refused', sorted(e.code for e in both) == [0, 2] and any(map(refused, both)) and lab.same(place))
        place = lab.fresh()
        process = lab.start(place)
        while done(place) < 2: time.sleep(.002)
        second = lab.start(place, '--resume').end()
        process.signal(signal.SIGKILL); process.end()
        lab.finish(place)
        yield case('resumed while it runs: refused; after a SIGKILL: not', refused(second) and 'another process' in second.stderr and lab.same(place))

CLOCK = '''
import random, time
rng, clock = random.Random({seed}), time.time
time.time = lambda: clock()+rng.choice([-1, 1])*rng.uniform(0, 1e6)
from diffusionopd.recipes import load_recipe
from diffusionopd.runs import distill
for _ in distill(load_recipe('distill', 'recipe.yaml')): pass
'''

def clocks(lab, n=3):
    "A wall clock that jumps by days, both ways, whenever it is asked: nothing depends on it."
    for seed in range(n):
        place = lab.fresh()
        lab.opd.python(place, CLOCK.format(seed=seed))
        log = lines(place/'run'/'log.jsonl')
        forth = all(0 < b['elapsed']-a['elapsed'] < 60 and 0 < b['seconds'] < 60 for a, b in zip(log, log[1:]))
        yield case('clock jumps', forth and lab.same(place))

MOODY = '''
import time
from diffusionopd.evaluate import REWARDS, reward
@reward('moody')
def moody(images, prompts):
    {what}
'''
TRACKED = '''
import sys, time
from accelerate import Accelerator
def log(self, *args, **kw): {what}
Accelerator.log = log
sys.argv = ['diffusionopd', 'distill', 'recipe.yaml', '-q']
from diffusionopd.cli import main
main()
'''
HANGS, RAISES = 'time.sleep(600)', 'raise ConnectionError("no network")'

def outsiders(lab):
    "A reward and a tracker that raise or hang: told on the terminal and in the log; the student is the same."
    for what, says in ((HANGS, 'did not come back within 0.5 s'), (RAISES, 'ConnectionError: no network')):
        place = lab.fresh(plugins=['moody.py'], tasks__text__reward='moody', patience=.5)
        (place/'moody.py').write_text(MOODY.format(what=what))
        ended = lab.start(place).end()
        told = [r['notice'] for r in lines(place/'run'/'notices.jsonl')]
        yield case('a reward that '+('hangs' if what is HANGS else 'raises')+': told, the run goes on',
                   not ended.code and says in ended.stderr and says in told[0] and lab.same(place, scores=False))
        place = lab.fresh(trackers=['tensorboard'], patience=.5)
        ended = lab.opd.start(place, code=TRACKED.format(what=what)).end()
        told = [r['notice'] for r in lines(place/'run'/'notices.jsonl')]
        yield case('a tracker that '+('hangs' if what is HANGS else 'raises')+': told, the run goes on',
                   not ended.code and says in ended.stderr and says in told[0] and lab.same(place, scores=False))

SICK = '''
import sys
from diffusionopd import runs
whole = runs.open_run
def open_run(r, **kw):
    run = whole(r, **kw)
    target = run.target
    run.target = lambda x, sigma, cond: target(x, sigma, cond)*(float('{value}') if run.update+1 in {at} and sigma < .9 else 1.)
    return run
runs.open_run = open_run
sys.argv = ['diffusionopd', 'distill', 'recipe.yaml', '-q', *{args}]
from diffusionopd.cli import main
main()
'''

def numbers(lab, values=('nan', 'inf')):
    "A teacher whose answers are not finite in some updates: these are left out, counted and told; too many, and the run stops with a checkpoint."
    for value in values:
        place, at = lab.fresh(), sorted(lab.rng.sample(range(1, lab.recipe['updates'], 2), 3))  # never two in a row
        ended = lab.opd.start(place, code=SICK.format(value=value, at=at, args=[])).end()
        told = lines(place/'run'/'notices.jsonl')
        good = [r['update'] for r in told] == at and all(r['task'] and r['step'] == 1 and 0 < r['sigma'] < .9 for r in told)
        yield case(f'{value} in a teacher: left out, counted, told', not ended.code and good and f'{at[0]} was left out' in ended.stderr and done(place) == lab.recipe['updates']-3)
        place = lab.fresh(skip_limit=1)
        ended = lab.opd.start(place, code=SICK.format(value=value, at=at, args=[])).end()
        kept = (place/'run'/f'checkpoint-{at[1]:06d}').is_dir()
        write(place, edit(lab.recipe, skip_limit=9))
        again = lab.opd.start(place, code=SICK.format(value=value, at=at, args=['--resume'])).end()
        yield case(f'{value} too often: stops with a checkpoint, resumed with a higher limit', refused(ended) and 'skip_limit' in ended.stderr and kept and not again.code)

def dead(lab):
    "A student that a learning rate kills: the run stops, saves no state of it and calls nothing finished; a lower rate goes on from before. Pictures of it are refused by its name."
    place = lab.fresh(optimiser__lr=50000., optimiser__warmup=0)
    ended = lab.start(place).end()
    says = "the student's answers have not been finite since update" in ended.stderr and '--accept-changes' in ended.stderr
    yield case('a student dies: one sentence, no student, nothing saved of it', refused(ended) and says and not (place/'run'/'student').exists() and not list((place/'run').glob('checkpoint-*')))
    write(place, edit(lab.recipe))
    again = lab.start(place, '--resume', '--accept-changes').end()
    yield case('a student dies: resumed with a lower rate', not again.code and done(place) == lab.recipe['updates'] and (place/'run'/'student').exists())
    place = lab.fresh(updates=2, optimiser__lr=50000., optimiser__warmup=0)
    ended = lab.start(place).end()
    yield case('a student dies in the last update: not presented as finished', refused(ended) and 'the run is at its end' in ended.stderr and not (place/'run'/'student').exists())
    place, at = lab.fresh(), [5, 6, 7]
    ended = lab.opd.start(place, code=SICK.format(value='nan', at=at, args=[])).end()
    says = "the answers of the teacher of task 'text' have not been finite since update 5, and the student's were" in ended.stderr
    again = lab.opd.start(place, code=SICK.format(value='nan', at=at, args=['--resume'])).end()
    yield case('a teacher fails three times in a row: stops, says so, resumed', refused(ended) and says and not again.code and done(place) == lab.recipe['updates']-3)

def launched(lab, place, *args, how=('--multi_gpu',)):
    "The run by two processes that accelerate launches, and that talk by gloo."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    command = [sys.executable, '-m', 'accelerate.commands.launch', *how, '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no',
               '--main_process_port', str(port), '-m', 'diffusionopd', 'distill', 'recipe.yaml', '-q', *args]
    env = dict(os.environ, OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')
    with open(place/'launched.log', 'ab') as said: return subprocess.Popen(command, cwd=place, env=env, stdout=said, stderr=said, start_new_session=True)

def processes(lab, n=5):
    "Two processes of one run, killed both at a random moment and resumed from another directory: the bytes of two that nobody killed."
    for name, how in ('DDP', ('--multi_gpu',)), ('FSDP2', ('--use_fsdp', '--fsdp_version', '2')):
        whole, alone = lab.fresh(batch=3), lab.whole
        code = launched(lab, whole, how=how).wait(300)
        assert not code, (code, (whole/'launched.log').read_text())
        for _ in range(n):
            place = lab.fresh(batch=3)
            process, target = launched(lab, place, how=how), lab.rng.randrange(1, lab.recipe['updates']-1)
            while done(place) < target and process.poll() is None: time.sleep(.002)
            for p in [*psutil.Process(process.pid).children(recursive=True), process]: p.kill() # a launcher's children have a session of their own
            process.wait()
            there = lab.folder/f'moved-{lab.count}'
            place.rename(there)
            code, lab.whole = launched(lab, there, '--resume', how=how).wait(300), whole
            yield case(f'two processes ({name}, gloo), killed, moved, resumed', not code and lab.same(there), updates=target, code=code)
            lab.whole = alone

FAULTS = dict(kills=kills, saves=saves, signals=signals, disks=disks, closed=closed, damage=damage, crowds=crowds, clocks=clocks, outsiders=outsiders,
              numbers=numbers, dead=dead, processes=processes)

def tabled(cases):
    "Cases by fault."
    rows = {}
    for c in cases: rows.setdefault(c['fault'], []).append(c)
    return [dict(fault=f, times=sum(c.get('kills', 1) for c in cs), runs=len(cs), survived=sum(c['survived'] for c in cs)) for f, cs in rows.items()]

def remember(table, path):
    "Put rows into a file, in the place of older ones of the same faults."
    rows = {r['fault']: r for r in [*(json.loads(path.read_text()) if path.exists() else []), *table]}
    path.write_text(json.dumps(list(rows.values()), indent=1)+'\n')

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('faults', nargs='*', help=f'of {", ".join(FAULTS)}; none: all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json')
    args = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as tmp:
        opd = Installed(Path(tmp))
        lab = Lab(opd, Path(tmp), args.seed)
        for name in args.faults or FAULTS:
            why = may_mount() if name in ('disks', 'closed') else ''
            if why: print(f'{name}: left out, {why}', flush=True)
            for c in () if why else FAULTS[name](lab):
                cases.append(c)
                print(*(f'{k}={v}' for k, v in c.items()), sep='  ', flush=True)
        opd.process.stdin.close(); opd.process.wait()
    table = tabled(cases)
    print('\n| fault | times done | runs that had it | ended as they should |\n|:--|--:|--:|--:|')
    for r in table: print(f"| {r['fault']} | {r['times']} | {r['runs']} | {r['survived']} |")
    if args.json: remember(table, Path(args.json))
    sys.exit(any(r['survived'] < r['runs'] for r in table))

if __name__ == '__main__': main()
