"""Whatever a file holds, it is understood or refused in one sentence. `NIGHTLY=1 pytest tests/test_fuzz.py` tries thousands of files, CI a few of each kind.

With `FUZZ_JSON=FILE` the cases are counted in a file."""
import copy, json, math, os, re, shutil, struct
from collections import Counter
from pathlib import Path

import pytest, torch, yaml
from hypothesis import HealthCheck, example, given, settings, strategies as st

from diffusionopd.adapters import adapter_names, grid_note, load_adapter, read_manifest, remove
from diffusionopd.backbones import asset, load_backbone
from diffusionopd.checkpoints import Damaged, verified
from diffusionopd.errors import Refusal
from diffusionopd.prompts import prompt_source
from diffusionopd.recipes import KINDS, commented, load_recipe
from diffusionopd.report import elapsed, read_log, rewind
from installed import SMALL, edit, write

NIGHTLY = bool(os.environ.get('NIGHTLY'))

def fuzz(few, many):
    "That many cases: always the same few, or many new ones."
    return settings(max_examples=many if NIGHTLY else few, derandomize=not NIGHTLY, deadline=None, database=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

SEEN = {}

def seen(kind, good): SEEN.setdefault(kind, Counter())['understood' if good else 'refused'] += 1

@pytest.fixture(scope='module', autouse=True)
def counted():
    yield
    if os.environ.get('FUZZ_JSON'): Path(os.environ['FUZZ_JSON']).write_text(json.dumps(SEEN, indent=1)+'\n')

def sentences(said):
    "Is a message one sentence, or the number of problems and a line for each?"
    head, *lines = said.split('\n')
    listed = not lines or re.search(r'(\d+) problems$', head) and int(re.search(r'(\d+) problems$', head)[1]) == len(lines) and all(l.startswith('- ') for l in lines)
    return bool(head.strip() and listed and max(map(len, (head, *lines))) < 2000)

def attempt(kind, f, *args):
    "The answer, or None where it is refused in one sentence."
    try: answer = f(*args)
    except Refusal as e:
        assert sentences(str(e)), str(e)
        return seen(kind, False)
    seen(kind, True)
    return answer

# Values that a file could hold, and places to put them

scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([.5, -1., math.nan, math.inf, 10**30, '', ' ', 'text', '../../etc', '/', '~', '\x00', 'é', '1e5', 'a\nb']),
                    st.text(max_size=8))
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)), max_leaves=6)

def places(tree, path=()):
    "Every path of a tree of dictionaries and lists."
    yield path
    for k, v in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else (): yield from places(v, (*path, k))

@st.composite
def mutated(draw, tree, values=values):
    "The tree with one to three places replaced, removed, renamed or added to."
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([p for p in places(tree) if p] or [('new',)]))
        at = tree
        for k in above: at = at[k]
        how = draw(st.sampled_from(['replace', 'replace', 'remove', 'rename', 'add']))
        if how == 'replace': at[last] = copy.deepcopy(draw(values))
        elif how == 'remove': del at[last]
        elif isinstance(at, dict): at[draw(st.text(max_size=6))] = at.pop(last, None) if how == 'rename' else copy.deepcopy(draw(values))
    return tree

SNIPPETS = ['tasks:', ' {', '}', '[', ']', '- ', '&a ', '*a', '<<: *a', '!!python/object/apply:os.system [ls]', '!!binary "a"', '"', "'", '\t', '\n', '  ', '? ', ': ', '#', '---', '...', '%YAML 9.9',
            'updates: 1', 'batch', '2026-02-30', '1:60', '0x', '.inf', '=', '|', '>', '\x00', '\ufeff', '9'*5000]
texts = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(SNIPPETS), max_size=12).map(lambda s: ''.join(s).encode()))

full = yaml.safe_load((Path(__file__).parent.parent/'recipes'/'three-teachers.yaml').read_text(encoding='utf-8'))

def no_plugins(tree): return {k: v for k, v in tree.items() if k != 'plugins'} if isinstance(tree, dict) else tree

@fuzz(60, 800)
@given(kind=st.sampled_from(sorted(KINDS)), content=st.one_of(texts, mutated(full).map(no_plugins).map(lambda t: yaml.safe_dump(t, allow_unicode=True).encode())))
def test_recipes(kind, content, tmp_path):
    "What is understood can be written with its comments and read again as the same."
    (tmp_path/'r.yaml').write_bytes(content)
    r = attempt('recipes', load_recipe, kind, tmp_path/'r.yaml')
    if r is None: return
    (tmp_path/'again.yaml').write_text(commented(r), encoding='utf-8')
    assert load_recipe(kind, tmp_path/'again.yaml') == r

@fuzz(30, 300)
@given(content=st.one_of(st.binary(max_size=80), st.text(max_size=60).map(lambda s: s.encode('utf-8', 'surrogatepass')), texts))
def test_prompt_files(content, tmp_path):
    "Every prompt that comes out of a file is a line of it."
    (tmp_path/'p.txt').write_bytes(content)
    source = attempt('prompt files', prompt_source, str(tmp_path/'p.txt'))
    if source is None: return
    for split in 'train', 'test':
        for i in range(4): assert source(i, 0, split).strip() and source(i, 0, split) in source.lines

