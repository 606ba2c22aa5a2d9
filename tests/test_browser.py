"""The site in a real browser: Chromium without a window, driven by selenium. Skipped where either is missing.

    SCREENSHOTS=folder pytest tests/test_browser.py    keeps pictures of what was seen
"""
import json, os, shutil, socket, subprocess, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

selenium = pytest.importorskip('selenium', reason='selenium is not installed')
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

sys.path.insert(0, 'tools')
import check_docs

chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
chromedriver = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(not (chromium and chromedriver), reason='chromium and chromedriver are not installed')

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
    blank: pictures.filter(i => !i.naturalWidth).map(i => i.src), wide: document.documentElement.scrollWidth - innerWidth,
    scroll: ["main .sd-table", "main .quarto-figure, main .quarto-figure *, main .cell-output:has(img)", "main pre.sourceCode"].map(s => $(s).filter(e => e.scrollWidth > e.clientWidth + 1 &&
        /auto|scroll/.test(getComputedStyle(e).overflowX)).length),
    fetched: performance.getEntriesByType("resource").map(e => e.name)}));
'''

def test_pages(browser, address, site):
    "Every page loads without a word in the console; formulas are set, pictures are there, and it is light with its fonts."
    found, heaviest = [], 0
    for file in sorted(site.rglob('*.html')):
        path = file.relative_to(site).as_posix()
        browser.get(f'{address}/{path}')
        page = browser.execute_async_script(seen)
        found += [f'{path}: {e}' for e in errors(browser)]
        if page['formulas'] != page['set'] or page['odd']: found.append(f'{path}: {page["set"]} of {page["formulas"]} formulas are set {page["odd"]}')
        if page['blank']: found.append(f'{path}: {page["blank"]} do not show')
        if any(page['scroll'][:2]): found.append(f'{path}: {page["scroll"][0]} tables and {page["scroll"][1]} figures scroll')
        if page['wide'] > 0: found.append(f'{path}: {page["wide"]} pixels too wide')
        away = [u for u in page['fetched'] if not u.startswith(address)]
        if away and (site/'site_libs'/'katex').is_dir(): found.append(f'{path}: fetches {away}')
        files = [site/u.removeprefix(address+'/') for u in page['fetched'] if u.startswith(address)]
        heaviest = max(heaviest, weight := sum(check_docs.size(f)[0] for f in [file, *files] if f.is_file()))
        if weight > check_docs.HEAVIEST: found.append(f'{path}: {weight/1e6:.2f} MB')
    print(f'heaviest page: {heaviest/1e6:.2f} MB')
    if found: pytest.fail('\n'.join(found), pytrace=False)

def test_search_by_keyboard(browser, address):
    "A slash leads to the search, a word finds its page, an arrow and Enter open it."
    browser.get(f'{address}/index.html')
    browser.find_element(By.TAG_NAME, 'body').send_keys('/')
    box = wait(browser, lambda b: b.switch_to.active_element)
    assert box.tag_name == 'input'
    box.send_keys('Girsanov')
    results = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, '.search-result'))
    picture(browser, 'search')
    assert any('divergence' in r.get_attribute('href') for r in results)
    box.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    wait(browser, lambda b: 'index.html' not in b.current_url)
    assert 'Girsanov' in browser.page_source

def test_keyboard_reaches_the_links(browser, address):
    "Tab goes from link to link, and shows where it is."
    browser.get(f'{address}/kernels.html')
    there = []
    for _ in range(12):
        browser.find_element(By.TAG_NAME, 'html') and webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        at = browser.switch_to.active_element
        there.append((at.get_attribute('href') or at.tag_name, at.value_of_css_property('outline-style') != 'none' or at.value_of_css_property('box-shadow') != 'none'))
    assert len({href for href, _ in there}) > 6 and any(href.endswith('.html') for href, _ in there)
    assert [href for href, shown in there if not shown] == []

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
        picture(browser, f'phone-menu-{page.replace("/", "-")}')
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

def test_page_of_a_run(browser, student, opd, tmp_path):
    "The page of a run, opened as a file, says nothing in the console, shows all its pictures and fits a phone."
    folder, _ = student
    opd.run(folder, 'report', 'run', '--out', tmp_path/'page.html', '--pictures', 1, '--judged', 1, '-q').ok()
    browser.get((tmp_path/'page.html').as_uri())
    got = browser.execute_async_script(seen)
    picture(browser, 'run')
    assert not got['blank'] and not errors(browser) and browser.find_element(By.TAG_NAME, 'h1').text == 'Run run'
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
    pytest.importorskip('jupyterlab', reason='jupyterlab is not installed')
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
    "Each explorer shows its picture, and another one when a control is moved; what cannot be is told in a sentence."
    (tmp_path/'work'/'run').mkdir()
    record = lambda u: dict(update=u, loss=1/u, gap=dict(text=2/u, aesthetics=1/u), kl=dict(text=[.1/u, 1/u], aesthetics=[.2/u, .5/u]), steps=[0, 1], elapsed=u/2)
    (tmp_path/'work'/'run'/'log.jsonl').write_text(''.join(json.dumps(record(u))+'\n' for u in range(1, 31)))
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
        last = len(EXPLORERS)-1
        prompt = drawing(last).find_element(By.CSS_SELECTOR, 'input[type=text]')
        prompt.clear(); prompt.send_keys('paint me a horse', Keys.ENTER)
        wait(browser, lambda b: 'paint me a horse' in drawing(last).text, 60)
        assert 'Traceback' not in drawing(last).text
    finally:
        picture(browser, 'jupyterlab-after')
        browser.set_window_size(1280, 900)
