# `make demo` and `make test` do all set-up themselves; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev,judge
OUT    ?= runs/demo
ARGS   ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt
recipe := constraints.txt settings.ini setup.py pyproject.toml
sources := $(shell find diffusionopd -not -path '*/__pycache__*')
say := @printf '\n== %s\n'

.NOTPARALLEL:
.PHONY: help demo paper tuning test sync check notebooks docs clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
	@echo 'Settings: PYTHON=$(PYTHON)  VENV=$(VENV)  OUT=$(OUT)  ARGS=(passed on to the command)'

demo: export words = With make: go on with a stopped demo by `make demo OUT=$(OUT) ARGS=--resume`, or start another by `make demo OUT=runs/another`
demo: $(VENV)/.runtime $(VENV)/.package ## distil three specialists into one student; results in OUT
	$(say) 'Running diffusionopd demo (minutes on two cores); results go to $(OUT)'
	@$(bin)/diffusionopd demo --out $(OUT) $(ARGS) || { code=$$?; echo "$$words" >&2; exit $$code; }

paper: $(VENV)/.with-$(EXTRAS) $(VENV)/.package ## the paper's comparison and the ablations, five to six hours on two idle cores by their plans; goes on where it was stopped
	$(say) 'Running recipes/suites/paper.yaml and ablations.yaml; stop at will, the same command goes on'
	@for suite in paper ablations; do $(bin)/diffusionopd compare recipes/suites/$$suite.yaml $(ARGS) || exit $$?; done

tuning: $(VENV)/.with-$(EXTRAS) $(VENV)/.package ## the suites that chose the settings of those two, and other settings that went the whole way once, about three hours on two idle cores; goes on where it was stopped
	$(say) 'Running recipes/suites/tuning.yaml, long.yaml, long_joint.yaml, long_ppo.yaml, long_cascade.yaml and long_once.yaml; stop at will, the same command goes on'
	@for suite in tuning long long_joint long_ppo long_cascade long_once; do $(bin)/diffusionopd compare recipes/suites/$$suite.yaml $(ARGS) || exit $$?; done

test: $(VENV)/.with-$(EXTRAS) $(VENV)/.package ## run every notebook and all tests on the package as installed
	$(say) 'Running all notebooks and tests'
	@$(bin)/pytest -n 2 --dist loadfile --durations=15 $(ARGS)

sync: $(VENV)/.with-$(EXTRAS) ## export the notebooks to diffusionopd/, clean them, write README.md
	@$(bin)/nbdev_export && $(bin)/nbdev_clean && $(bin)/python tools/readme.py

check: $(VENV)/.with-$(EXTRAS) ## tell whether package, notebooks and README agree, without changing them
	@$(bin)/python tools/check_sync.py

notebooks: sync ## run notebooks and keep their outputs; some of them with ARGS="nbs/02_paths.ipynb"
	@$(MAKE) --no-print-directory $(VENV)/.package
	@$(bin)/python tools/run_nbs.py $(ARGS)
	@$(bin)/python tools/readme.py

docs: $(VENV)/.with-$(EXTRAS) $(VENV)/.package ## build the site in _docs/, by Quarto where it is installed, and check it
	@$(bin)/python tools/docs.py $(ARGS)

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist _proc _docs .pytest_cache *.egg-info

# A missing or broken environment is made anew, and with it all that was installed there.
ifneq ($(shell $(bin)/python -c "print('good')" 2>/dev/null),good)
.PHONY: $(bin)/python
endif

$(bin)/python:
	@command -v $(PYTHON) >/dev/null || { echo 'No Python was found under the name $(PYTHON): install Python 3.10 or newer, or name one with make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "diffusionopd needs Python 3.10 or newer, and $(PYTHON) is `$(PYTHON) -V 2>&1`: name a newer one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)'; exit 1; }
	$(say) "Making a virtual environment in $(VENV) with `$(PYTHON) -V 2>&1`"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.runtime: $(bin)/python $(recipe)
	$(say) 'Installing diffusionopd[judge] and what it needs (torch is large: this takes some minutes)'
	@rm -rf build && { $(pip) '.[judge]' || { echo 'The independent reader cannot be had on this machine: going on without it'; $(pip) .; }; }
	@touch $@ $(VENV)/.package

$(VENV)/.with-$(EXTRAS): $(bin)/python $(recipe)
	$(say) 'Installing diffusionopd[$(EXTRAS)] and what it needs (torch is large: this takes some minutes)'
	@rm -rf build && $(pip) '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.package

# The package is built and installed as a user gets it, so that a file missing from the wheel is noticed.
# Setuptools leaves a copy in build/ whose old modules would slip into the next wheel.
$(VENV)/.package: $(sources) $(recipe)
	$(say) 'Installing diffusionopd as it is now'
	@rm -rf build && $(pip) --no-deps --no-build-isolation --force-reinstall . && rm -rf build
	@touch $@
