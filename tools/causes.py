"""Outputs that may differ from the stored ones, cell by cell: which part of them, and why. Whatever else differs is a fault.

`run_nbs.py` compares what is left of both when that part is taken away; `measure_book.py` tells of the cause.
"""
import re

PICTURE = r'image/svg\+xml(?s:.*?)</svg>\s*(?:text/plain<Figure[^>]*>)?'            # as `run_nbs.shown` writes one
ENGINES = r'^(?:tesseract|ppocr|\w+ and (?:tesseract|ppocr))\b.*\n?'         # lines of the readers that a machine may lack or have in another version
SKIPPED = r'Cells are skipped, since .*\n?'
SMALL = r'\b\d(?:\.\d+)?e-(?:0[6-9]|1\d)\b'                                      # errors below 1e-5; larger ones, and those that are 0, must be as they were

RAPIDOCR, JUDGES = 'what the engine of [ocr] reads, where it is installed', 'what the engines of [judge] and [ocr] read, where these are installed'
ROUNDING = 'errors of rounding, of which there are other ones in every run'

CAUSES = {  # notebook -> cell -> (what is taken away, why)
    '12_readers.ipynb': {c: (SKIPPED, 'a word about [judge] or [ocr], where it is not installed') for c in ('46c48495', '4dbaafdc', '4384e92b', '0e1727e9', '5e67ae4e')}
                      | {c: (ENGINES, JUDGES) for c in ('468413cf', '90a8ea39', '9bc95a9d')} | {c: (f'{PICTURE}|{ENGINES}', JUDGES) for c in ('05d8dc0d', '7560a137')}
                      | {c: (PICTURE, JUDGES) for c in ('810f4050', 'e02f6cda')} | {'3dbc68ff': (r', (?:tesseract|ppocr) \d\.\d\d', JUDGES), 'bb946b3b': (PICTURE, RAPIDOCR)},
    '12c_lettering.ipynb': {c: (SKIPPED, 'a word about [ocr], where it is not installed') for c in ('33f18b74', 'eca1a691')} | {'4144ea05': (PICTURE, RAPIDOCR)},
    '12e_simple_rewards.ipynb': {'007aca96': (SKIPPED, 'a word about [ocr], where it is not installed')},
    '15b_conformance.ipynb': {c: (SMALL, ROUNDING) for c in ('6db68e87', 'f07a5d76', 'c4b567a9', 'b8270249', 'e74c9c33')},
    '16_prompts.ipynb': {'8d0d384e': (SKIPPED, 'a word about [datasets], where it is not installed')},
    '20b_guards.ipynb': {'37d8b95e': (PICTURE, 'a figure of times')},
    '20c_parallel.ipynb': {'c40c2d43': (SMALL, ROUNDING)},
    '20d_zero.ipynb': {'59fc5b43': (r'DeepSpeed is not installed here: .*\n?', 'a word about DeepSpeed, where it is not installed')},
    '24b_survey.ipynb': {'040d027f': (SMALL, ROUNDING)},
    '26_explore.ipynb': {'0bcf9116': (PICTURE, 'seconds of a run')},
}

def cause(notebook, cell):
    "Why an output may differ; empty where it may not."
    return CAUSES.get(notebook, {}).get(cell, ('', ''))[1]

def rest(notebook, cell, text):
    "What of an output may not differ."
    part = CAUSES.get(notebook, {}).get(cell, ('', ''))[0]
    return re.sub(part, '', text, flags=re.M) if part else text
