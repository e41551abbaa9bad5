# Everything runs in a virtual environment of the project's own: no activation needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := $(VENV)/.demo
export OMP_NUM_THREADS ?= 2

.PHONY: help setup demo docs pictures test test-slow lint format clean bench-lipschitz bench-exact bench-local bench-cost bench-resnets bench-certify bench-attacked bench-descent bench-knowledge bench-models bench-text bench-edits text-page

help:
	@echo "make setup      create $(VENV) and install holdfast with its development tools"
	@echo "make demo       install what it needs, and audit the two built-in models: runs/demo/report.html"
	@echo "make docs       the documentation as a site: runs/docs/index.html"
	@echo "make pictures   draw the pictures of the documentation, and run its notebooks, again"
	@echo "make test       the tests that every commit must pass"
	@echo "make test-slow  the long ones: coverage, fuzzing, attacks"
	@echo "make lint       ruff and pyright"
	@echo "make bench-lipschitz  bounds of the reference nets beside their peers; parts of it:"
	@echo "make bench-exact, bench-local  exact constants; bounds on balls"
	@echo "make bench-cost   seconds and memory against width and depth, with a picture"
	@echo "make bench-resnets  brackets of residual nets with batch norm, and radii beside auto_LiRPA"
	@echo "make bench-certify  certified radii beside auto_LiRPA, where it is installed"
	@echo "make bench-attacked   certificates attacked by the thousand on aligned nets"
	@echo "make bench-descent   what a monitor costs a training run"
	@echo "make bench-knowledge  the pass over pairs beside a plain one and the authors' script"
	@echo "make bench-models   everyday models, and the files of HOLDFAST_MODELS: answers and refusals"
	@echo "make bench-text   knowledge continuity of a model of text, trained with and without the penalty"
	@echo "make bench-edits   certified edits of texts by smoothing, attacked, on SST-2 and AG News"
	@echo "make text-page   train a model of text and make its audit page: runs/text/page/report.html"
	@echo "make format     let ruff write the formatting"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Less than half of what the tests need, where nothing was installed before.
$(DEMO): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $(DEMO)

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO))
	$(BIN)/holdfast audit --out runs/demo

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build

pictures: $(STAMP)
	$(BIN)/python -m scripts.pictures docs/pictures
	$(BIN)/python -m scripts.gallery docs/gallery

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-lipschitz: $(STAMP)
	$(BIN)/python -m benchmarks.lipschitz

bench-exact bench-local bench-cost bench-resnets bench-certify bench-attacked bench-descent bench-knowledge bench-models bench-text bench-edits: bench-%: $(STAMP)
	$(BIN)/python -m benchmarks.$*

text-page: $(STAMP)
	$(BIN)/python -m benchmarks.text_page

clean:
	rm -rf $(VENV) runs .cache .pytest_cache .ruff_cache .hypothesis
