"What cannot be done is refused in one sentence that says where and what instead; nothing is left behind."
import json, os, shutil
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file, save_file

from installed import SMALL, edit, write

def tree(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob('*')}

@pytest.fixture
def refuses(opd, tmp_path):
    "Give a command; it must end with exit code 2, one sentence with these words, and the folder as it was."
    def check(*args, words):
        before = tree(tmp_path)
        ended = opd.run(tmp_path, *args)
        said = ended.stderr.strip()
        assert ended.code == 2 and said.startswith('Error: ') and '\n' not in said, f'exit code {ended.code}\n{ended.stdout}{ended.stderr}'
        for w in [words] if isinstance(words, str) else words: assert w in said, said
        assert tree(tmp_path) == before and not ended.stdout
    return check

def cases(*rows): return pytest.mark.parametrize('change, words', [pytest.param(c, w, id=i) for i, c, w in rows])

# The recipe: the file and the field are named, and the nearest valid name

@cases(
    ('unknown field', dict(updtes=3), ["recipe.yaml: unknown field 'updtes'", "'updates'"]),
    ('unknown field below', dict(rollout__solvr='euler'), ["'rollout.solvr'", "'solver'"]),
    ('unknown field of a task', dict(tasks__text__guidence=2), ["'tasks.text.guidence'", "'guidance'"]),
    ('word for a number', dict(updates='many'), ['updates', "'many'"]),
    ('half an update', dict(updates=2.5), ['updates', '2.5']),
    ('list for a group', dict(loss=[1]), ['loss', '[1]']),
    ('below the range', dict(batch=0), ['batch', '1', 'not 0']),
    ('not finite', dict(optimiser__lr=float('nan')), ['optimiser.lr', 'nan']),
    ('negative seed', dict(seed=-1), ['seed', '-1']),
    ('missing field', dict(tasks__text__teacher=None), "'tasks.text.teacher' is missing"),
    ('no tasks', dict(tasks={}), 'tasks'),
    ('unknown solver', dict(rollout__solver='eulr'), ["'eulr'", "'euler'"]),
    ('eta out of range', dict(rollout__solver='ddim', rollout__eta=2.), ['ddim', 'eta', '[0, 1]']),
    ('eta below zero', dict(rollout__eta=-.1), ['rollout.eta', '-0.1']),
    ('eta without noise', dict(rollout__eta=.5), ['euler', '0.5']),
    ('noise without eta', dict(rollout__solver='flow_sde'), ['flow_sde', 'eta']),
    ('unknown weighting', dict(loss__weighting='velocty'), ["'velocty'", "'velocity'"]),
    ('unknown query', dict(loss__query='randm'), ["'randm'", "'random'"]),
    ('k without a query', dict(loss__k=2), ["'all'", 'k']),
    ('k that does not fit', dict(loss__query='drop_last', loss__k=3), ["'drop_last'", '3 steps']),
    ('unknown anchor', dict(loss__anchor=.1, loss__anchor_to='txt'), ["'txt'", "'text'"]),
    ('unknown reward', dict(tasks__text__reward='embeded'), ["'embeded'", "'embedded'"]),
    ('unknown task', dict(tasks__text__prompts='embedded:txt'), ["'txt'", "'text'"]),
    ('unknown teacher', dict(tasks__text__teacher='embedded:txt'), ["'txt'", "'text'"]),
    ('unknown tracker', dict(trackers=['tensorbord']), ["'tensorbord'", "'tensorboard'"]),
    ('unknown layers', dict(student__targets=['nonsense']), "'nonsense'"),
    ('layers without weights', dict(student__targets=['attn']), ['student.targets', "'attn'"]),
    ('unknown precision', dict(precision='fp8'), ['precision', "'fp8'"]),
    ('no such plugin', dict(plugins=['nowhere.py']), ['plugins', "'nowhere.py'"]),
    ('no adapter to start from', dict(student__start='nowhere'), "'nowhere'"),
    ('no pipeline folder', dict(model='nowhere'), "'nowhere'"),
    ('folder without a pipeline', dict(model='.'), 'model_index.json'),
    ('no such hub name', dict(model='nobody/nothing'), 'nobody/nothing'),
    ('no prompt file', dict(tasks__text__prompts='nowhere.txt'), "'nowhere.txt'"),
    ('no teacher', dict(tasks__text__teacher='nowhere'), "'nowhere'"),
)
def test_recipe(change, words, refuses, tmp_path):
    refuses('distill', write(tmp_path, edit(SMALL, **change)), '-q', words=words)

