"What is loaded is data: no file that comes from elsewhere is executed, leads out of its folder, or makes the environment known."
import ast, json, os, pickle, re, shutil
from pathlib import Path

import pytest, torch, yaml
from safetensors.torch import load_file

from diffusionopd.adapters import PEFT_FILE, load_adapter
from diffusionopd.backbones import asset, load_backbone
from diffusionopd.errors import Refusal
from installed import SMALL, edit, lines, write

MODULES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'subprocess'}
CALLS = {'eval', 'exec', 'compile', '__import__', 'torch.load', 'np.load', 'numpy.load', 'torch.hub.load', 'os.system', 'os.popen', 'torch.jit.load', 'yaml.unsafe_load', 'yaml.full_load', 'pd.read_pickle'}

def called(node):
    "The dotted name of what is called."
    parts, f = [], node.func
    while isinstance(f, ast.Attribute): parts.append(f.attr); f = f.value
    return '.'.join(reversed([*parts, f.id])) if isinstance(f, ast.Name) else '.'.join(['?', *reversed(parts)])

def executing(source):
    "What of a module could run what it reads."
    for n in ast.walk(ast.parse(source)):
        names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module or ''] if isinstance(n, ast.ImportFrom) else []
        yield from (m for m in names if m.split('.')[0] in MODULES)
        if not isinstance(n, ast.Call): continue
        name, kw = called(n), {k.arg: ast.unparse(k.value) for k in n.keywords}
        if name in CALLS: yield name
        if name == 'yaml.load' and (len(n.args) < 2 or ast.unparse(n.args[1]) != 'Once'): yield 'yaml.load without the safe loader'
        if name.endswith('from_pretrained') and name.split('.')[0] not in WEIGHTLESS and kw.get('use_safetensors') not in ('True', 'use_safetensors'): yield f'{name} without use_safetensors'
        if kw.get('trust_remote_code', 'False') != 'False' or kw.get('allow_pickle', 'False') != 'False': yield f'{name} with trust'

WEIGHTLESS = {'AutoConfig', 'AutoTokenizer', 'AutoImageProcessor', 'AutoProcessor'}  # JSON and text, no weights

ALLOWED = {
    'pretrain.py': ['subprocess'],                                # asks git for the commit
    'compare.py': ['subprocess', 'np.load'],                      # starts its own runs; reads numbers with allow_pickle=False
    'card.py': ['cls.from_pretrained without use_safetensors'],   # tokenizers and schedulers: JSON and text, no weights
    'plan.py': ['cls.from_pretrained without use_safetensors', 'cls.config_class.from_pretrained without use_safetensors']} # the same, and configurations

def test_nothing_executes_what_it_reads(repo):
    found = {f.name: list(executing(f.read_text(encoding='utf8'))) for f in (repo/'diffusionopd').glob('*.py')}
    assert {k: v for k, v in found.items() if v} == ALLOWED

@pytest.mark.parametrize('code', ['import pickle', 'from joblib import load', 'torch.load(p)', 'eval(s)', 'yaml.load(s, yaml.Loader)', 'P.from_pretrained(p)', 'M.from_pretrained(p, use_safetensors=True, trust_remote_code=True)'])
def test_the_search_finds(code): assert list(executing(code))

class Trap:
    "Unpickled, it makes a file."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def trap(file, sprung):
    "A pickle, in the form that torch.load reads and bare."
    torch.save(Trap(sprung), file)

@pytest.fixture
def base(tmp_path):
    shutil.copytree(asset('base'), tmp_path/'base')
    return tmp_path/'base'

def refused(f, *args):
    with pytest.raises(Refusal) as e: f(*args)
    assert '\n' not in str(e.value)
    return str(e.value)

@pytest.mark.parametrize('name', ['adapter_model.bin', 'pytorch_lora_weights.bin', 'adapter_model.pt', PEFT_FILE])
def test_pickled_adapters(name, tmp_path):
    "In the place of weights, or called weights: it stays closed."
    shutil.copytree(asset('teachers', 'text'), tmp_path/'mine')
    for f in (tmp_path/'mine').glob('*.safetensors'): f.unlink()
    trap(tmp_path/'mine'/name, tmp_path/'sprung')
    refused(load_adapter, load_backbone('embedded'), 'x', tmp_path/'mine')
    with open(tmp_path/'mine'/name, 'wb') as f: pickle.dump(Trap(tmp_path/'sprung'), f)
    refused(load_adapter, load_backbone('embedded'), 'x', tmp_path/'mine')
    assert not (tmp_path/'sprung').exists()

