"""The site in a real browser: Chromium without a window, driven by selenium. Skipped where either is missing, unless REQUIRE names `browser` (needs.py).

    SCREENSHOTS=folder pytest tests/test_browser.py    keeps pictures of what was seen
"""
import importlib.util, io, json, os, re, shutil, socket, subprocess, sys, threading, time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np, pytest, yaml
from PIL import Image

from needs import need

chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
chromedriver = shutil.which('chromedriver')
need('browser', importlib.util.find_spec('selenium'), 'selenium is not installed')
need('browser', chromium and chromedriver, 'chromium and chromedriver are not installed')

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

sys.path.insert(0, 'tools')
import check_docs

ALONE = ('--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update '
         '--disable-sync --disable-dev-shm-usage').split()

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address(site):
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for a in (*ALONE, f'--user-data-dir={tmp_path_factory.mktemp("browser")}', '--window-size=1280,900'): options.add_argument(a)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()

def picture(browser, name):
    "Keep what is seen, if somebody asked for it."
    if folder := os.environ.get('SCREENSHOTS'):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder)/f'{name}.png'))

def errors(browser): return [e['message'] for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]

def wait(browser, what, seconds=20):
    "Until something is there; a page may draw anew what was just looked at."
    return WebDriverWait(browser, seconds, ignored_exceptions=[StaleElementReferenceException]).until(what)

seen = '''
const done = arguments[0], $ = s => [...document.querySelectorAll(s)];
const count = () => ({formulas: $(".math").length, set: $(".math .katex").length, odd: $(".katex-error").map(e => e.title)});
const pictures = $("main img");
pictures.forEach(i => i.loading = "eager");
Promise.all([document.fonts.ready, ...pictures.map(i => i.decode().catch(e => e))]).then(() => done({...count(),
    blank: pictures.filter(i => !i.naturalWidth).map(i => i.src), small: Math.min(99, ...$("main td, main th").map(e => parseFloat(getComputedStyle(e).fontSize))), wide: document.documentElement.scrollWidth - innerWidth,
    scroll: ["main .sd-table", "main .quarto-figure, main .quarto-figure *, main .cell-output:has(img)", "main pre.sourceCode"].map(s => $(s).filter(e => e.scrollWidth > e.clientWidth + 1 &&
        /auto|scroll/.test(getComputedStyle(e).overflowX)).length),
    over: $("main pre").filter(e => e.scrollWidth > e.clientWidth + 1).map(e => `${e.scrollWidth - e.clientWidth} pixels: ${e.textContent.trim().slice(0, 60)}`),
    fetched: performance.getEntriesByType("resource").map(e => e.name)}));
'''

FORMULAS = 1000 # that the pages have at least, all together: as many as are set may be all of none

def test_pages(browser, address, site):
    "Every page loads without a word in the console; formulas are set, pictures are there, tables are legible, no block of code or output is cut off, and it is light with its fonts."
    found, heaviest, formulas = [], 0, 0
    for file in sorted(site.rglob('*.html')):
        path = file.relative_to(site).as_posix()
        browser.get(f'{address}/{path}')
        page = browser.execute_async_script(seen)
        found += [f'{path}: {e}' for e in errors(browser)]
        if page['formulas'] != page['set'] or page['odd']: found.append(f'{path}: {page["set"]} of {page["formulas"]} formulas are set {page["odd"]}')
        formulas += page['set']
        if page['small'] < 12.4: found.append(f'{path}: letters of {page["small"]:.1f} pixels in a table')
        if page['blank']: found.append(f'{path}: {page["blank"]} do not show')
        if any(page['scroll'][:2]): found.append(f'{path}: {page["scroll"][0]} tables and {page["scroll"][1]} figures scroll')
        if page['wide'] > 0: found.append(f'{path}: {page["wide"]} pixels too wide')
        found += [f'{path}: a block is wider than its box by {what}' for what in page['over']]
        away = [u for u in page['fetched'] if not u.startswith(address)]
        if away and (site/'site_libs'/'katex').is_dir(): found.append(f'{path}: fetches {away}')
        files = [site/u.removeprefix(address+'/') for u in page['fetched'] if u.startswith(address)]
        heaviest = max(heaviest, weight := sum(check_docs.size(f)[0] for f in [file, *files] if f.is_file()))
        if weight > check_docs.HEAVIEST: found.append(f'{path}: {weight/1e6:.2f} MB')
    if formulas < FORMULAS: found.append(f'the site has {formulas} formulas, where {FORMULAS} are the least')
    print(f'heaviest page: {heaviest/1e6:.2f} MB')
    if found: pytest.fail('\n'.join(found), pytrace=False)