def test_all_problems(opd, tmp_path):
    "Several mistakes are told in one try, misspelt names first, one a line."
    place = tmp_path/'a'; place.mkdir()
    write(place, edit(SMALL, updtes=3, batch=0, tasks=dict(text=dict(promts='embedded:text', teacher='embedded:text'))))
    ended = opd.run(place, 'distill', 'recipe.yaml', '-q')
    assert ended.code == 2 and ended.stderr.strip().splitlines()[:2] == ['Error: recipe.yaml: 3 problems', ended.stderr.strip().splitlines()[1]], ended.stderr
    first, second, third = ended.stderr.strip().splitlines()[1:]
    assert {first, second} == {"- unknown field 'updtes', did you mean 'updates'?", "- unknown field 'tasks.text.promts', did you mean 'prompts'?"} and third.startswith('- batch: ')
    write(place, edit(SMALL, tasks={t: dict(prompts=f'{t}.txt', teacher=f'./teachers/{t}') for t in 'ab'}))
    said = opd.run(place, 'distill', 'recipe.yaml', '-q').stderr.strip().splitlines()
    assert said[0] == 'Error: 4 problems' and [l.split(': ')[0] for l in said[1:]] == [f'- tasks.{t}.{k}' for k in ('prompts', 'teacher') for t in 'ab'], said
    assert said[4].endswith("there is no teacher './teachers/b': no such folder; or use average, base or student") and not (place/'run').exists()

@cases(
    ('unknown reward', dict(reward='embeded'), ['reward: ', "'embeded'", "'embedded'"]),
    ('no prompt file', dict(prompts='nowhere.txt'), ['prompts: ', "'nowhere.txt'"]),
    ('unknown layers', dict(student__targets=['nonsense']), ['student.targets: ', "'nonsense'"]),
    ('averaged', dict(optimiser__ema=.9), 'optimiser.ema'),
    ('no pipeline folder', dict(model='nowhere'), ['model: ', "'nowhere'"]),
    ('no such plugin', dict(plugins=['nowhere.py']), ['plugins', "'nowhere.py'"]),
    ('one picture a prompt', dict(images_per_prompt=1), ['images_per_prompt', '2']),
    ('unknown field', dict(itertions=3), ["'itertions'", "'iterations'"]),
    ('start from an adapter', dict(student__start='somewhere'), 'student.start'),
    ('full student', dict(student__kind='full'), 'student.kind'),
    ('unknown method', dict(method='ppo'), ['method', "'ppo'"]),
    ('ratios without noise', dict(method='flow_grpo'), ['flow_grpo needs a sampler with noise', 'flow_sde']),
    ('one step, and that without noise', dict(method='grpo_guard', solver='cps', eta=.5, steps=1), 'adds noise'),
    ('setting of another method', dict(ratio_clip=.1), ['ratio_clip', 'nft']),
    ('both forms', dict(tasks=dict(a=dict(prompts='embedded:text'))), ['tasks and task are both given']),
    ('neither form', dict(task=None), 'task is missing'),
    ('a teacher in stage 1', dict(task=None, prompts=None, tasks=dict(a=dict(prompts='embedded:text', teacher='embedded:text'))), 'diffusionopd distill'),
    ('uneven shares', dict(task=None, prompts=None, tasks={t: dict(prompts='embedded:text') for t in 'ab'}), ['2 tasks', 'prompts_per_iteration']),
    ('reward of one task', dict(task=None, prompts=None, tasks=dict(a=dict(prompts='embedded:text', reward='embeded'))), ['tasks.a.reward: ', "'embedded'"]),
)
def test_teach_recipe(change, words, refuses, tmp_path):
    small = dict(task='text', prompts='embedded:text', iterations=1, prompts_per_iteration=1, images_per_prompt=2, steps=2)
    refuses('teach', write(tmp_path, edit(small, **change)), '-q', words=words)

