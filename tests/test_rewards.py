"Rewards by a model's name and prompts in tables, from the command line: what they score, and what is refused before anything is painted."
import json

import pytest, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from installed import SMALL, edit, lines, write

def tokenizer():
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate('<pad> <start> <end> <unk> write draw pretty red blue green 4 7 1'.split())}, unk_token='<unk>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing(single='<start> $A <end>', special_tokens=[('<start>', 1), ('<end>', 2)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='<pad>', bos_token='<start>', eos_token='<end>', unk_token='<unk>', model_max_length=16)

@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    "A random CLIP on disk, with a head for aesthetics."
    folder, small = tmp_path_factory.mktemp('clip'), dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    net = CLIPModel(CLIPConfig(text_config=dict(small, vocab_size=13, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2),
                               vision_config=dict(small, image_size=32, patch_size=8), projection_dim=12))
    net.save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)), tokenizer()).save_pretrained(folder)
    save_file(dict(weight=torch.ones(1, 12), bias=torch.zeros(1)), folder/'head.safetensors')
    return folder

TABLE = 'prompt,negative_prompt,tag\n'+''.join(f'write {i} red,{"write 11 blue" if i%2 else ""},odd\n' for i in range(10, 40))

def test_by_name(clip, opd, tmp_path):
    "The same pictures under three rewards of one folder."
    (tmp_path/'p.csv').write_text(TABLE)
    def score(prompts, reward, *more):
        opd.run(tmp_path, 'evaluate', '-t', prompts, '--reward', reward, '-n', 4, '--steps', 2, '--out', 's.json', '-q', *more).ok()
        return json.loads((tmp_path/'s.json').read_text())[0]['score']
    pick, hps, taste = (score('p.csv', f'{k}:{clip}') for k in ('pickscore', 'hpsv2', 'aesthetics'))
    assert abs(pick/hps-14.2857) < .1 and taste != hps                                                 # CLIP is born with this temperature
    assert score('p.csv', f'hpsv2:{clip},batch=1') == pytest.approx(hps, abs=1e-4)

def test_in_recipes(clip, opd, tmp_path):
    "A student is watched by a weighed sum, on prompts of a table."
    (tmp_path/'p.jsonl').write_text(''.join(json.dumps(dict(prompt=f'write {i} red', tag='x'))+'\n' for i in range(10, 40)))
    reward = {f'pickscore:{clip}': dict(weight=1., std=10.), 'embedded': .5}
    write(tmp_path, edit(SMALL, tasks__text__reward=reward, tasks__text__prompts='p.jsonl', evaluation=dict(every=0, n=2, final=2, steps=2)))
    opd.run(tmp_path, 'distill', 'recipe.yaml', '-q').ok()
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['tasks']['text']['reward'] == reward
    assert [s for s in lines(tmp_path/'run'/'scores.jsonl') if s['task'] == 'text']

@pytest.mark.parametrize('reward, words', [
    ('pickscore:nowhere', "there is no folder 'nowhere'"), ('pikscore:x', "did you mean 'pickscore'?"), ('pickscore', 'needs a model'), ('imagereward:CLIP', 'wants a model of type blip'),
    ('geneval:CLIP', 'wants a model of type owlvit'), ('aesthetics:CLIP,head=none.safetensors', 'there is no head'), ('pickscore:PICKLES', 'is a pickle'),
    ({'embedded': 1, 'pickscore:nowhere': 1}, 'there is no folder'), ({'embedded': {'wait': 1}}, 'is a number, or some of weight'), ('ocr', '')])
def test_refused_first(reward, words, clip, opd, tmp_path):
    "In one sentence that names the field, before a folder is made. (OCR is refused for prompts without quotes, or for want of its extra.)"
    (tmp_path/'PICKLES').mkdir()
    for f, content in (('config.json', b'{"model_type": "clip"}'), ('pytorch_model.bin', b'')): (tmp_path/'PICKLES'/f).write_bytes(content)
    (tmp_path/'p.txt').write_text('write 10 red\nwrite 11 red\n')
    if isinstance(reward, str): reward = reward.replace('CLIP', str(clip))
    write(tmp_path, edit(SMALL, tasks__text__reward=reward, tasks__text__prompts='p.txt'))
    ended = opd.run(tmp_path, 'distill', 'recipe.yaml', '-q')
    assert ended.code == 2 and words in ended.stderr and 'tasks.text' in ended.stderr and 'Traceback' not in ended.stderr and not (tmp_path/'run').exists(), ended.stderr

@pytest.mark.parametrize('name, content, words', [
    ('p.jsonl', '{"promt": "write 10 red"}\n', "did you mean 'promt'?"), ('p.jsonl', '{"prompt": "write 10 red"}\n{"prompt"', 'line 2 of'), ('p.csv', 'prompt,tag\nwrite 10 red\n', 'line 2 of'),
    ('p.csv', 'prompt,negative_prompt\nwrite 10 red,ugly\n', "does not know the word 'ugly'"), ('p.csv,column=caption', 'prompt\nwrite 10 red\n', "has no 'caption'")])
def test_tables(name, content, words, opd, tmp_path):
    (tmp_path/name.split(',')[0]).write_text(content)
    write(tmp_path, edit(SMALL, tasks__text__prompts=name))
    ended = opd.run(tmp_path, 'distill', 'recipe.yaml', '-q')
    assert ended.code == 2 and words in ended.stderr and 'tasks.text.prompts' in ended.stderr and 'Traceback' not in ended.stderr, ended.stderr
