"`python -m diffusionopd`: the command line. The one module besides `__init__` that no notebook exports."
from .cli import main

if __name__ == '__main__': main()