@cases(
    ('not a number', "dict(score=float('nan')*images.mean((1, 2, 3)))", 'not finite'),
    ('wrong length', 'dict(score=[1.])', 'for 2 images'),
    ('raises', '1/0', 'ZeroDivisionError'),
    ('no score', 'dict(strict=[1., 1.])', "the key 'score'"),
    ('words', "dict(score=['good', 'bad'])", 'no list of numbers'),
)
def test_reward_of_a_lesson(change, words, refuses, tmp_path, tmp_path_factory):
    "What a reward of one's own does wrong is told under its name and its task's."
    plugin = tmp_path_factory.mktemp('plugin')/'mine.py'                                 # Python leaves its bytecode beside it
    plugin.write_text(f'from diffusionopd.evaluate import reward\n@reward("mine")\ndef mine(images, prompts): return {change}\n')
    small = dict(task='lesson', prompts='embedded:text', reward='mine', iterations=1, prompts_per_iteration=1, images_per_prompt=2, steps=2, plugins=[str(plugin)])
    refuses('teach', write(tmp_path, small), '-q', words=['task lesson: ', "the reward 'mine'", words])

@pytest.mark.parametrize('content, words', [
    (b'tasks: {text: [', 'YAML'), (b'\xff\xfe\x00\x01', 'YAML'), (b'', 'must hold fields'), (b'- a\n- b\n', 'must hold fields'),
    (b'just words', 'must hold fields'), (b'a: &a [*a, *a]\nb: !!python/object/apply:os.system [ls]', 'YAML')], ids=['cut off', 'binary', 'empty', 'list', 'text', 'code'])
def test_not_a_recipe(content, words, refuses, tmp_path):
    (tmp_path/'recipe.yaml').write_bytes(content)
    refuses('distill', 'recipe.yaml', words=['recipe.yaml', words])

def test_no_recipe(refuses):
    refuses('distill', 'nowhere.yaml', words=["'nowhere.yaml'", 'diffusionopd init distill'])
    refuses('distill', '.', words="'.'")

# Prompts and teachers

@pytest.mark.parametrize('content, words', [(b'', 'holds no prompt'), (b' \n\n\t\n', 'holds no prompt'), (b'write \xff\xfe', 'not UTF-8'), (b'write 1\n'+b'x'*10001, 'longer than')],
                         ids=['empty', 'blank', 'binary', 'endless'])
def test_prompt_file(content, words, refuses, tmp_path):
    (tmp_path/'p.txt').write_bytes(content)
    refuses('distill', write(tmp_path, edit(SMALL, tasks__text__prompts='p.txt')), '-q', words=["'p.txt'", words])

def weights(f): # f(name, tensor) -> tensor
    def change(folder):
        file = folder/'adapter_model.safetensors'
        state = {k: f(k, v) for k, v in load_file(file).items()}
        save_file({k: v.contiguous() for k, v in state.items() if v is not None}, file)
    return change

def settings(name, **values):
    def change(folder): (folder/name).write_text(json.dumps(json.loads((folder/name).read_text()) | values))
    return change

def cut(folder):
    file = folder/'adapter_model.safetensors'
    file.write_bytes(file.read_bytes()[:-1000])

def beyond(folder):
    file = folder/'adapter_model.safetensors'
    state = load_file(file)
    state |= {k.replace('blocks.0.', 'blocks.99.'): v.clone() for k, v in state.items() if 'transformer_blocks.0.' in k}
    save_file(state, file)

def faint(folder):
    weights(lambda k, v: v*1e-7 if 'lora_B' in k else v)(folder)
    settings('manifest.json', sha256='')(folder)  # else it would be refused for not being the file that was saved

def bare(folder):
    for file in folder.glob('*.safetensors'): file.unlink()

