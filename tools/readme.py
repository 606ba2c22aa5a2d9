"""Write README.md from nbs/index.ipynb and the outputs it holds; its pictures go to index_files/.

    python tools/readme.py            write
    python tools/readme.py --check    write nothing; exit with 1 if that would change anything
"""
import base64, re, sys
from pathlib import Path

from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives

link = re.compile(r'\]\((?!https?:|mailto:|#|/|<)([^)]+)\)')
indent = lambda text: ''.join('    '+l for l in text.splitlines(True))

def picture(data):
    "The suffix and bytes of the picture in the output `data`, if it holds one."
    if 'image/svg+xml' in data: return '.svg', ''.join(data['image/svg+xml']).encode()
    if 'image/png' in data: return '.png', base64.b64decode(''.join(data['image/png']))

def output(o, name, alt, files):
    "Markdown of the output `o`; a picture is added to `files` under `name`."
    data = o.get('data', {})
    if pic := picture(data):
        files[name+pic[0]] = pic[1]
        return f'![{alt}]({name}{pic[0]})'
    if 'text/markdown' in data: return link.sub(r'](nbs/\1)', ''.join(data['text/markdown']))
    return indent(''.join(o.get('text') or data.get('text/plain', ''))).rstrip()

def cell_md(c, i, files):
    "Markdown of cell number `i`; none for what is hidden."
    if c.cell_type != 'code': return link.sub(r'](nbs/\1)', c.source)
    d = {k.rstrip(':'): ' '.join(v).strip('"') for k, v in extract_directives(c, remove=False).items()}
    if 'hide' in d or d.get('include') == 'false': return ''
    source = '\n'.join(l for l in c.source.splitlines() if not l.startswith('#|')).strip()
    res = [] if d.get('echo') == 'false' or d.get('code-fold') == 'true' else [f'```python\n{source}\n```']
    name = 'index_files/' + d.get('label', f'cell-{i}')
    outs = [output(o, f'{name}-{j}' if j else name, d.get('fig-alt', ''), files) for j, o in enumerate(c.outputs)]
    caption = f"*{d['fig-cap']}*" if 'fig-cap' in d else ''
    return '\n\n'.join(filter(None, [*res, *outs, caption]))

def readme(root):
    "The text of README.md and the pictures beside it, `{path: bytes}`, as the index notebook in `root` has them."
    files, cells = {}, read_nb(root/'nbs'/'index.ipynb').cells
    text = '\n\n'.join(filter(None, (cell_md(c, i, files).strip() for i, c in enumerate(cells))))
    return {'README.md': (text+'\n').encode(), **files}

def stale(root, files):
    "What in `root` differs from `files`: the paths to write, and those to remove."
    differ = [p for p, b in files.items() if not (root/p).exists() or (root/p).read_bytes() != b]
    extra = [p for f in sorted((root/'index_files').glob('*')) if (p := f.relative_to(root).as_posix()) not in files]
    return differ, extra

def main(root, check):
    if not (root/'nbs'/'index.ipynb').exists(): return print('there is no nbs/index.ipynb yet: README.md is left alone')
    files = readme(root)
    write, remove = stale(root, files)
    if check:
        for p in write+remove: print(f'{p} is not what nbs/index.ipynb makes')
        return bool(write or remove)
    for p in remove: (root/p).unlink()
    for p in write:
        (root/p).parent.mkdir(exist_ok=True)
        (root/p).write_bytes(files[p])
        print('wrote', p)

if __name__ == '__main__': sys.exit(main(get_config().config_path, '--check' in sys.argv))
