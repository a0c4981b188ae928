# make run: environment, install, train MambaRec on the embedded data. make test: environment, install, test suite.
# make docs: environment, install, the documentation site in build/site (open build/site/index.html).
# make install EXTRAS=report,ray: environment, install with extras of setup.cfg.
# With any of them: PYTHON=python3.13, another Python; TORCH_INDEX=https://download.pytorch.org/whl/cpu, another torch.
PYTHON ?= python3
TORCH_INDEX ?=
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

# an environment that is there will do for any Python, unless one was asked for
ASKED = $(filter-out file,$(origin PYTHON))
AGAIN = $@$(if $(ASKED), PYTHON=$(PYTHON))$(if $(EXTRAS), EXTRAS=$(EXTRAS))$(if $(TORCH_INDEX), TORCH_INDEX=$(TORCH_INDEX))
INSTALL = $(PYTHON) tools/install.py --venv=$(VENV) --make="$(AGAIN)" $(if $(ASKED),,--any-python) \
	$(if $(TORCH_INDEX),--torch-index=$(TORCH_INDEX))
STARTS = $(PYTHON) -c pass 2> /dev/null || { echo "error: there is no $(PYTHON) that starts: install it, or name" \
	"another Python (make $@ PYTHON=python3.12)" >&2; exit 2; }

.PHONY: install run test lint docs matrix clean

install:
	@$(STARTS)
	@$(INSTALL) --extras=$(EXTRAS)

run:
	@$(STARTS)
	@$(INSTALL)
	$(BIN)/python run_recbole.py

# in the order of the folders: by number of tests, the searches on ray, few but long, would come last and on one core
test:
	@$(STARTS)
	@$(INSTALL) --extras=dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint:
	@$(STARTS)
	@$(INSTALL) --extras=dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# any warning is an error: a dead link, a page that no table of contents names, a docstring that cannot be parsed
docs:
	@$(STARTS)
	@$(INSTALL) --extras=dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/site-doctrees -c docs . build/site

# the wheel on every Python that is found, with the lowest and the newest releases, and all tests on this one; a part:
# make matrix SESSIONS='suite-3.12 table'. Needs about 10 GB per Python where torch comes with CUDA.
matrix:
	@$(STARTS)
	$(PYTHON) -m venv .nox/make
	.nox/make/$(notdir $(BIN))/python -m pip install -q 'nox[uv]>=2025.2.9'
	.nox/make/$(notdir $(BIN))/python -m nox $(if $(SESSIONS),-s $(SESSIONS))

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .nox