def test_search_by_keyboard(browser, address):
    "A slash leads to the search, a word finds its page, arrows and Enter open it at the section that holds the word."
    browser.get(f'{address}/index.html')
    browser.find_element(By.TAG_NAME, 'body').send_keys('/')
    box = wait(browser, lambda b: b.switch_to.active_element)
    assert box.tag_name == 'input'
    box.send_keys('Girsanov')
    results = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, '.search-result'))
    picture(browser, 'search')
    hrefs = [r.get_attribute('href') for r in results]
    at = next(i for i, h in enumerate(hrefs) if '/divergence.html#' in h)
    box.send_keys(*[Keys.ARROW_DOWN]*(at+1), Keys.ENTER)
    wait(browser, lambda b: b.current_url == hrefs[at])
    there = """const e = document.getElementById(decodeURIComponent(location.hash.slice(1))), box = e.getBoundingClientRect();
        return [box.top >= document.querySelector("#quarto-header").offsetHeight && box.top < innerHeight, (e.closest("section") || e).textContent]"""
    seen, text = wait(browser, lambda b: (lambda got: got if got[0] else None)(b.execute_script(there)))
    assert seen and 'Girsanov' in text

def look(browser): return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert('RGB')).astype(int)

@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_keyboard_reaches_the_links(mode, browser, address):
    "Tab goes from link to link, and each looks another when it is reached: a ring around it, of pixels that clearly change."
    browser.get(f'{address}/kernels.html')
    browser.execute_script('localStorage.setItem("smalldocs-scheme", arguments[0])', 'alternate' if mode == 'dark' else 'default')
    browser.get(f'{address}/kernels.html')
    time.sleep(.3)                                                                         # the theme fades in
    before, there = look(browser), []
    for _ in range(14):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        at = browser.switch_to.active_element
        wait(browser, lambda b: not b.execute_script('return document.getAnimations().some(a => a.playState == "running" && a.transitionProperty)'))
        box = browser.execute_script('const b = document.activeElement.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]')
        left, top, wide, high = (round(v) for v in box)
        part = (slice(max(0, top-6), top+high+6), slice(max(0, left-6), left+wide+6))
        changed = int((abs(look(browser)[part]-before[part]).max(-1) > 90).sum())
        there.append((at.get_attribute('href') or at.tag_name, changed/(wide+high)))       # the least: one side of a ring, a pixel wide, and as long as the other
    picture(browser, f'focus-{mode}')
    browser.execute_script('localStorage.clear()')
    assert len({href for href, _ in there}) > 10 and any(href.endswith('.html') for href, _ in there)
    assert [(href, changed) for href, changed in there if changed < 1] == []

PAGES = ('paths', 'matching', 'tutorials/add_reward', 'explore', 'howto/launch', 'howto/diffusers', 'explanations/probes', 'trainer', 'cli', 'explanations/book',
         'explanations/bibliography', 'changelog')

def places(yml='_quarto.yml'):
    "Page -> what the bar marks there: the word that leads to a page of the same part of the list."
    web = yaml.safe_load(Path(yml).read_text(encoding='utf8'))['website']
    inside = lambda p: [f for q in p['contents'] for f in inside(q)] if 'contents' in p else [p['href']] if isinstance(p, dict) else [p]
    word = {b['href']: b['text'] for b in web['navbar']['left']}
    name = lambda f: re.sub(r'\b\d+[a-z]*_', '', f).removesuffix('.ipynb').removesuffix('.md')
    return {name(f): next(word[g] for g in part if g in word) for part in map(inside, web['sidebar']['contents'][1:]) for f in part}

PLACES = places()

def test_every_part_is_looked_at(): assert {PLACES[p] for p in PAGES} == {*PLACES.values()}

def where(browser, list_shown=True):
    "What the bar marks, and whether the list of pages shows the one that is open."
    return browser.execute_script("""const list = document.querySelector("#quarto-sidebar"), here = list.querySelectorAll("[aria-current=page]");
        const a = here[0].getBoundingClientRect(), b = list.getBoundingClientRect();
        return [[...document.querySelectorAll(".navbar-nav .active[aria-current]")].map(e => e.textContent.trim()),
                here.length == 1 && here[0].href == location.href && a.height > 0 && a.top >= b.top && a.bottom <= Math.min(b.bottom, innerHeight)]""")

