"A comparison: what is complete stays, what was stopped goes on, what is wrong is said in one sentence."
import json, os, shutil, signal, subprocess, sys, time
from io import StringIO
from unittest import mock

import pytest, torch, yaml
from rich.console import Console

from diffusionopd.cli import main
from diffusionopd.arms import taught_cost
from diffusionopd.compare import check_suite, compare, done_run, folder_of, load_suite
from diffusionopd.tidy import COLUMNS, read_tidy

REWARDS = '''
from diffusionopd.evaluate import reward
@reward('nan')
def nan(images, prompts): return dict(score=[float('nan')]*len(prompts))
@reward('short')
def short(images, prompts): return dict(score=[0.]*(len(prompts)-1))
@reward('raises')
def raises(images, prompts): raise ArithmeticError('no reason')
'''
SUITE = dict(
    tasks=dict(text=dict(prompts='embedded:text', teacher='embedded:text'), aesthetics=dict(prompts='embedded:aesthetics', teacher='embedded:aesthetics')),
    student=dict(rank=2), points=2, evaluation=dict(n=4, along=2, steps=2), reference='opd', threads=1, out='out',
    distill=dict(batch=1, updates=4, rollout=dict(steps=2), merge_teachers=True, checkpoint_every=1),
    arms=dict(base=dict(method='given'), text=dict(method='given', adapter='embedded:text'), aesthetics=dict(method='given', adapter='embedded:aesthetics'),
              opd=dict(method='opd'), off=dict(method='off_policy')))

@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    (tmp_path/'rewards.py').write_text(REWARDS)

def write(path, **changes):
    path.write_text(yaml.safe_dump(SUITE | changes))
    return path.name

def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}

def ends(*words):
    "Exit code and the words of the command line."
    with mock.patch.dict(os.environ), mock.patch.dict(main.__globals__, console=Console(file=StringIO(), width=4000)):
        with mock.patch.object(sys, 'argv', ['diffusionopd', *words]), pytest.raises(SystemExit) as ended: main()
        return ended.value.code or 0, main.__globals__['console'].file.getvalue().strip()

def refuses(*words, contains):
    code, said = ends(*words)
    last = said.splitlines()[-1]
    assert code == 2 and last.startswith('Error: ') and 'Traceback' not in said, (code, said)
    for w in contains: assert w in last, last

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A comparison that is complete."
    folder = tmp_path_factory.mktemp('whole')
    (folder/'suite.yaml').write_text(yaml.safe_dump(SUITE | dict(out=str(folder/'out'))))
    list(compare(load_suite(folder/'suite.yaml')))
    return folder/'out'

@pytest.fixture
def mine(whole, tmp_path): return shutil.copytree(whole, tmp_path/'out')

def test_records(whole):
    rows = read_tidy(whole/'results.json')
    assert {(r['method'], r['task']) for r in rows} == {(a, t) for a in SUITE['arms'] for t in SUITE['tasks']} and set(rows[0]) == {*COLUMNS}
    assert [r['step'] for r in rows if (r['method'], r['task']) == ('opd', 'text')] == [2, 4]
    opd, off = ([r for r in rows if r['method'] == m and r['final']][0] for m in ('opd', 'off'))
    assert opd['forwards'] == off['forwards'] == 2*opd['backwards'] == 4*2*2*2 and opd['teachers_sum'] == 2*opd['teachers_max'] > 0
    assert '| minus opd |' in (whole/'table.md').read_text() and (whole/'figures'/'quality-passes-reward.png').is_file()

def test_complete_runs_stay(mine):
    "Told again, nothing is run again; an arm that is added is run, and only that."
    before = tree(mine/'runs')
    write(mine.parent/'suite.yaml', arms=SUITE['arms'] | dict(merged=dict(method='merge')))
    assert ends('compare', 'suite.yaml', '-q')[0] == 0
    after = tree(mine/'runs')
    assert {k: after[k] for k in before} == before and any(k.startswith('merged-0/') for k in after)
    assert 'merged' in (mine/'results.csv').read_text()

