"Read everything from settings.ini, so that the package has one source of metadata."
from configparser import ConfigParser
import shlex
import setuptools

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf8')
cfg = cfg['DEFAULT']
expected = 'lib_name user branch author author_email license description keywords audience status min_python version requirements'.split()
for o in expected: assert o in cfg, f'missing setting: {o}'

statuses = ['0 - Undefined', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
pythons = [f'3.{i}' for i in range(10, 15)]
supported = pythons[pythons.index(cfg['min_python']):]
extras = {k[:-len('_requirements')]: shlex.split(v) for k, v in cfg.items() if k.endswith('_requirements')}
extras['all'] = sorted({r for k, rs in extras.items() if k not in ('dev', 'browser', 'deepspeed') for r in rs})

setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    classifiers=['Development Status :: ' + statuses[int(cfg['status'])], 'Intended Audience :: ' + cfg['audience'],
                 'Natural Language :: ' + cfg['language'], 'Typing :: Typed'] + [f'Programming Language :: Python :: {v}' for v in supported],
    packages=setuptools.find_packages(include=['diffusionopd', 'diffusionopd.*']),
    package_data={'diffusionopd': ['py.typed', 'assets/**/*', 'assets/*']},
    install_requires=shlex.split(cfg['requirements']), extras_require=extras,
    python_requires='>=' + cfg['min_python'],
    long_description=open('README.md', encoding='utf8').read(), long_description_content_type='text/markdown',
    entry_points={'console_scripts': shlex.split(cfg['console_scripts']), 'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