def pickled(folder):
    bare(folder)
    torch.save({}, folder/'adapter_model.bin')

BROKEN = {
    'truncated': (cut, 'adapter_model.safetensors'),
    'not safetensors': (lambda f: (f/'adapter_model.safetensors').write_text('hello'), 'adapter_model.safetensors'),
    'no weights': (bare, 'holds no teacher'),
    'pickle': (pickled, 'pickle'),
    'no lora_B': (weights(lambda k, v: None if 'lora_B' in k else v), 'lora_B'),
    'one layer missing': (weights(lambda k, v: None if 'transformer_blocks.0.attn.to_q' in k else v), 'to_q'),
    'unknown layer': (beyond, 'transformer_blocks.99'),
    'wrong shape': (weights(lambda k, v: v[:, :-1] if 'lora_A' in k else v), 'has shape'),
    'another rank in a layer': (weights(lambda k, v: (v[:-1] if 'lora_A' in k else v[:, :-1]) if 'transformer_blocks.0.attn.to_q' in k else v), 'all layers must have one rank'),
    'another rank in the settings': (settings('adapter_config.json', r=3), ['say rank 3', 'strength']),
    'not finite': (weights(lambda k, v: v*float('nan')), 'finite'),
    'zero': (weights(lambda k, v: v*0 if 'lora_B' in k else v), 'every lora_B is zero'),
    'nothing to teach': (faint, 'teaches nothing'),
    'exchanged': (weights(lambda k, v: v*2), 'the hashes differ'),
    'another base': (settings('manifest.json', base='0123456789abcdef'), '0123456789abcdef'),
    'manifest of a later version': (settings('manifest.json', format=99), ['manifest.json', '99']),
    'guidance in words': (settings('manifest.json', guidance='high'), ['manifest.json', 'guidance', "'high'"]),
    'hash of another kind': (settings('manifest.json', sha256=[]), ['manifest.json', 'sha256']),
    'broken manifest': (lambda f: (f/'manifest.json').write_text('{"kind": '), 'manifest.json'),
    'broken settings': (lambda f: (f/'adapter_config.json').write_text('{'), 'adapter_config.json'),
}

@pytest.fixture(scope='session')
def embedded(opd, tmp_path_factory):
    "The folder of the text specialist inside the package."
    return Path(opd.python(tmp_path_factory.mktemp('asset'), 'from diffusionopd.backbones import asset; print(asset("teachers", "text"))'))

@pytest.mark.parametrize('kind', BROKEN)
def test_broken_teacher(kind, embedded, refuses, tmp_path):
    damage, words = BROKEN[kind]
    shutil.copytree(embedded, tmp_path/'mine')
    damage(tmp_path/'mine')
    refuses('distill', write(tmp_path, edit(SMALL, tasks__text__teacher='mine')), '-q', words=['mine', *([words] if isinstance(words, str) else words)])

def test_broken_base(opd, embedded, refuses, tmp_path):
    shutil.copytree(embedded.parents[1]/'base', tmp_path/'base')
    file = tmp_path/'base'/'transformer'/'diffusion_pytorch_model.safetensors'
    file.write_bytes(file.read_bytes()[:-1000])
    refuses('sample', 'write 47 red', '--model', 'base', words='base')
    (tmp_path/'base'/'model_index.json').write_text('{')
    refuses('sample', 'write 47 red', '--model', 'base', words='model_index.json')

# Folders

def test_folder_in_use(refuses, tmp_path):
    write(tmp_path, SMALL)
    (tmp_path/'run').mkdir(); (tmp_path/'run'/'log.jsonl').write_text('{"update": 1}\n')
    refuses('distill', 'recipe.yaml', '-q', words=['run', '--resume', '--out'])

def test_demo_in_use(refuses, tmp_path):
    (tmp_path/'run').mkdir(); (tmp_path/'run'/'recipe.json').write_text('{}')
    refuses('demo', '--out', 'run', '-q', words=['run', '--out'])

