# make demo   the whole of RB-FT on synthetic clips, on a CPU (SEEDS=5 for more draws)
# make test   the tests, without network, GPU or Hub
# make test-all   these and the slow ones: the whole matrix of engines, every fault at several points
# make evidence   everything that is claimed of the toy domains (hours; DRAWS=10); make tables reads results/ alone
# make lint   ruff over every Python folder
# make base   trains the small base of the toy domain again
PYTHON ?= python3
SEEDS ?= 1
DRAWS ?= 10
VENV := .venv
RUN := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(VENV)/bin/python

.PHONY: demo evidence tables test test-all lint base clean

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(RUN) toy/clips.py
	$(RUN) rbft_trl/compare.py recipes/toy/compare.yaml --seeds $(SEEDS)

evidence: $(VENV)/.installed
	$(RUN) toy/evidence.py --seeds $(DRAWS)

tables: $(VENV)/.installed
	$(RUN) toy/evidence.py --tables

test: $(VENV)/.installed
	$(RUN) -m pytest -n 2 --dist loadfile

test-all: test
	$(RUN) -m pytest -m slow

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

base: $(VENV)/.installed
	$(RUN) toy/pretrain.py
	$(RUN) toy/measure.py

clean:
	rm -rf outputs build *.egg-info