MANIFEST = json.loads((asset('teachers', 'text')/'manifest.json').read_text())

def as_json(tree): return json.dumps(tree).encode()

@fuzz(40, 400)
@given(content=st.one_of(texts, mutated(MANIFEST).map(as_json), values.map(as_json)))
def test_manifests(content, tmp_path):
    (tmp_path/'manifest.json').write_bytes(content)
    m = attempt('manifests', read_manifest, tmp_path)
    if m is not None: assert isinstance(grid_note(m, [1., .6, .3, 0.]), str)

@fuzz(30, 200)
@given(records=st.lists(st.one_of(texts, mutated(dict(update=3, elapsed=1., loss=.5)).map(as_json)), max_size=4), last=st.integers(0, 5))
def test_logs(records, last, tmp_path):
    "A log that is read can be cut back and read again."
    (tmp_path/'log.jsonl').write_bytes(b'\n'.join(records))
    if attempt('logs', read_log, tmp_path/'log.jsonl') is None: return
    elapsed(tmp_path)
    rewind(tmp_path/'log.jsonl', last)
    assert all(r['update'] <= last for r in read_log(tmp_path/'log.jsonl'))

@fuzz(30, 200)
@given(content=st.one_of(texts, values.map(as_json), mutated(dict(update=3, sha256='0'*64, seal='0'*64)).map(as_json)))
def test_notes_of_checkpoints(content, tmp_path):
    (tmp_path/'state.json').write_bytes(content)
    (tmp_path/'state.safetensors').touch()
    with pytest.raises(Damaged): verified(tmp_path)
    seen('notes of checkpoints', False)

# Weights: a good adapter whose file, header or settings are changed

GOOD = (asset('teachers', 'text')/'adapter_model.safetensors').read_bytes()
SIZE = struct.unpack('<Q', GOOD[:8])[0]
HEADER = json.loads(GOOD[8:8+SIZE])
CONFIG = json.loads((asset('teachers', 'text')/'adapter_config.json').read_text())
some = {k: HEADER[k] for k in list(HEADER)[:3]}
shapes = st.one_of(values, st.sampled_from(['F64', 'I8', 'F8_E4M3', 'BOOL', 10**9, 2**63, -1, [10**9, 0], [0, 10**9], [2**62, 4], [0, 8], [8, 0], [0, 2**64]]))

def packed(header, size=None):
    text = header if isinstance(header, bytes) else as_json(header)
    return struct.pack('<Q', len(text) if size is None else size)+text+GOOD[8+SIZE:]

@st.composite
def weights(draw):
    "The bytes of a weights file."
    how = draw(st.sampled_from(['header', 'header', 'size', 'bytes', 'cut', 'random']))
    if how == 'header': return packed(HEADER | draw(mutated(some, shapes)))
    if how == 'size': return packed(HEADER, draw(st.sampled_from([0, 1, SIZE-1, SIZE+1, 2**31, 2**63, 2**64-1])))
    if how == 'bytes':
        b = bytearray(GOOD)
        for _ in range(draw(st.integers(1, 4))): b[draw(st.integers(0, 8+SIZE))] = draw(st.integers(0, 255))
        return bytes(b)
    if how == 'cut': return GOOD[:draw(st.integers(0, len(GOOD)-1))]
    return draw(st.binary(max_size=64))

@pytest.fixture(scope='module')
def bb(): return load_backbone('embedded')

@fuzz(30, 500)
@example(content=packed(HEADER | {'two\nlines': dict(dtype='F32', shape=[2], data_offsets=[0, 3])}), config=CONFIG)
@given(content=st.one_of(weights(), st.just(GOOD)), config=st.one_of(st.just(CONFIG), mutated(CONFIG), values))
def test_weights(content, config, bb, tmp_path):
    "The network is as it was where an adapter is refused."
    (tmp_path/'adapter_model.safetensors').write_bytes(content)
    (tmp_path/'adapter_config.json').write_bytes(as_json(config))
    if attempt('weights and their settings', load_adapter, bb, 'x', tmp_path) is not None: remove(bb.net, 'x')
    assert adapter_names(bb.net) == []

# The whole command

@fuzz(6, 120)
@given(recipe=mutated(edit(SMALL, updates=1, batch=1, rollout__steps=1, trackers=[]), st.one_of(st.none(), st.booleans(), st.integers(-1, 2), st.sampled_from([.5, math.nan, '', 'text', '../x', [], {}]))).map(no_plugins))
def test_commands(recipe, opd, tmp_path_factory):
    "A run, or exit code 2, one sentence or a line for each problem, and nothing left behind."
    folder = tmp_path_factory.mktemp('fuzz')
    write(folder, recipe)
    ended = opd.run(folder, 'distill', 'recipe.yaml', '-q', '--updates', 1, '--out', 'run')
    said = ended.stderr.strip()
    assert 'Traceback' not in said and ended.code in (0, 2), said
    if ended.code: assert said.startswith('Error: ') and sentences(said) and sorted(p.name for p in folder.iterdir()) == ['recipe.yaml'], said
    else: assert (folder/'run'/'student').is_dir()
    seen('whole commands', not ended.code)
    shutil.rmtree(folder)
