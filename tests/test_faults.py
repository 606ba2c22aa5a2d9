"A few cases of every fault in `faults.py`; `python tests/faults.py` does many, and counts. (Signals are in `test_resume.py`.)"
import pytest

from faults import FAULTS, Lab, may_mount

FEW = dict(kills=dict(n=2), saves=dict(n=2), disks=dict(sizes=(1400,)), closed={}, damage=dict(n=2), crowds=dict(n=1), clocks=dict(n=1), outsiders={},
           numbers=dict(values=('nan',)), dead={})

@pytest.fixture(scope='module')
def lab(opd, tmp_path_factory): return Lab(opd, tmp_path_factory.mktemp('faults'))

@pytest.mark.parametrize('fault', FEW)
def test_fault(fault, lab):
    "The run ends as if nothing had been, or says in one sentence why it cannot."
    if fault in ('disks', 'closed') and (why := may_mount()): pytest.skip(why)
    cases = list(FAULTS[fault](lab, **FEW[fault]))
    assert cases and all(c['survived'] for c in cases), [c for c in cases if not c['survived']]
