"""Why are the students as they are? Probes of those that a comparison left, on the embedded world; what is done is in the folder and is not done again.

    diffusionopd compare recipes/suites/paper.yaml
    python benchmarks/probes.py --suite runs/paper --arms opd_ode-0 off_policy-0 cascade_kl-0 --json diffusionopd/assets/probes.json > benchmarks/probes.md
    python benchmarks/probes.py --adapters mine=runs/mine/student --only exam --out runs/probes-mine
    python benchmarks/probes.py --show --json diffusionopd/assets/probes.json > benchmarks/probes.md    # tell what is stored

Five probes, each a few JSON records in --out:
exam      base, specialists and students on every task, on the wording that nobody was taught, and on prompts in which two tasks meet
gradient  cosines between the tasks' gradients along distillation (own walks, own teachers) and along joint reinforcement (DiffusionNFT)
plateau   the specialists of the package, trained on by their own recipe: does the score still rise?
early     the text specialist from scratch, kept on the way; a student of each; what the student gets against what the teacher had
small     a transformer of an eighth of the parameters, pre-trained here (some fifteen minutes of an idle core), as the student of the large specialists
Weights that probes make go to --work, and may be deleted afterwards. About an hour of an idle core in all, with two students."""
import argparse, os, shlex, sys
from itertools import islice
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

from common import say
import json
import numpy as np
import torch
from diffusionopd.adapters import PEFT_FILE, Manifest, adapter_field, adapter_parameters, file_hash, jsonable, read_manifest, save_adapter
from diffusionopd.arms import aims_of, distill_recipe, over, teach_recipe
from diffusionopd.backbones import load_backbone
from diffusionopd.compare import job_of, load_suite
from diffusionopd.errors import Refusal, nearest, refuse
from diffusionopd.evaluate import bootstrap, named_models, teacher_folder
from diffusionopd.pipeline import PixelPipeline, make_pipeline, make_transformer
from diffusionopd.pretrain import pretrain, save_base
from diffusionopd.probes import ASKS, MIXES, asked_marks, cosine_error, cosines, gram, kept_gain, opd_draws, pack, parts_of, probe, questions_of, read_probe, rl_draws, students_of, unpack
from diffusionopd.readers import get_reader
from diffusionopd.recipes import BaseRecipe, DistillRecipe, TeachRecipe, make_recipe, yaml_settings
from diffusionopd.report import markdown, write_whole
from diffusionopd.teach import open_training, save_teacher, teach
from diffusionopd.tidy import ci, paired
from diffusionopd.trainer import averaged, open_run, step, student_field
from diffusionopd.world import TASKS, TAUGHT

ROOT = Path(__file__).resolve().parent.parent
def command(): return 'python '+shlex.join(['benchmarks/probes.py', *sys.argv[1:]])
PROBES = ('exam', 'gradient', 'plateau', 'early', 'small')

# Settings, all of them those of recipes/suites/paper.yaml

def paper(): return load_suite(ROOT/'recipes'/'suites'/'paper.yaml')

def distil_recipe(**changes):
    "The recipe of the arm `opd_ode`, seed 0."
    d = over(distill_recipe(job_of(paper(), 'opd_ode', 0)).model_dump(mode='json'), changes)
    if d['student']['kind'] == 'full': d['student'] = dict(kind='full')
    return make_recipe(DistillRecipe, d)

def joint_recipe(**changes):
    "The recipe of the arm `joint_nft`, seed 0."
    job = job_of(paper(), 'joint_nft', 0)
    return make_recipe(TeachRecipe, over(teach_recipe(job, aims_of(job, None)).model_dump(mode='json'), changes))

def weights_of(place):
    "What an adapter is, whatever it is called."
    if place == 'base': return 'base'
    file = teacher_folder(str(place))/PEFT_FILE
    refuse(not file.is_file(), f'there is no adapter in {str(place)!r}: name base, embedded:TASK, or a folder with {PEFT_FILE}')
    return file_hash(file)

def reader_of():
    "Tesseract, where it is installed."
    try: return get_reader('tesseract'), 'tesseract'
    except Refusal: return None, 'strict'

def packed(marks): return {k: pack(v) for k, v in marks.items()}

# Probes

