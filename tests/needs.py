"""What a test needs of the machine beside Python's packages. Where it is missing, the test is skipped; it fails where REQUIRE names it, as in the CI job
that has everything and would stay green without it: REQUIRE=browser,pandoc,node,lab pytest ..."""
import os

import pytest

TOOLS = 'browser', 'pandoc', 'node', 'lab'

def required():
    "The tools that REQUIRE names; an unknown one is a failure, for it would ask for nothing."
    names = set(filter(None, os.environ.get('REQUIRE', '').replace(' ', '').split(',')))
    if names - {*TOOLS}: pytest.fail(f'REQUIRE names {", ".join(sorted(names - {*TOOLS}))}, and there are {", ".join(TOOLS)}', pytrace=False)
    return names

def need(tool, there, reason):
    "Skip the test, or the whole file, where `tool` is not there; fail where it is required."
    asked = tool in required()
    if not there and asked: pytest.fail(f'{reason}, and REQUIRE={os.environ["REQUIRE"]} asks for it', pytrace=False)
    if not there: pytest.skip(reason, allow_module_level=True)