@pytest.mark.parametrize('page', PAGES)
def test_where_a_reader_is(page, browser, address):
    "The list of pages comes to the page that is open, and the bar marks the part in which it lies, and looks so."
    browser.get(f'{address}/{page}.html')
    assert where(browser) == [[PLACES[page]], True]
    styles = {e.text: e.value_of_css_property('text-decoration-line') for e in browser.find_elements(By.CSS_SELECTOR, '.navbar-nav.me-auto .nav-link')}
    assert [name for name, line in styles.items() if line == 'underline'] == [PLACES[page]] and len(styles) == 7

def brightness(browser, selector='body'):
    "Of the background, 0 to 255."
    colour = browser.find_element(By.CSS_SELECTOR, selector).value_of_css_property('background-color')
    return sum(map(float, colour[colour.index('(')+1:-1].split(',')[:3]))/3

def test_dark(browser, address):
    "The switch makes the page dark, and it stays so on the next page; drawings turn over, paintings keep their colours."
    browser.get(f'{address}/divergence.html')
    bright = brightness(browser)
    browser.find_element(By.CSS_SELECTOR, '.quarto-color-scheme-toggle').click()
    wait(browser, lambda b: brightness(b) < 80)
    picture(browser, 'dark')
    browser.get(f'{address}/paths.html')
    assert bright > 200 and brightness(browser) < 80
    filters = lambda kind: {i.value_of_css_property('filter').split('(')[0] for i in browser.find_elements(By.CSS_SELECTOR, f'main img.{kind}')}
    assert filters('drawing') == {'invert'}
    browser.get(f'{address}/index.html')
    assert filters('painting') == {'brightness'}
    browser.execute_script('localStorage.clear()')

@pytest.mark.parametrize('page', ['index', 'divergence', 'tutorials/toy', 'explanations/notation', 'reference', 'howto/own_reward'])
def test_phone(page, browser, address):
    "On a phone nothing is wider than the screen, and the menu opens."
    browser.set_window_size(500, 900)
    try:
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=2, mobile=True))
        browser.get(f'{address}/{page}.html')
        got = browser.execute_async_script(seen)
        picture(browser, f'phone-{page.replace("/", "-")}')
        assert got['wide'] <= 0 and got['scroll'][1:] == [0, 0]
        browser.find_element(By.CSS_SELECTOR, '.quarto-btn-toggle').click()
        wait(browser, lambda b: b.find_element(By.ID, 'quarto-sidebar').is_displayed())
        assert where(browser)[1]
        picture(browser, f'phone-menu-{page.replace("/", "-")}')
    finally:
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        browser.set_window_size(1280, 900)

def test_no_page_is_wider_than_a_phone(browser, address, site):
    "Code and tables may scroll in their boxes; a page does not."
    browser.set_window_size(500, 900)
    try:
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
        found = []
        for file in sorted(site.rglob('*.html')):
            path = file.relative_to(site).as_posix()
            browser.get(f'{address}/{path}')
            if (got := browser.execute_async_script(seen))['wide'] > 0: found.append(f'{path}: {got["wide"]} pixels too wide')
            if got['scroll'][1]: found.append(f'{path}: {got["scroll"][1]} figures scroll')
        assert not found, found
    finally:
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        browser.set_window_size(1280, 900)

@pytest.mark.parametrize('page', ['index', 'divergence', 'reference', 'howto/own_reward', 'tutorials/toy'])
def test_desk(page, browser, address):
    "On a desk there are a sidebar, the page, and its table of contents."
    browser.get(f'{address}/{page}.html')
    got = browser.execute_async_script(seen)
    if page == 'index': assert got['scroll'] == [0, 0, 0]
    picture(browser, page.replace('/', '-'))
    for part in 'quarto-sidebar', 'TOC': assert browser.find_element(By.ID, part).is_displayed()

HEADINGS = ('What was asked', 'What was noticed', 'Scores', 'What was learnt', 'Quality against cost', 'What it painted on its way', 'What each step counts', 'Who can do what',
            'What it paints', 'How it walks', 'What estimators would spread', 'What one pass saves')