def test_teacher_in_use(refuses, tmp_path):
    "An earlier specialist is noticed before the work, not after it."
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'log.jsonl').write_text('{"update": 1}\n')
    write(tmp_path, dict(task='text', prompts='embedded:text', iterations=1, prompts_per_iteration=1, images_per_prompt=2, steps=2), 't.yaml')
    refuses('teach', 't.yaml', '-q', '--out', 'mine', words=['mine', '--out'])

@pytest.mark.parametrize('args', [('distill', 'recipe.yaml', '-q'), ('demo', '-q'), ('pretrain', '-q')], ids=lambda a: a[0])
def test_folder_below_a_file(args, refuses, tmp_path):
    write(tmp_path, SMALL)
    (tmp_path/'file').write_text('in the way')
    refuses(*args, '--out', 'file/run', words=['cannot write', 'file/run'])

@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_folder_without_permission(refuses, tmp_path):
    write(tmp_path, SMALL)
    (tmp_path/'closed').mkdir(mode=0o500)
    refuses('distill', 'recipe.yaml', '-q', '--out', 'closed/run', words=['cannot write', 'closed'])

# The other commands

@pytest.mark.parametrize('args, words', [
    (('sample', 'paint 47 red'), ["'paint'"]),
    (('sample', 'write 47 rad'), ["'rad'", 'choose one of', 'red']),
    (('sample', ' '), 'empty prompt'),
    (('sample', 'write 47 red', '--out', 'a.jpg'), ['.png', "'a.jpg'"]),
    (('sample', 'write 47 red', '-a', 'nowhere'), "'nowhere'"),
    (('sample', 'write 47 red', '-a', 'embedded:txt'), ["'txt'", "'text'"]),
    (('sample', 'write 47 red', '--model', 'nowhere'), "'nowhere'"),
    (('sample', 'write 47 red', '--steps', '2', '-n', '1', '--out', 'file/a.png'), ['cannot write', 'file/a.png']),
    (('sample', 'write 47 red', '--guidance', 'inf'), ['guidance', 'inf']),
    (('sample', 'write 47 red', '--plugin', 'nowhere.py'), ['plugins', "'nowhere.py'"]),
    (('evaluate', '-t', 'embedded:txt'), ["'txt'", "'text'"]),
    (('evaluate', '-t', 'txt'), ["'txt'", "'text'"]),
    (('evaluate', '-t', 'text', '--reward', 'embeded'), ["'embeded'", "'embedded'"]),
    (('evaluate', '-t', 'text', '--guidance', 'inf', '-q'), ['guidance', 'inf']),
    (('evaluate', '--wording', 'usul'), ["'usul'", "'usual'"]),
    (('evaluate', '-a', 'nowhere'), "'nowhere'"),
    (('evaluate', '-t', 'text', '-n', '2', '--steps', '1', '-q', '--out', 'file/s.json'), ['cannot write', 'file/s.json']),
    (('evaluate', '--guidance', 'nan'), ['--guidance', 'nan']),
    (('init', 'distil'), ["'distil'", "'distill'"]),
    (('init', 'distill', 'file/r.yaml'), ['cannot write', 'file/r.yaml']),
    (('init', 'distill', 'nowhere/r.yaml'), ['cannot write', 'nowhere/r.yaml']),
], ids=lambda v: ' '.join(v) if isinstance(v, tuple) else '')
def test_command(args, words, refuses, tmp_path):
    (tmp_path/'file').write_text('in the way')
    refuses(*args, words=words)

@pytest.mark.parametrize('args', [('distil', 'r.yaml'), ('distill',), ('distill', 'r.yaml', '--updates', '0'), ('sample',), ('evaluate', '-n', '1'), ('demo', '--sed', '1'),
                                  ('sample', 'write 47 red', '--seed', '99999999999999999999')], ids=' '.join)
def test_wrong_usage(args, opd, tmp_path):
    "A command line that cannot be understood: exit code 2, and where to read on."
    ended = opd.run(tmp_path, *args)
    assert ended.code == 2 and 'Traceback' not in ended.stderr and '--help' in ended.stderr and not list(tmp_path.iterdir())