def test_stopped(whole, tmp_path):
    "Ctrl-C, and the same command goes on to the same student."
    write(tmp_path/'suite.yaml')
    process = subprocess.Popen([sys.executable, '-m', 'diffusionopd', 'compare', 'suite.yaml', '-q'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, until = tmp_path/'out'/'runs'/'opd-0'/'run'/'log.jsonl', time.monotonic()+300
    while not log.exists() and time.monotonic() < until and process.poll() is None: time.sleep(.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and 'the same command goes on' in said and 'Traceback' not in said, said
    assert 'runs are complete' in (tmp_path/'out'/'table.md').read_text()                      # the table of what is there
    assert ends('compare', 'suite.yaml', '-q')[0] == 0
    student = 'runs/opd-0/run/student/adapter_model.safetensors'
    assert (tmp_path/'out'/student).read_bytes() == (whole/student).read_bytes()
    cost = lambda out: {k: v for k, v in json.loads((out/'runs'/'opd-0'/'done.json').read_text())['cost'].items() if k != 'seconds'}
    assert cost(tmp_path/'out') == cost(whole)

SUITES = ('reduced', 'paper', 'ablations', 'tuning', 'long', 'long_joint', 'long_ppo', 'long_cascade', 'long_once')

@pytest.mark.parametrize('name', SUITES)
def test_shipped_suites(name, repo, monkeypatch):
    "Each is understood, and fits: so many minutes of one core, at two milliseconds a pass, which is slow."
    pytest.importorskip('tesserocr')
    suite = load_suite(repo/'recipes'/'suites'/f'{name}.yaml')
    planned, q = check_suite(suite), suite.evaluation
    asked = (len(suite.tasks)+len(q.untaught))*q.steps*(q.n+q.along*(suite.points-1))
    minutes = .002/60*sum(c.passes+asked for c in planned.values())
    assert minutes < dict(reduced=15, paper=640, ablations=250, tuning=60, long=60, long_joint=75, long_ppo=40, long_cascade=50, long_once=140)[name] and suite.threads == 1
    if name == 'paper': # joint runs and cascades stand at the sum of what distillation and its teachers take
        total = planned['opd_ode', 0].passes+sum(taught_cost(g.teacher).passes for g in suite.tasks.values())
        assert {c.passes for (a, s), c in planned.items() if a in ('joint_nft', 'joint_grpo', 'joint_guard')} == {total}
        assert .99*total < planned['cascade_kl', 0].passes <= total # whole rounds of three stages
        alone, dearest = planned['opd_ode', 0].passes, max(taught_cost(g.teacher).passes for g in suite.tasks.values())
        assert alone*17 == total*2 and (alone+dearest)*17 == total*7 == planned['joint_short', 0].passes*17 # two of their 17 evaluations stand at the other two clocks
        assert all(.98*alone < planned[a, 0].passes <= alone for a in ('opd_sde', 'dance_opd', 'off_policy', 'sft', 'sft_best', 'ppo', 'ppo_own', 'ppo_kl')) and planned['opd_long', 0].passes == planned['opd_rl', 0].passes+alone
        assert {a for a in suite.arms if suite.seeds_of(a) != [0, 1, 2]} == {'base', 'base_guided', 'composition', 'text', 'aesthetics', 'merge', 'merge_weighted', 'merge_ties'} # these have no luck

def test_kept(mine, repo, tmp_path):
    "What `tools/keep_results.py` keeps is enough to know that the runs are complete."
    subprocess.run([sys.executable, repo/'tools'/'keep_results.py', mine, tmp_path/'kept'], check=True, capture_output=True)
    write(tmp_path/'suite.yaml', out='kept')
    suite = load_suite('suite.yaml')
    assert all(done_run(suite, a, 0) for a in SUITE['arms']) and not list((tmp_path/'kept').rglob('*.safetensors'))
    before = tree(tmp_path/'kept'/'runs')
    assert not list(compare(suite)) and tree(tmp_path/'kept'/'runs') == before

# What is wrong

def test_unknown_method(tmp_path):
    write(tmp_path/'suite.yaml', arms=SUITE['arms'] | dict(x=dict(method='odp')))
    refuses('compare', 'suite.yaml', '-q', contains=["unknown method 'odp'", "'opd'"])
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('change, words', [
    (dict(arms=dict(x=dict(method='opd', recipe=dict(updtes=2))), base='x', reference=None), ["arms.x.recipe: unknown field 'updtes'"]),
    (dict(reference='odp'), ["reference: unknown arm 'odp'"]), (dict(seds=[1]), ["suite.yaml: unknown field 'seds'"]), (dict(arms={}), ['arms']),
    (dict(evaluation=dict(n=0)), ['evaluation.n']), (dict(tasks={}), ['tasks'])], ids=['field of a recipe', 'reference', 'field', 'no arms', 'n', 'no tasks'])
def test_suite(change, words, tmp_path):
    write(tmp_path/'suite.yaml', **change)
    refuses('compare', 'suite.yaml', '-q', contains=words)
    assert not (tmp_path/'out').exists()

def test_empty_prompts(tmp_path):
    (tmp_path/'p.txt').write_text('\n')
    write(tmp_path/'suite.yaml', tasks=dict(SUITE['tasks'], text=dict(SUITE['tasks']['text'], prompts='p.txt')))
    refuses('compare', 'suite.yaml', '-q', contains=['tasks.text.prompts', "'p.txt'", 'holds no prompt'])
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('name, words', [('nan', 'not finite'), ('short', 'values of'), ('raises', 'ArithmeticError')])
def test_reward(name, words, mine, tmp_path):
    "A reward that does not answer as it should: the run is named, and what was complete is untouched."
    judged = dict(SUITE['tasks'], text=dict(SUITE['tasks']['text'], reward=name))
    write(tmp_path/'suite.yaml', plugins=['rewards.py'], tasks=judged, out='other', arms=dict(base=dict(method='given')), reference=None)
    before = tree(mine)
    refuses('compare', 'suite.yaml', '-q', contains=['1 of 1 runs failed', 'base-0', 'tasks.text', words])
    assert tree(mine) == before and not (tmp_path/'other'/'runs'/'base-0'/'done.json').exists()

@pytest.mark.parametrize('file, content', [('done.json', b'{"cost":'), ('done.json', b'[]'), ('marks.npz', b'nothing'), ('arm.json', b'\xff'), ('arm.json', None)])
def test_damaged_run(file, content, mine, tmp_path):
    "The folder is named, and no other is touched."
    path = mine/'runs'/'off-0'/file
    path.write_bytes(content) if content is not None else path.unlink()
    write(tmp_path/'suite.yaml')
    before = tree(mine)
    refuses('compare', 'suite.yaml', '-q', contains=['off-0', 'remove this folder'])
    assert tree(mine) == before

def test_all_damaged_runs(mine, tmp_path):
    "Two damaged folders are named in one try, and nothing is touched."
    (mine/'runs'/'off-0'/'done.json').write_bytes(b'{"cost":')
    (mine/'runs'/'base-0'/'marks.npz').write_bytes(b'nothing')
    write(tmp_path/'suite.yaml')
    before = tree(mine)
    code, said = ends('compare', 'suite.yaml', '-q')
    assert code == 2 and 'Error: 2 problems' in said and 'Traceback' not in said and all(any(l.startswith('- ') and w in l for l in said.splitlines()) for w in ('off-0 is damaged', 'base-0 is damaged')), said
    assert tree(mine) == before

def test_failure_leaves_the_others(mine, tmp_path):
    before = tree(mine/'runs')
    write(tmp_path/'suite.yaml', arms=SUITE['arms'] | dict(bad=dict(method='merge', how='weighted', weights=[1., 0.])))
    refuses('compare', 'suite.yaml', '-q', contains=['1 of 6 runs failed, the others stay as they are', 'bad-0', 'merge nothing'])
    after = tree(mine/'runs')
    assert {k: after[k] for k in before} == before and (mine/'results.csv').is_file()

def test_two_at_a_time(mine, tmp_path):
    write(tmp_path/'suite.yaml', arms=SUITE['arms'] | dict(merged=dict(method='merge'), after=dict(method='opd', after='merged', recipe=dict(updates=1))))
    assert ends('compare', 'suite.yaml', '-q', '--jobs', '2')[0] == 0
    suite = load_suite('suite.yaml')
    assert done_run(suite, 'after', 0) and folder_of(suite, 'merged', 0).is_dir() and 'after' in (mine/'table.md').read_text()
