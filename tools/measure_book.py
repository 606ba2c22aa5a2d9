"""Measure the documentation: build time, pages, links, console errors, notebooks run, and stored outputs beside a fresh run.

    python tools/measure_book.py [--json diffusionopd/assets/book.json] [--only PART ...]

It builds the site, reads it, opens every page in Chromium where selenium and Chromium are installed, and runs every notebook in a process of
its own, with the outputs that it stores compared. With --only (`site`, `notebooks`, or names of notebooks) the rest of the file is kept. An
output may differ only in the part and for the cause that causes.py names; whatever else differs is a fault, and so is what is new.
"""
import argparse, json, os, platform, resource, subprocess, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # seconds are those of one core

from nbdev.config import get_config
from nbdev.doclinks import nbglob

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent/'tests')]
import check_docs
from causes import cause

def site():
    "Seconds of one core that the build takes, and what `check_docs` reads."
    spent = lambda: (lambda u: u.ru_utime+u.ru_stime)(resource.getrusage(resource.RUSAGE_CHILDREN))
    start = spent()
    subprocess.run([sys.executable, 'tools/docs.py', '--unchecked'], check=True, capture_output=True)
    took, cfg = spent()-start, get_config()
    pages = check_docs.pages(cfg.doc_path)
    problems = [*check_docs.problems(pages, cfg.doc_path, cfg.nbs_path)]
    weights = [check_docs.weight(p)[0] for p in pages.values()]
    count = lambda name: sum(len(getattr(p, name)) for p in pages.values())
    return dict(seconds=took, pages=len(pages), links=count('links'), leaving=len(check_docs.leaving(pages, cfg.doc_path)), broken=sum(1 for _ in check_docs.broken(pages, cfg.doc_path)), formulas=count('math'), figures=count('alts'),
                problems=len(problems), heaviest=max(weights), median=sorted(weights)[len(weights)//2])

def browser():
    "Words in the console, formulas and pictures, page by page in Chromium; None where there is none."
    try: import test_browser as tb
    except BaseException as e: return print('no browser:', e, file=sys.stderr)   # pytest skips by raising
    if not (tb.chromium and tb.chromedriver): return None
    docs, options = get_config().doc_path, tb.webdriver.ChromeOptions()
    options.binary_location = tb.chromium
    for a in (*tb.ALONE, '--window-size=1280,900'): options.add_argument(a)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(tb.Quiet, directory=str(docs)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    driver = tb.webdriver.Chrome(options=options, service=tb.webdriver.ChromeService(tb.chromedriver))
    seen = dict(pages=0, errors=0, formulas=0, typeset=0, blank=0, wide=0, version=driver.capabilities['browserVersion'].split('.')[0])
    for f in sorted(docs.rglob('*.html')):
        driver.get(f'http://127.0.0.1:{server.server_port}/{f.relative_to(docs).as_posix()}')
        page = driver.execute_async_script(tb.seen)
        seen['pages'] += 1; seen['errors'] += len(tb.errors(driver)); seen['formulas'] += page['formulas']; seen['typeset'] += page['set']
        seen['blank'] += len(page['blank']); seen['wide'] += page['wide'] > 0
    driver.quit(); server.shutdown()
    return seen

def notebooks(names):
    "Notebooks, run: seconds of one core, failures, and their outputs beside those they store."
    for nb in names:
        run = subprocess.run([sys.executable, 'tools/run_nbs.py', '--check', '--json', str(nb)], capture_output=True, text=True)
        got = json.loads(run.stdout.splitlines()[-1])
        name, outputs = got['notebook'], got['outputs']
        same = sum(v == 'same' for v in outputs.values())
        yield dict(notebook=name, seconds=round(got['seconds'], 1), failed=bool(got['failed']), outputs=len(outputs), same=same,
                   caused={c: cause(Path(name).name, c) for c, v in outputs.items() if v == 'caused'}, faults={c: v for c, v in outputs.items() if v not in ('same', 'caused')})
        print(name, f"{got['seconds']:.0f} s", f'{same} of {len(outputs)}', got['failed'] or '', file=sys.stderr, flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--json', type=Path, help='where to write; nowhere without it')
    p.add_argument('--only', nargs='+', default=['site', 'notebooks'], help='`site`, `notebooks`, or names of notebooks')
    a = p.parse_args()
    made = json.loads(a.json.read_text()) if a.json and a.json.is_file() else {}
    every = sorted(nbglob(get_config().nbs_path))
    made['there'] = len(every)
    made['hardware'] = f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}'
    if 'site' in a.only: made |= dict(site=site(), browser=browser())
    wanted = [n for n in every if 'notebooks' in a.only or Path(n).name in a.only]
    kept = {n['notebook']: n for n in made.get('notebooks', []) if (get_config().nbs_path/n['notebook']).is_file()}
    for n in notebooks(wanted):
        kept[n['notebook']] = n
        made['notebooks'] = [kept[k] for k in sorted(kept)]
        if a.json: a.json.write_text(json.dumps(made, indent=1, ensure_ascii=False)+'\n')   # what is measured is not lost
    text = json.dumps(made, indent=1, ensure_ascii=False)+'\n'
    if a.json: a.json.write_text(text)
    else: print(text)
    bad = [n['notebook'] for n in made.get('notebooks', []) if n['failed'] or n['faults']]
    if bad: sys.exit(f'failed, or with outputs that differ without a cause: {", ".join(bad)}')

if __name__ == '__main__': main()
