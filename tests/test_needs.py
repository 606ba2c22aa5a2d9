"What is missing is skipped, and is a failure where it is required."
import re
from pathlib import Path

import pytest, yaml

from needs import TOOLS, need

skipped, failed = pytest.skip.Exception, pytest.fail.Exception

@pytest.mark.parametrize('require, ends', [(None, skipped), ('', skipped), ('browser, node', skipped), ('pandoc', failed), ('browser, pandoc', failed), ('pandok', failed)])
def test_missing(require, ends, monkeypatch):
    if require is None: monkeypatch.delenv('REQUIRE', raising=False)
    else: monkeypatch.setenv('REQUIRE', require)
    with pytest.raises(ends, match='pandok' if require == 'pandok' else 'pandoc is not installed'): need('pandoc', None, 'pandoc is not installed')
    if require != 'pandok': need('pandoc', '/usr/bin/pandoc', 'pandoc is not installed')

def test_ci_requires_all_that_is_asked():
    "The names that tests ask by are those that there are, and the job that looks at the site requires each and runs the files that ask."
    asked = {f.name: set(re.findall(r"\bneed\('(\w+)'", f.read_text(encoding='utf8'))) for f in Path('tests').glob('test_*.py') if f.name != 'test_needs.py'}
    assert set.union(*asked.values()) == {*TOOLS}
    job = yaml.safe_load(Path('.github/workflows/ci.yml').read_text())['jobs']['site']
    run = ' '.join(s.get('run', '') for s in job['steps'])
    assert set(job['env']['REQUIRE'].split(',')) == {*TOOLS} and [f for f, tools in asked.items() if tools and f not in run] == []
