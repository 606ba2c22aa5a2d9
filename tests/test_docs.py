"What the documents say, done."
import re

from PIL import Image

def test_readme_example(repo, opd, tmp_path):
    "The README's Python example runs as it stands, with fewer updates."
    code = next(b for b in re.findall(r'```python\n(.*?)```', (repo/'README.md').read_text(), re.S) if 'demo_recipe' in b)
    assert len(code.splitlines()) <= 20 and 'updates=60' in code
    said = opd.python(tmp_path, code.replace('updates=60', "updates=2, batch=2, evaluation=dict(every=0, final=0)"))
    assert len(said.splitlines()) >= 2 and Image.open(tmp_path/'47.png').size == (320, 160)

def test_shipped_recipe_is_the_long_demo(repo, opd, tmp_path):
    "recipes/three-teachers.yaml computes what `diffusionopd demo --long` computes."
    opd.python(tmp_path, f'''
from diffusionopd.demo import demo_recipe
from diffusionopd.recipes import load_recipe
from diffusionopd.trainer import differences, recipe_core
found = differences(recipe_core(load_recipe('distill', {str(repo/'recipes'/'three-teachers.yaml')!r})), recipe_core(demo_recipe('long')))
assert not found, found''')