def test_page_of_a_run(browser, student, opd, tmp_path):
    "The page of a run, opened as a file, says nothing in the console, has every part with what belongs there, shows all its pictures and fits a phone."
    folder, _ = student
    opd.run(folder, 'report', 'run', '--out', tmp_path/'page.html', '--pictures', 1, '--judged', 1, '-q').ok()
    browser.get((tmp_path/'page.html').as_uri())
    got = browser.execute_async_script(seen)
    picture(browser, 'run')
    assert not got['blank'] and not errors(browser) and browser.find_element(By.TAG_NAME, 'h1').text == 'Run run'
    parts = browser.execute_script("""return [...document.querySelectorAll("main > section")].map(s => [s.querySelector("h2").textContent,
        {rows: s.querySelectorAll("tbody tr").length, pictures: [...s.querySelectorAll("img")].map(i => [i.naturalWidth, i.alt]), text: s.textContent}])""")
    assert tuple(head for head, _ in parts) == HEADINGS
    parts = dict(parts)
    assert parts['What was asked']['rows'] == 12 + 3 and parts['Scores']['rows'] == 3      # twelve facts and three tasks
    least = {'What was learnt': 4, 'Quality against cost': 1, 'What each step counts': 1, 'Who can do what': 1, 'What it paints': 9, 'How it walks': 6, 'What estimators would spread': 1, 'What one pass saves': 1}
    assert [(head, len(parts[head]['pictures'])) for head, n in least.items() if len(parts[head]['pictures']) < n] == []
    assert all(wide > 0 and len(alt.split()) > 2 for p in parts.values() for wide, alt in p['pictures'])
    assert [head for head, p in parts.items() if 'Not drawn' in p['text']] == []
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=2, mobile=True))
    narrow = browser.execute_script('return document.documentElement.scrollWidth - innerWidth')
    picture(browser, 'phone-run')
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    assert narrow <= 0

# The explorers, where they are meant to be played with

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def answers(url):
    try: return urlopen(url).status == 200
    except (URLError, ConnectionError): return False

@pytest.fixture
def lab(tmp_path, browser):
    "The address of a JupyterLab of its own, which serves the folder `work`."
    need('lab', importlib.util.find_spec('jupyterlab'), 'jupyterlab is not installed')
    (tmp_path/'work').mkdir()
    port, own = free_port(), {f'JUPYTER_{k}_DIR': str(tmp_path/k) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    with open(tmp_path/'log', 'w') as log:
        lab = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=', '--LabApp.news_url=',
                                '--expose-app-in-browser', f'--ServerApp.root_dir={tmp_path/"work"}'], env=os.environ | own, stdout=log, stderr=log)
    wait(browser, lambda _: answers(f'http://127.0.0.1:{port}/lab'), 180)
    yield f'http://127.0.0.1:{port}/lab'
    lab.terminate()
    lab.wait()

EXPLORERS = {  # call -> how a reader moves it: a menu and what is chosen there, or a slider and the key that is pressed on it
    'solver_explorer()': ('menu', 'solver', 'euler'),
    'walk_explorer()': ('menu', 'solver', 'cps'),
    'gradient_explorer()': ('menu', 'dim', '4'),
    'monitor("run")': ('slider', 'update', Keys.ARROW_LEFT),
    'film_explorer(bb, models)': ('slider', 'step', Keys.ARROW_RIGHT),
    'side_by_side(bb, models)': ('slider', 'seed', Keys.ARROW_RIGHT),
}

def test_every_explorer_is_played_with():
    "What `explore` offers with controls is what the test below opens."
    from diffusionopd import explore
    offered = {name for name in explore.__all__ if name.endswith('_explorer') or name in ('monitor', 'side_by_side')}
    assert offered == {call.split('(')[0] for call in EXPLORERS}

def test_static_explorers(browser, address):
    "On the site, where nothing answers, a figure stands above each call."
    browser.get(f'{address}/explore.html')
    assert not browser.execute_async_script(seen)['blank']
    above = """return [...document.querySelectorAll("main pre.sourceCode")].map(code => [code.textContent.trim(),
        [...document.querySelectorAll("main .quarto-figure img")].filter(i => i.compareDocumentPosition(code) & Node.DOCUMENT_POSITION_FOLLOWING).map(i => i.alt).pop()])"""
    shown = {text.split('(')[0]: alt for text, alt in browser.execute_script(above)}
    alts = [shown.get(call.split('(')[0]) for call in EXPLORERS]
    assert all(alts) and len(set(alts)) == len(EXPLORERS)

