"""The package as installed, asked from outside: commands and snippets, each in a process and a folder of its own.

Importing torch and diffusers takes longer than most commands do. So one interpreter imports them and then forks for each
question: what is asked runs in a fresh process with its own streams and exit code, as the console script would run it."""
import json, os, shutil, socket, subprocess, sys, threading
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest, yaml
from filelock import FileLock

host = '''
import gc, importlib.metadata, json, os, sys
os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1' # asking for GPUs shall not start CUDA here, which forks could not use then
from diffusionopd.cli import quieten
quieten()
import torch, diffusionopd.demo, diffusionopd.teach
torch.set_num_threads(1)
main = importlib.metadata.entry_points(group='console_scripts', name='diffusionopd')['diffusionopd'].load()
gc.freeze() # else a fork's collector would touch, and so copy, all of that
for line in sys.stdin:
    job = json.loads(line)
    if 'wait' in job: print(os.waitstatus_to_exitcode(os.waitpid(job['wait'], 0)[1]), flush=True)
    elif pid := os.fork(): print(pid, flush=True)
    else:
        os.chdir(job['cwd']); os.environ.update(job.get('env', {}))
        for fd, name in enumerate((os.devnull, job['stdout'], job['stderr'])): os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), fd)
        sys.argv = ['diffusionopd', *job['args']]
        if not job['code']: sys.exit(main())
        exec(compile(job['code'], 'snippet', 'exec'), {'__name__': '__main__'})
        sys.exit()
'''

@dataclass
class Ended:
    "What a process left behind."
    code: int
    stdout: str
    stderr: str

    def ok(self):
        "The same; fails the test if the process did not end well."
        if self.code: pytest.fail(f'exit code {self.code}\n{self.stdout}{self.stderr}', pytrace=False)
        return self

class Installed:
    "An interpreter that sees installed packages only and has imported everything; `start` forks it."
    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen([sys.executable, '-I', '-c', host], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job)+'\n'); self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, cwd, *args, code=''):
        "A command, or a snippet, on its way in the folder `cwd`."
        self.count += 1
        stdout, stderr = (self.folder/f'{self.count}.{s}' for s in ('stdout', 'stderr'))
        pid = self.ask(cwd=str(cwd), args=list(map(str, args)), code=code, stdout=str(stdout), stderr=str(stderr))
        return Started(self, pid, stdout, stderr)

    def run(self, cwd, *args): return self.start(cwd, *args).end()
    def python(self, cwd, code): return self.start(cwd, code=code).end().ok().stdout.strip()  # what a snippet prints

    def script(self, path, *args):
        "What a script of the repository does, run from its own folder."
        return self.start(path.parent, code=f'import runpy, sys; sys.path.insert(0, "."); sys.argv = {[path.name, *map(str, args)]!r}; runpy.run_path({path.name!r}, run_name="__main__")').end()

    def command(self, folder):
        """A command `diffusionopd` in a folder for PATH: what a shell asks of it is done by a fork, in the shell's folder and streams and with its
        variables, and a signal is passed on. One at a time. A shell's process for each would import for six seconds."""
        server, script = socket.socket(socket.AF_UNIX), Path(folder)/'diffusionopd'
        server.bind(str(script.with_name('asked'))); server.listen()
        script.write_text(relay.format(python=sys.executable, at=str(script.with_name('asked'))))
        script.chmod(0o755)
        def answer():
            while True:
                try: link = server.accept()[0]
                except OSError: return
                with link, link.makefile('rw') as talk:
                    pid = self.ask(code='', **json.loads(talk.readline()))
                    print(pid, file=talk, flush=True)
                    print(self.ask(wait=pid), file=talk, flush=True)
        threading.Thread(target=answer, daemon=True).start()
        return folder

relay = '''#!{python} -ISs
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX); link.connect({at!r})
talk, me = link.makefile('rw'), '/proc/%d/fd/' % os.getpid()
print(json.dumps(dict(cwd=os.getcwd(), args=sys.argv[1:], env=dict(os.environ), stdout=me+'1', stderr=me+'2')), file=talk, flush=True)
pid = int(talk.readline())
for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, lambda n, _: os.kill(pid, n))
code = int(talk.readline())
sys.exit(code if code >= 0 else 128-code)
'''

@dataclass
class Started:
    "A process on its way."
    host: Installed
    pid: int
    stdout: Path
    stderr: Path

    def signal(self, number): os.kill(self.pid, number)
    def running(self): return '\nState:\tZ' not in Path(f'/proc/{self.pid}/status').read_text()
    def end(self): return Ended(self.host.ask(wait=self.pid), self.stdout.read_text(), self.stderr.read_text())

def console(cwd, *args):
    "A command by the console script itself."
    script = Path(sys.executable).with_name('diffusionopd')
    run = subprocess.run([script, *map(str, args)], cwd=cwd, capture_output=True, text=True)
    return Ended(run.returncode, run.stdout, run.stderr)

@pytest.fixture(scope='session')
def opd(tmp_path_factory):
    "The installed package."
    it = Installed(tmp_path_factory.mktemp('installed'))
    yield it
    it.process.stdin.close(); it.process.wait()

def edit(settings, **changes):
    "The same settings with some changed: `a__b=c` for `c` at `a.b`, None to take a field away."
    settings = json.loads(json.dumps(settings))
    for path, value in changes.items():
        *parents, last = path.split('__')
        at = settings
        for key in parents: at = at.setdefault(key, {})
        if value is None: del at[last]
        else: at[last] = value
    return settings

TASKS = 'composition', 'text', 'aesthetics'

# Two teachers, walks of three steps: an update takes a moment.
SMALL = dict(tasks={t: dict(prompts=f'embedded:{t}', teacher=f'embedded:{t}', reward='embedded') for t in TASKS[1:]},
             updates=2, batch=2, rollout=dict(steps=3), evaluation=dict(every=0, final=0), out='run')

def write(folder, settings, name='recipe.yaml'):
    "A recipe as a file."
    (folder/name).write_text(yaml.safe_dump(settings, sort_keys=False))
    return name

def strict(text):
    "JSON as every reader understands it: without NaN and Infinity."
    def no(name): raise AssertionError(f'{name} is no JSON')
    return json.loads(text, parse_constant=no)

def lines(path): return [json.loads(l) for l in path.read_text().splitlines()]

@pytest.fixture(scope='session')
def student(opd, tmp_path_factory, worker_id):
    "The folder of a short run with all three teachers, from `init` to the end, and what the console script said of it. It is run once; every worker has a copy."
    shared = (tmp_path_factory.getbasetemp() if worker_id == 'master' else tmp_path_factory.getbasetemp().parent)/'student-made'
    with FileLock(f'{shared}.lock'):
        if not (shared/'ended.json').exists():
            shutil.rmtree(shared, ignore_errors=True); shared.mkdir()
            opd.run(shared, 'init').ok()
            recipe = yaml.safe_load((shared/'recipe.yaml').read_text())
            write(shared, edit(recipe, updates=45, batch=4, checkpoint_every=30, rollout__steps=5, loss__query='all', loss__k=None,
                               optimiser=dict(lr=3e-3, warmup=3, ema=.9), evaluation=dict(every=15, n=6, final=8), tasks__aesthetics__weight=4.))
            ended = console(shared, 'distill', 'recipe.yaml', '--out', 'run', '--quiet').ok()
            (shared/'ended.json').write_text(json.dumps(asdict(ended)))
    folder = Path(shutil.copytree(shared, tmp_path_factory.mktemp('student')/'made'))
    return folder, Ended(**json.loads((shared/'ended.json').read_text()))