@pytest.mark.parametrize('part, file', [('transformer', 'diffusion_pytorch_model.bin'), ('text_encoder', 'pytorch_model.bin'), ('transformer', 'diffusion_pytorch_model.safetensors')])
def test_pickled_bases(part, file, base, tmp_path):
    for f in (base/part).glob('*.safetensors'): f.unlink()
    trap(base/part/file, tmp_path/'sprung')
    refused(load_backbone, str(base))
    assert not (tmp_path/'sprung').exists()

def test_code_in_a_model_folder(base, tmp_path):
    "A pipeline, a component or a configuration that names code of its own."
    evil = f'import os\nos.mkdir({str(tmp_path/"sprung")!r})\nclass Evil: pass\n'
    for place in ('pipeline.py', 'evil.py', 'transformer/evil.py', 'text_encoder/evil.py', 'text_encoder/modeling_evil.py'): (base/place).write_text(evil)
    index = json.loads((base/'model_index.json').read_text())
    for change in (dict(_class_name='Evil'), dict(_class_name=['evil', 'Evil']), dict(transformer=['evil', 'Evil']), dict(text_encoder=['evil', 'Evil'])):
        (base/'model_index.json').write_text(json.dumps(index | change))
        refused(load_backbone, str(base))
    (base/'model_index.json').write_text(json.dumps(index))
    for config in (base/'transformer'/'config.json', base/'text_encoder'/'config.json'):
        config.write_text(json.dumps(json.loads(config.read_text()) | dict(auto_map=dict(AutoModel='evil.Evil'))))
    load_backbone(str(base))
    assert not (tmp_path/'sprung').exists()

@pytest.mark.parametrize('name', ['../../secret.safetensors', '/etc/hostname', '..', 'a/../../b.safetensors'])
def test_weights_outside_their_folder(name, base):
    "An index of weight files names files beside it."
    stem = base/'transformer'/'diffusion_pytorch_model.safetensors'
    keys = list(load_file(stem))
    (base/'transformer'/f'{stem.name}.index.json').write_text(json.dumps(dict(metadata={}, weight_map=dict.fromkeys(keys, name))))
    assert 'model' in refused(load_backbone, str(base))

@pytest.mark.parametrize('name', ['../up', 'a/b', '/abs', '..', '.', 'a\\b', 'a b', '', '~'])
def test_names_of_tasks(name, opd, tmp_path):
    write(tmp_path, edit(SMALL, tasks={name: SMALL['tasks']['text']}))
    ended = opd.run(tmp_path, 'distill', 'recipe.yaml', '-q')
    assert ended.code == 2 and 'cannot name a task' in ended.stderr and sorted(p.name for p in tmp_path.iterdir()) == ['recipe.yaml']

@pytest.mark.parametrize('name', ['embedded:../text', 'embedded:/etc', 'embedded:..', 'embedded:'])
@pytest.mark.parametrize('field', ['teacher', 'prompts'])
def test_names_of_what_ships(field, name, opd, tmp_path):
    write(tmp_path, edit(SMALL, **{f'tasks__text__{field}': name}))
    ended = opd.run(tmp_path, 'distill', 'recipe.yaml', '-q')
    assert ended.code == 2 and ended.stderr.startswith('Error: ') and sorted(p.name for p in tmp_path.iterdir()) == ['recipe.yaml']

def test_the_environment_stays_unknown(opd, tmp_path):
    "A variable's value is in nothing that a run says or writes, whether it ends well or not."
    secret = 'hunter2-cf83e1357eefb8bd'
    for settings in edit(SMALL, trackers=['tensorboard']), edit(SMALL, updtes=1), edit(SMALL, tasks__text__teacher='$HF_TOKEN'):
        write(tmp_path, settings)
        code = f'''
import os, sys
os.environ.update(HF_TOKEN={secret!r}, WANDB_API_KEY={secret!r}, SOME_PASSWORD={secret!r})
sys.argv = ['diffusionopd', 'distill', 'recipe.yaml']
from diffusionopd.cli import main
main()'''
        ended = opd.start(tmp_path, code=code).end()
        assert secret not in ended.stdout+ended.stderr
        files = [f for f in tmp_path.rglob('*') if f.is_file()]
        assert not [f for f in files if secret.encode() in f.read_bytes()]
        shutil.rmtree(tmp_path/'run', ignore_errors=True)