def asks_of(name):
    "A specialist is asked in other words about its own task only."
    return [q for q in ASKS if name not in TAUGHT or not q.startswith('reworded') or q == f'reworded {name}']

def exam(a, name, place):
    "One model on every question."
    reader, judge = reader_of()
    settings = dict(probe='exam', model=name, weights=weights_of(place), asks=asks_of(name), n=a.n, steps=10, judge=judge)
    def make():
        bb = load_backbone('embedded')
        field, guidance = named_models(bb, {name: str(place)}, copies=True)[name]
        out = {}
        for ask in asks_of(name):
            out[ask] = packed(asked_marks(bb, field, guidance, ask, a.n, reader=reader, batch=200))
            say(f'{name}: {ask}')
        return out
    return probe(a.out/f'exam-{name}.json', settings, make, command())

def train_path(a, loss):
    "Adapters on the way of distillation or of joint reinforcement, kept in the working folder."
    points = [p for p in (a.updates if loss == 'opd' else a.rounds) if p]
    place = lambda p: a.work/loss/str(p)
    if not any(not (place(p)/'manifest.json').is_file() and not (a.out/f'gradient-{loss}-{p}.json').is_file() for p in points): return
    r = distil_recipe(trackers=[]) if loss == 'opd' else joint_recipe()
    refuse(max(points) > (r.updates if loss == 'opd' else r.iterations), f'{loss}: the run has no {max(points)} steps')
    if loss == 'opd':
        run = open_run(r)
        bb, walk = run.bb, (step(run) for _ in range(max(points)))
    else:
        bb = load_backbone('embedded')
        walk = islice(teach(bb, r), max(points))
    for i, _ in enumerate(walk, 1):
        if i in points: save_adapter(bb, 'student' if loss == 'opd' else 'new', place(i), Manifest('student', '+'.join(r.tasks), command=command(), seed=r.seed)); say(f'{loss}: {i}')

def gradient(a, loss, at, place=None):
    "The tasks' gradients at a point of the way, where 0 is the fresh adapter, or at a student."
    folder, k = teacher_folder(str(place)) if place else a.work/loss/str(at), a.draws
    stored = read_probe(a.out/f'gradient-{loss}-{at}.json')
    weights = 'fresh' if not at else weights_of(folder) if folder.is_dir() else stored and stored['settings']['weights'] # of a finished probe the weights may be gone
    settings = dict(probe='gradient', loss=loss, at=at, draws=k, weights=weights, rows=12 if loss == 'opd' else dict(prompts=5, pictures=12))
    def make():
        start = dict(student=dict(start=str(folder))) if at else {}
        if loss == 'opd':
            run = open_run(distil_recipe(trackers=[], **start))
            draws, params = opd_draws(run, k), run.params
        else:
            t = open_training(load_backbone('embedded'), joint_recipe(**start))
            draws, params = rl_draws(t, k), adapter_parameters(t.bb.net, 'new')
        G, names = gram(list(draws.values())), list(draws)
        say(f'gradients of {loss} at {at}')
        out = dict(tasks=names, gram=[[[[float(f'{x:.4g}') for x in r] for r in m] for m in b] for b in G.tolist()])
        return out | dict(parts={p: {c: np.round(v, 4).tolist() for c, v in cosines(gram([d[:, i] for d in draws.values()])).items()} for p, i in parts_of(params).items()})
    return probe(a.out/f'gradient-{loss}-{at}.json', settings, make, command())

