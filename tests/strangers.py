"The command line in a process whose home is its own, as on machines that share no disk."
import os

os.environ['HOME'] = os.environ['HOMES'].split(os.pathsep)[int(os.environ['RANK'])]
from diffusionopd.cli import main

main()
