"The benchmarks in reduced form: what they say of gradients and memory, and not of time."
import json, subprocess, sys

def ran(repo, *args):
    "The last line that a benchmark's process prints, read as JSON."
    out = subprocess.run([sys.executable, *args], cwd=repo/'benchmarks', capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])

def test_memory_is_flat(repo):
    "Live tensors of one pass, from five steps to fifty; what keeps its states grows."
    at = {(how, steps): ran(repo, 'one_pass.py', '--memory', 'embedded', how, str(steps))['tensors'] for how, steps in (('one pass', 5), ('one pass', 50), ('reference loop', 5), ('reference loop', 20))}
    assert at['one pass', 50] <= 1.03*at['one pass', 5] and at['reference loop', 20] > 1.1*at['reference loop', 5], at

def test_gradients_are_equal(repo):
    "One pass against the reference loop, on the embedded model and on a small SD3 under guidance; half of the student's forwards."
    code = ("import json\nfrom one_pass import *\n"
            "print(json.dumps([compare(n, WORLDS[n](batch=1), o, 3) for n in WORLDS for o in (Objective(), Objective('flow_sde', .7))]))")
    for r in ran(repo, '-c', code):
        one, two = r['student']
        assert r['difference'] <= 1e-5 and 2*one == two, r