def plateau(a, task):
    "A specialist of the package, trained on by its own recipe from fresh prompts."
    reader, judge = reader_of()
    settings = dict(probe='plateau', task=task, more=a.more, n=a.n, seed=1, weights=weights_of(f'embedded:{task}'), judge=judge)
    def make():
        own = read_manifest(teacher_folder(f'embedded:{task}')).config
        r = make_recipe(TeachRecipe, over(own, dict(model='embedded', iterations=a.more, seed=1, evaluation=dict(every=0, final=0), student=dict(start=f'embedded:{task}'))))
        bb, marks = load_backbone('embedded'), {}
        def note(i, field): marks[str(i)] = packed(asked_marks(bb, field, r.guidance, task, a.n, reader=reader, batch=200)); say(f'plateau of {task}: {i} rounds more')
        note(0, named_models(bb, {'was': f'embedded:{task}'}, copies=True)['was'][0])
        for t in teach(bb, r):
            if t.iteration in {-(-a.more//2), a.more}: note(t.iteration, adapter_field(bb, 'new'))
        return dict(before=own['iterations'], marks=marks)
    return probe(a.out/f'plateau-{task}.json', settings, make, command())

def train_early(a):
    "The text specialist from scratch, kept after some rounds."
    place = lambda p: a.work/'early'/str(p)
    if all((place(p)/'manifest.json').is_file() or (a.out/f'early-{p}.json').is_file() for p in a.early): return
    r = make_recipe(TeachRecipe, over(yaml_settings(ROOT/'recipes'/'teach-text.yaml', 'recipe'), dict(model='embedded', evaluation=dict(every=0, final=0))))
    refuse(max(a.early) > r.iterations, f'--early: the recipe of the text specialist has {r.iterations} rounds')
    bb = load_backbone('embedded')
    for t in islice(teach(bb, r), max(a.early)):
        if t.iteration in a.early: save_teacher(bb, r, place(t.iteration), command(), {}); say(f'text specialist: {t.iteration} rounds')

def early(a, rounds, place):
    "A student of an early text specialist and of the other two as they are."
    reader, judge = reader_of()
    path = a.out/f'early-{rounds}.json'
    stored, there = read_probe(path), teacher_folder(str(place)).is_dir()
    settings = dict(probe='early', rounds=rounds, updates=a.short, n=a.n, weights=weights_of(place) if there or not stored else stored['settings']['weights'], judge=judge)
    def make():
        bb = load_backbone('embedded')
        ask = lambda bb, f, what: packed(asked_marks(bb, f, 1., what, a.n, reader=reader, batch=200))
        teacher = ask(bb, named_models(bb, {'t': str(place)}, copies=True)['t'][0], 'text')
        run = open_run(distil_recipe(trackers=[], updates=a.short, tasks=dict(text=dict(teacher=str(place)))))
        while run.update < a.short: step(run)
        with averaged(run): student = {t: ask(run.bb, student_field(run.bb, run.recipe), t) for t in TAUGHT}
        say(f'student of the text specialist after {rounds} rounds')
        return dict(teacher=teacher, student=student)
    return probe(path, settings, make, command())

def small(a):
    "A smaller transformer as the student: whole, since nothing of it needs to stay."
    reader, judge = reader_of()
    settings = dict(probe='small', base=a.small, updates=a.tiny, n=a.n, layers=2, heads=2, lr=1e-3, judge=judge)
    def make():
        folder, r = a.work/'small', BaseRecipe(updates=a.small, out=str(a.work/'small'))
        if not (folder/'manifest.json').is_file():
            pipe = make_pipeline(r.seed)
            with torch.random.fork_rng([]):
                torch.manual_seed(r.seed)
                pipe = PixelPipeline(make_transformer(layers=2, heads=2), pipe.scheduler, pipe.text_encoder, pipe.tokenizer)
            for last in pretrain(r, pipe): last.update % 500 or say(f'small base: {last.update}')
            save_base(pipe, r, folder, command())
        bb, big = load_backbone(str(folder)), load_backbone('embedded')
        ask = lambda f: {t: packed(asked_marks(bb, f, 1., t, a.n, reader=reader, batch=200)) for t in TASKS}
        count, before = sum(p.numel() for p in bb.net.parameters()), ask(adapter_field(bb, None))
        fields = {t: f for t, (f, _) in named_models(big, {t: f'embedded:{t}' for t in TAUGHT}, copies=True).items()}
        run = open_run(distil_recipe(trackers=[], model=str(folder), updates=a.tiny, student=dict(kind='full'), optimiser=dict(lr=1e-3)), bb, fields)
        while run.update < a.tiny: step(run)
        with averaged(run): after = ask(student_field(run.bb, run.recipe))
        return dict(parameters=[count, sum(p.numel() for p in big.net.parameters() if p.ndim)], base=before, student=after)
    return probe(a.out/'small.json', settings, make, command())

# Report

def interval(marks, groups):
    v = unpack(marks)
    return [round(x, 4) for x in (float(v.mean()), *bootstrap(v, groups))]

def difference(x, y, groups): return {k: round(v, 4) for k, v in paired(unpack(x), unpack(y), np.array(groups)).items()}

def mean_cosine(G):
    "The mean of the pairs' corrected cosines, and its standard error by a jackknife over draws."
    T, k = G.shape[:2]
    mean = lambda w: float(cosines(G[:, w][:, :, :, w])['corrected'][np.triu_indices(T, 1)].mean())
    left = np.array([mean(np.delete(np.arange(k), i)) for i in range(k)])
    return [round(mean(np.arange(k)), 4), round(float(((k-1)/k*((left-left.mean())**2).sum())**.5), 4)]

def told(a):
    "What the records say, as plain numbers."
    records = {p.stem: read_probe(p) for p in sorted(a.out.glob('*.json')) if p.name != 'told.json'}
    of = lambda kind: {k: r for k, r in records.items() if r['settings'].get('probe') == kind}
    groups, out = {}, dict(hardware=sorted({r['hardware'] for r in records.values()}), commands=sorted({r['command'] for r in records.values()}), seconds=round(sum(r['seconds'] for r in records.values())))
    def labels(ask, n):
        if (ask, n) not in groups: groups[ask, n] = questions_of(ask, n)[0]
        return groups[ask, n]
    exams = {r['settings']['model']: r for r in of('exam').values()}
    students = sorted((m for m in exams if m not in ('base', *TAUGHT)), key=lambda m: (m != a.reference, m))
    order = [m for m in ('base', *TAUGHT) if m in exams]+students
    out['exam'] = {m: {q: {f: interval(v, labels(q, exams[m]['settings']['n'])) for f, v in got.items()} for q, got in exams[m]['result'].items()} for m in order}
    marks = {m: exams[m]['result'] for m in order}
    if exams: out['n'], out['judge'] = {r['settings']['n'] for r in exams.values()}.pop(), {r['settings']['judge'] for r in exams.values()}.pop()
    if students and {'base', *TAUGHT} <= {*order}:
        n = out['n']
        ways = dict(usual={t: t for t in TAUGHT}, reworded={f'reworded {t}': t for t in TAUGHT})
        out['kept'] = {m: {w: {f: kept_gain(marks, m, asks, {q: labels(q, n) for q in asks}, f) for f in ('judge', 'reward')} for w, asks in ways.items()} for m in students}
        out['paired'] = {m: {q: {f: difference(marks[m][q][f], marks[students[0]][q][f], labels(q, n)) for f in ('judge', 'reward')} for q in ASKS} for m in students[1:]}
    out['wording'] = {m: {t: {f: difference(got[f'reworded {t}'][f], got[t][f], labels(t, out['n'])) for f in ('judge', 'reward')} for t in TAUGHT if f'reworded {t}' in got} for m, got in marks.items()}
    if exams: out['sides'] = {m: {q: difference(got[q]['strict'], got[q]['theirs'], labels(q, out['n'])) for q in list(MIXES)[:2]} for m, got in marks.items()}
    out['gradient'] = []
    for r in sorted(of('gradient').values(), key=lambda r: (r['settings']['loss'], isinstance(r['settings']['at'], str), r['settings']['at'])):
        G = np.array(r['result']['gram'])
        c, e, m = cosines(G), cosine_error(G), mean_cosine(G)
        out['gradient'].append({k: r['settings'][k] for k in ('loss', 'at', 'draws')} | dict(tasks=r['result']['tasks'], mean=m, error=np.round(e, 4).tolist(), parts=r['result']['parts'], **{k: np.round(v, 4).tolist() for k, v in c.items()}))
    out['plateau'] = {}
    for r in of('plateau').values():
        t, m, g = r['settings']['task'], r['result']['marks'], labels(r['settings']['task'], r['settings']['n'])
        out['plateau'][t] = dict(before=r['result']['before'], points={i: {f: interval(v[f], g) for f in ('reward', 'judge', 'content')} for i, v in m.items()},
                                 more={f: difference(m[str(r['settings']['more'])][f], m['0'][f], g) for f in ('reward', 'judge', 'content')})
    out['early'] = [dict(rounds=r['settings']['rounds'], updates=r['settings']['updates'], teacher={f: interval(r['result']['teacher'][f], labels('text', r['settings']['n'])) for f in ('reward', 'judge', 'content')},
                         student={t: {f: interval(v[f], labels(t, r['settings']['n'])) for f in ('reward', 'judge', 'content')} for t, v in r['result']['student'].items()})
                    for r in sorted(of('early').values(), key=lambda r: r['settings']['rounds'])]
    out['small'] = [dict({k: r['settings'][k] for k in ('base', 'updates', 'layers', 'heads', 'lr')}, parameters=r['result']['parameters'],
                         **{w: {t: {f: interval(v[f], labels(t, r['settings']['n'])) for f in ('reward', 'judge', 'content')} for t, v in r['result'][key].items()} for w, key in (('before', 'base'), ('after', 'student'))})
                    for r in sorted(of('small').values(), key=lambda r: r['settings']['base'])]
    return out

def report(d):
    "The numbers as Markdown."
    cell = lambda v: ci(v, '.3f')
    parts = [f"{d['hardware'][0]}. {d['seconds']:,} seconds of a core in all. Commands: "+'; '.join(f'`{c}`' for c in d['commands'])+'.'] if d['commands'] else []
    if d['exam']: parts += [f"{f} of {d['n']} pictures a cell (judge of text and digits: {d['judge']}):\n\n"+markdown(['model', *ASKS], [[m, *(cell(v.get(q, {}).get(f)) for q in ASKS)] for m, v in d['exam'].items()]) for f in ('reward', 'judge')]
    if d['exam']: parts += ['Where two tasks meet: in the style of the word, in that of the body, content in any ink, frame:\n\n'+markdown(['model', *list(MIXES)[:2]], [[m, *(' / '.join(f'{v[q][f][0]:.3f}' for f in ('strict', 'theirs', 'content', 'frame')) for q in list(MIXES)[:2])] for m, v in d['exam'].items()])]
    if d.get('kept'): parts += ['Shares of gain by judge:\n\n'+markdown(['student', 'wording', *TAUGHT, 'mean'], [[m, w, *(ci(v['judge'][q]) for q in v['judge'] if q != 'worst')] for m, ws in d['kept'].items() for w, v in ws.items()])]
    pairs = [(0, 1), (0, 2), (1, 2)]
    if d['gradient']: parts += ['Corrected cosines, with standard errors; cosine of two halves of one task:\n\n'+markdown(['loss', 'at', *(f'{TAUGHT[i]}, {TAUGHT[j]}' for i, j in pairs), *(f'halves of {t}' for t in TAUGHT)],
        [[g['loss'], g['at'], *(f"{g['corrected'][i][j]:.2f} ± {g['error'][i][j]:.2f}" for i, j in pairs), *(f"{g['halves'][i][i]:.2f}" for i in range(3))] for g in d['gradient']])]
    if d['plateau']: parts += ['Specialists trained on:\n\n'+markdown(['task', 'rounds more', 'reward', 'judge', 'content'], [[t, i, *(cell(v[f]) for f in ('reward', 'judge', 'content'))] for t, p in d['plateau'].items() for i, v in p['points'].items()])]
    if d['early']: parts += ['Text specialists from early checkpoints, and their students:\n\n'+markdown(['rounds', 'teacher, reward', 'teacher, judge', 'student, reward', 'student, judge', *(f'student on {t}, reward' for t in TAUGHT if t != 'text')],
        [[e['rounds'], *(cell(e['teacher'][f]) for f in ('reward', 'judge')), *(cell(e['student']['text'][f]) for f in ('reward', 'judge')), *(cell(e['student'][t]['reward']) for t in TAUGHT if t != 'text')] for e in d['early']])]
    for s in d['small']: parts += [f"A student of {s['parameters'][0]:,} parameters, of specialists of {s['parameters'][1]:,}; reward and judge:\n\n"+markdown(['', *TASKS], [[w, *(f"{cell(v['reward'])}; {cell(v['judge'])}" for v in s[w].values())] for w in ('before', 'after')])]
    return '\n\n'.join(parts)

def named(words):
    "`NAME=PLACE` as a dict."
    out = {}
    for w in words:
        name, sep, place = w.partition('=')
        refuse(not sep or not name.replace('-', '').replace('_', '').isalnum() or not place, f'--adapters: {w!r} is not NAME=FOLDER')
        refuse(name in ('base', *TAUGHT) or name in out, f'--adapters: the name {name!r} is taken')
        out[name] = place
    return out

def run(a):
    for what in a.losses: refuse(what not in ('opd', 'rl'), f'--losses: unknown loss {what!r}: {nearest(what, ("opd", "rl"))}')
    for what in a.only: refuse(what not in PROBES, f'--only: unknown probe {what!r}: {nearest(what, PROBES)}')
    refuse(a.n < 2 or a.draws < 3 or min(a.more, a.short, a.small, a.tiny) < 1, 'at least two pictures, three draws, one round and one update')
    if a.show: refuse(not any(a.out.glob('*.json')), f'{a.out} holds no records to show')
    else:
        students = named(a.adapters) | (students_of(a.suite, a.arms) if a.suite else {})
        models = {'base': 'base', **{t: f'embedded:{t}' for t in TAUGHT}, **students}
        for place in models.values(): weights_of(place)                                        # all are looked at before the first is asked
        for p in a.out.glob('*.json'): read_probe(p)
        torch.set_num_threads(1)
        if 'exam' in a.only:
            for name, place in models.items(): exam(a, name, place)
        if 'gradient' in a.only:
            for loss, points in dict(opd=a.updates, rl=a.rounds).items():
                if loss not in a.losses: continue
                train_path(a, loss)
                for p in points: gradient(a, loss, p)
                for name, place in students.items(): gradient(a, loss, name, place)
        if 'plateau' in a.only:
            for t in TAUGHT: plateau(a, t)
        if 'early' in a.only:
            train_early(a)
            for p in a.early: early(a, p, a.work/'early'/str(p))
            early(a, read_manifest(teacher_folder('embedded:text')).config['iterations'], 'embedded:text') # the package's own: the same recipe to its end
        if 'small' in a.only: small(a)
    d = told(a)
    if a.json: write_whole(a.json, json.dumps(jsonable(d))+'\n')
    print(report(d))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--suite', help='the folder of a comparison, with the weights of its students')
    p.add_argument('--arms', nargs='+', help="which of its arms, or of its runs (ARM-SEED); all, if this is not given")
    p.add_argument('--adapters', nargs='+', default=[], metavar='NAME=FOLDER', help='other students')
    p.add_argument('--reference', default='opd_ode-0', help='the student that the others are compared with; the first by name, if it is not there')
    p.add_argument('--out', type=Path, default=ROOT/'benchmarks'/'results'/'probes', help='folder of the records')
    p.add_argument('--work', type=Path, default=Path('runs/probes'), help='folder of weights that probes make')
    p.add_argument('--json', help='write what the records say to this file too')
    p.add_argument('--only', nargs='+', default=list(PROBES), help=', '.join(PROBES))
    p.add_argument('--show', action='store_true', help='tell what is stored, and run nothing')
    p.add_argument('-n', type=int, default=800, help='pictures a question')
    p.add_argument('--losses', nargs='+', default=['opd', 'rl'], help='whose gradients: opd, rl')
    p.add_argument('--draws', type=int, default=16, help='gradients of each task')
    p.add_argument('--updates', type=int, nargs='+', default=[0, 20, 60], help='points along distillation; the students are points too')
    p.add_argument('--rounds', type=int, nargs='+', default=[0, 10, 30], help='points along joint reinforcement')
    p.add_argument('--more', type=int, default=30, help='rounds after the plateau')
    p.add_argument('--early', type=int, nargs='+', default=[15, 30, 60], help='rounds after which the text specialist is kept')
    p.add_argument('--short', type=int, default=160, help='updates of the students of early teachers')
    p.add_argument('--small', type=int, default=20_000, help='updates of the small base')
    p.add_argument('--tiny', type=int, default=960, help='updates of the small student')
    try: run(p.parse_args())
    except Refusal as e:
        print(f'Error: {e}', file=sys.stderr)
        sys.exit(2)

if __name__ == '__main__': main()