def test_explorers_in_jupyterlab(lab, browser, tmp_path):
    "Each explorer shows its picture, and another one when a control is moved; noise rests for an ODE, the monitor follows a run; what cannot be is told in a sentence."
    (tmp_path/'work'/'run').mkdir()
    record = lambda u: dict(update=u, loss=1/u, gap=dict(text=2/u, aesthetics=1/u), kl=dict(text=[.1/u, 1/u], aesthetics=[.2/u, .5/u]), steps=[0, 1], elapsed=u/2)
    log, grids = tmp_path/'work'/'run'/'log.jsonl', tmp_path/'work'/'run'/'figures'
    log.write_text(''.join(json.dumps(record(u))+'\n' for u in range(1, 31)))
    grids.mkdir()
    for u, shade in ((0, 40), (30, 220)): Image.new('L', (60, 30), shade).save(grids/f'samples_{u:06d}.png')
    source = ['from diffusionopd.explore import *\nfrom diffusionopd.explore import named_models\nfrom diffusionopd.backbones import load_backbone\n'
              'bb = load_backbone("embedded")\nmodels = named_models(bb)', *EXPLORERS]
    cells = [dict(cell_type='code', id=f'cell{i}', metadata={}, source=c, outputs=[], execution_count=None) for i, c in enumerate(source)]
    (tmp_path/'work'/'play.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='')), nbformat=4, nbformat_minor=5)))
    browser.set_window_size(1300, 4200) # a notebook holds only the cells that are in view
    try:
        browser.get(f'{lab}/tree/play.ipynb?reset')
        wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, '.jp-CodeCell')) == len(cells), 180)
        wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status=idle]'), 180)
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        drawing = lambda i: browser.find_elements(By.CSS_SELECTOR, '.jp-CodeCell')[i+1].find_element(By.CSS_SELECTOR, '.jp-Cell-outputArea')
        picture_of = lambda i: [im.get_attribute('src') for im in drawing(i).find_elements(By.TAG_NAME, 'img')]
        wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, '.widget-interact')) == len(EXPLORERS) and all(map(picture_of, range(len(EXPLORERS)))), 300)
        picture(browser, 'jupyterlab')
        for i, (kind, label, to) in enumerate(EXPLORERS.values()):
            before = wait(browser, lambda b: picture_of(i))
            control = drawing(i).find_element(By.XPATH, f'.//label[text()="{label}"]/..')
            if kind == 'menu': Select(control.find_element(By.TAG_NAME, 'select')).select_by_visible_text(to)
            else: control.find_element(By.CSS_SELECTOR, '.noUi-handle').send_keys(to)
            wait(browser, lambda b: picture_of(i) not in ([], before), 120)
        slider = lambda i, label: drawing(i).find_element(By.XPATH, f'.//label[text()="{label}"]/..')
        first, watch = list(EXPLORERS).index('solver_explorer()'), list(EXPLORERS).index('monitor("run")')
        assert slider(first, 'eta').find_elements(By.CSS_SELECTOR, '.noUi-target[disabled]') and not slider(first, 'shift').find_elements(By.CSS_SELECTOR, '.noUi-target[disabled]')
        *_, grid = picture_of(watch)
        slider(watch, 'pictures').find_element(By.CSS_SELECTOR, '.noUi-handle').send_keys(Keys.ARROW_LEFT)   # to the first of two grids
        wait(browser, lambda b: picture_of(watch)[-1] != grid, 60)
        drawing(watch).find_element(By.XPATH, './/button[contains(., "Follow")]').click()
        log.write_text(log.read_text()+json.dumps(record(31))+'\n')                                          # the run goes on
        wait(browser, lambda b: '31 updates' in drawing(watch).text, 60)
        last = len(EXPLORERS)-1
        prompt = drawing(last).find_element(By.CSS_SELECTOR, 'input[type=text]')
        prompt.clear(); prompt.send_keys('paint me a horse', Keys.ENTER)
        wait(browser, lambda b: 'paint me a horse' in drawing(last).text, 60)
        assert 'Traceback' not in drawing(last).text
    finally:
        picture(browser, 'jupyterlab-after')
        browser.set_window_size(1280, 900)
