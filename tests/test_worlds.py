"The script that asks the 2-D worlds: it resumes, it refuses damaged files, and what ships is whole and still what the code gives."
import json, shutil, subprocess, sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]

def script(repo, *args):
    return subprocess.run([sys.executable, str(repo/'benchmarks'/'worlds.py'), *map(str, args)], cwd=repo/'benchmarks', capture_output=True, text=True)

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A quick run of one experiment and one seed."
    out = tmp_path_factory.mktemp('worlds')/'quick.json'
    ran = script(HERE, '--quick', '--out', out, '--only', 'sizes', '--seeds', '0')
    assert ran.returncode == 0, ran.stderr
    return out, ran

def bare(path): return {k: {n: v for n, v in r.items() if n != 'cpu_s'} for k, r in json.loads(path.read_text())['runs'].items()}

def test_finished_runs_are_kept(repo, done, tmp_path):
    "A run that is taken out of the file is done again, and no other; it comes out the same, and so do the specialists made for it."
    out, ran = done
    assert f'{len(bare(out))} runs, {len(bare(out))} of them now' in ran.stdout
    part = shutil.copy(out, tmp_path/'part.json')
    lines = part.read_text().splitlines(True)
    kept = [l for l in lines if not l.startswith('"sizes/16/opd/0"')]
    assert len(kept) == len(lines)-1
    part.write_text(''.join(kept))
    again = script(repo, '--quick', '--out', part, '--only', 'sizes', '--seeds', '0')
    assert again.returncode == 0 and '1 of them now' in again.stdout and bare(part) == bare(out)

def cut(text): return text[:len(text)//2]
def other(text): return json.dumps({'updates': 3})
def holed(text): return text.replace('"scores": [', '"scores": [NaN, ', 1)
def emptied(text): d = json.loads(text); d['runs']['base/easy/8'] = {'points': []}; return json.dumps(d)
def longer(text): d = json.loads(text); d['settings']['rounds'] = 99; return json.dumps(d)

HARMS = dict(cut=(cut, 'cannot be read'), other=(other, 'not a results file of this script'), holed=(holed, 'is damaged'), emptied=(emptied, "the run 'base/easy/8' is damaged"), longer=(longer, 'holds runs of another rounds'))

def test_damaged_files_and_bad_arguments_are_refused(repo, done, tmp_path):
    "One sentence, exit code 2, and the file stays as it was; nothing is left beside it. All but the last are asked of one process."
    text, args = done[0].read_text(), ['--quick', '--only', 'sizes', '--seeds', '0', '--out']
    for name, (harm, _) in HARMS.items(): (tmp_path/f'{name}.json').write_text(harm(text))
    asked = [[*args, str(tmp_path/f'{n}.json')] for n in HARMS]+[['--only', 'size', '--out', str(tmp_path/'new.json')], ['--quick']]
    code = f'import sys, worlds\nfor a in {asked!r}: print("code", worlds.main(a), file=sys.stderr)'
    said = subprocess.run([sys.executable, '-c', code], cwd=repo/'benchmarks', capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(said) == 2*len(asked) and {*said[1::2]} == {'code 2'}, said
    for line, words in zip(said[::2], [w for _, w in HARMS.values()]+["did you mean 'sizes'", 'a quick run is no result']): assert words in line, line
    for name, line in zip(HARMS, said[::2]): assert f'{name}.json' in line
    for name, (harm, _) in HARMS.items(): assert (tmp_path/f'{name}.json').read_text() == harm(text)
    assert len(list(tmp_path.iterdir())) == len(HARMS)
    ran = script(repo, *asked[0])
    assert ran.returncode == 2 and ran.stderr.splitlines() == said[:1]

def test_what_ships_is_whole(repo):
    "The copy in the package is the file of the benchmark; every experiment has its five seeds, and says how it was made."
    text = (repo/'diffusionopd'/'assets'/'worlds.json').read_text(encoding='utf8')
    assert text == (repo/'benchmarks'/'results'/'worlds'/'results.json').read_text(encoding='utf8')
    told, groups = json.loads(text), {}
    assert told['command'] == 'python benchmarks/worlds.py' and 'torch' in told['hardware']
    for k in told['runs']:
        *name, seed = k.split('/')
        if name[0] not in ('base', 'tune') and int(seed) not in told['settings']['tuning']: groups.setdefault('/'.join(name), set()).add(int(seed))
    assert {g.split('/')[0] for g in groups} == {'specialist', 'methods', 'falling', 'between', 'shortcut', 'one_more', 'policies', 'scaling', 'early', 'sizes'}
    assert {frozenset(v) for v in groups.values()} == {frozenset(range(5))}

def test_what_ships_is_what_the_code_gives(repo):
    "A specialist and a student of the stored file, trained again: the same rewards, up to what processors differ in."
    code = '''
import json, torch
from worlds import *
torch.set_num_threads(1)
told = json.loads(ASSET.read_text())
lab, w, run = Lab(Kept(KEPT, told['settings']), told['settings']), WORLDS['easy'], lambda k: told['runs'][k]['points']
team, n = lab.team('easy', 0), equal(lab.s)[2]//4
made = followed(imitated(w, lab.student(0), team, range(4), n, lab.rate('sft', 'easy'), lab.s['walks'], 0), [n], lambda lap: lab.scores(w, lap.policy))['points'][0]
first = run('methods/easy/sft/0')[0]
print(json.dumps([marks(w, team)+made['scores']+[made['index'], made['passes']], [run(f'specialist/easy/32/{t}/0')[-1]['own'] for t in range(4)]+first['scores']+[first['index'], first['passes']]]))'''
    ran = subprocess.run([sys.executable, '-c', code], cwd=repo/'benchmarks', capture_output=True, text=True, check=True)
    now, stored = json.loads(ran.stdout.splitlines()[-1])
    assert now == pytest.approx(stored, abs=.02)
