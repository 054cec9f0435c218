# Every target sets up what it needs: a fresh clone and `make compare` is all it takes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PEERS ?= .venv-peers
AUDIT ?= .venv-audit

.DEFAULT_GOAL := help
.PHONY: help setup compare test test-all families faults lint example parity peers bench audit clean

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(READY) ## A virtual environment with the tested versions

# torch comes first and by its exact version: a range would fetch gigabytes of CUDA packages on a CPU machine.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

compare: $(READY) ## The built-in task: three algorithms, three seeds, a report
	$(BIN)/python run_compare.py $(ARGS)
	@echo "To type the commands above: . $(BIN)/activate"

# A file's tests on one worker: what its fixtures make is then made once.
test: $(READY) ## The everyday tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-all: $(READY) ## Every test, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m 'not parity and not faults'

families: $(READY) ## Every family of models through the whole engine; writes the table in docs/models.md
	OMP_NUM_THREADS=1 FAMILIES_TABLE=docs/models.md $(BIN)/python -m pytest tests/test_algos_families.py -m 'families or not families'

faults: $(READY) ## Kills, failing disks and damaged files, an hour or more; the figures in docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m faults tests/test_eval_resume.py tests/test_eval_directory_integrity.py tests/test_security_schemas.py

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

STORED = Stored without its runs: read it; it cannot be resumed or its policies loaded.

example: $(READY) ## Remakes reports/example, the report that is kept with the code
	rm -rf reports/example
	$(BIN)/python run_compare.py --seeds 5 --out reports/example
	# What is kept with the code is the report and its numbers: under 3 MB.
	cd reports/example && rm -rf runs base frontier materials matches.json sources.json .locks figures/*.svg
	cd reports/example && awk -v said="$(STORED)" '{ print } NR == 1 { print "\n" said }' report.md > kept && mv kept report.md
	cd reports/example && awk -v said="$(STORED)" '/^<\/header>/ { print "<p class=\"note\">" said "</p>" } { print }' report.html > kept && mv kept report.html

peers: $(PEERS)/.ready ## An environment of its own with the last TRL that had PPO

# Its other packages are those of constraints.txt, where TRL is another version.
$(PEERS)/.ready: peers/requirements.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	grep -v '^trl==' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install --quiet --constraint $(PEERS)/constraints.txt torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --constraint $(PEERS)/constraints.txt --requirement peers/requirements.txt
	touch $@

$(VENV)/.parity: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,parity]'
	touch $@

parity: $(VENV)/.parity $(PEERS)/.ready ## Every formula against other people's; writes docs/parity.md
	PEERS=$(PEERS) PARITY_TABLE=docs/parity.md $(BIN)/python -m pytest tests/parity -m parity

bench: $(READY) $(PEERS)/.ready ## Seconds and memory beside TRL, and of whole comparisons; writes docs/benchmarks.md
	PEERS=$(PEERS) $(BIN)/python -m benchmarks.trainers $(ARGS)
	$(BIN)/python -m benchmarks.comparison

audit: ## Known vulnerabilities of the tested versions, where the package index can tell
	$(PYTHON) -m venv $(AUDIT)
	-$(AUDIT)/bin/python -m pip install --quiet pip-audit
	$(AUDIT)/bin/python .ci/audit.py

clean: ## Removes what the targets made, reports/example aside
	rm -rf $(VENV) $(PEERS) $(AUDIT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find reports -mindepth 1 -maxdepth 1 ! -name example -exec rm -rf {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
