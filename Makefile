# Two commands do everything on a fresh machine: `make run` and `make test`.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3.10 || echo python3)
STAMP := $(VENV)/.installed
TYPED := .cache/typing/plait
ROOMS := ir frontends passes backends predictors

.PHONY: run test test-slow lint format bench coverage tables clean

run: $(STAMP)
	$(BIN)/python bench/main_job.py resnet18 --show --json build/main_job.json

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: $(STAMP) $(TYPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.cache/typing $(BIN)/mypy --strict --follow-imports=silent -p plait.ir
	MYPYPATH=.cache/typing $(BIN)/mypy -p plait.api -p plait.__main__ $(ROOMS:%=-p plait.%)
	MYPYPATH=.cache/typing:bench $(BIN)/mypy $(patsubst bench/%.py,-m %,$(wildcard bench/*.py))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make bench DATA=FOLDER also compares the roofline with measured rows kept in FOLDER.
bench: $(STAMP)
	$(BIN)/python bench/ir_scaling.py
	$(BIN)/python bench/main_job.py
	$(BIN)/python bench/cpu_inference.py
	$(BIN)/python bench/emulate_models.py
	$(BIN)/python bench/mutate_kernels.py --limit 130
	$(if $(DATA),$(BIN)/python bench/roofline_vs_measured.py $(DATA))
	$(BIN)/python bench/tables.py

# What the frontends cover, on suites that others wrote: hours on two cores.
coverage: $(STAMP)
	$(BIN)/python bench/coverage_onnx.py
	$(BIN)/python bench/coverage_aten.py
	$(BIN)/python bench/coverage_keras.py
	$(BIN)/python bench/coverage_transformers.py
	$(BIN)/python bench/coverage_dgl.py
	$(BIN)/python bench/fuzz.py
	$(BIN)/python bench/tables.py

tables: $(STAMP)
	$(BIN)/python bench/tables.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tensorflow,test,bench,dev]'
	touch $(STAMP)

# mypy finds a package by its folder's name; the root of this one may be called anything.
$(TYPED):
	mkdir -p .cache/typing
	ln -sfn ../.. $(TYPED)

clean:
	rm -rf $(VENV) .cache build *.egg-info
