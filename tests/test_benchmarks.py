"The benchmarks in reduced form: what they say of gradients and memory, and not of time."
import json

def last(text): return json.loads(text.splitlines()[-1])

def test_memory_is_flat(repo, opd):
    "Live tensors of one pass, from five steps to fifty; what keeps its states grows."
    at = {(how, steps): last(opd.script(repo/'benchmarks'/'one_pass.py', '--memory', 'embedded', how, steps).ok().stdout)['tensors'] for how, steps in (('one pass', 5), ('one pass', 50), ('reference loop', 5), ('reference loop', 20))}
    assert at['one pass', 50] <= 1.03*at['one pass', 5] and at['reference loop', 20] > 1.1*at['reference loop', 5], at

def test_gradients_are_equal(repo, opd):
    "One pass against the reference loop, on the embedded model and on a small SD3 under guidance; half of the student's forwards."
    code = ("import json, sys\nsys.path.insert(0, '.')\nfrom one_pass import *\n"
            "print(json.dumps([compare(n, WORLDS[n](batch=1), o, 3) for n in WORLDS for o in (Objective(), Objective('flow_sde', .7))]))")
    for r in last(opd.python(repo/'benchmarks', code)):
        one, two = r['student']
        assert r['difference'] <= 1e-5 and 2*one == two, r

def test_stage_1_learns(repo, opd, tmp_path):
    "The fastest of the stored runs, cut short: the held-out reward rises, its costs are counted, and what is stored is not run again."
    args = ['--json', tmp_path/'r.json', '--only', 'aesthetics', '--methods', 'nft', '--rounds', 6, '--pictures', 32]
    for _ in range(2): text = opd.script(repo/'benchmarks'/'rl_methods.py', *args).ok().stdout
    r, = json.loads((tmp_path/'r.json').read_text())
    first, *_, last = r['points']
    assert last['score'] > first['score']+.05 and (last['images'], last['forwards'], last['backwards']) == (384, 384*(8+4), 384*2)
    assert f"{last['score']:.3f}" in text and (tmp_path/'r.svg').exists()

def test_stored_runs_rise(repo):
    "What is stored of stage 1: three methods on three tasks, and the reward of each on held-out prompts ends above its start."
    runs = json.loads((repo/'benchmarks'/'rl_methods.json').read_text())
    assert {(r['task'], r['method']) for r in runs} == {(t, m) for t in ('composition', 'text', 'aesthetics') for m in ('nft', 'flow_grpo', 'grpo_guard')}
    for r in runs: assert r['points'][-1]['low'] > r['points'][0]['score'], (r['task'], r['method'])
