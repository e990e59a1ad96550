# On a fresh machine, python3 and make are the only requirements. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TOOLS  := build/tools/bin
WORKERS ?= 2
CONTENT ?= photos
STYLE   ?= paintings
PAIRS   ?= 50
SIZE    ?= 256
SECONDS ?= 120
FOLDER  ?= runs/zoo
MUTANTS ?= 200
REFERENCE ?= adain.public
NAME    ?= here
VERSIONS ?= lowest
OTHER    := build/versions/$(VERSIONS)-$(notdir $(PYTHON))
INSTALL_lowest := --resolution lowest-direct -e .
INSTALL_newest := --upgrade -e ".[dev]"
INSTALL_plain  := --constraint constraints.txt -e .
WEB     ?= build/web
ORT_WEB := 1.30.0
# Without bytecode, each process that imports PyTorch and Lightning compiles them first, which triples the time it takes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow browser test-long test-versions test-portable fuzz mutants notebooks results benchmark \
  train-zoo docs licenses sbom audit wheel lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## set up the virtual environment in .venv (all other targets do so, once)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## train a SANet without data or network, then stylize images with it (minutes on a CPU)
	rm -rf demo/quickstart demo/stylized
	$(BIN)/python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml
	$(BIN)/python -m stylezoo stylize --model demo/quickstart/checkpoints/last.ckpt --output demo/stylized \
	  --content "demo/synthetic/photos-*/0000[0125].png" --size 384 \
	  --style "demo/synthetic/paintings-*/000[01][023].png" --style_size 192
	@echo
	@echo "Stylized images:    $(CURDIR)/demo/stylized"
	@echo "Their styles:       $(CURDIR)/demo/synthetic"
	@echo "Training progress:  $(CURDIR)/demo/quickstart/images and metrics.csv"

test: $(READY)  ## run the tests in two processes (WORKERS=8 on a larger machine)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## run the tests that take five seconds or more each, which every change must pass, too
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

browser:  ## install what the tests of web pages need: Chromium (Debian, as root) and onnxruntime-web (npm)
	command -v chromium chromedriver > /dev/null || (apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium chromium-driver)
	npm install --prefix $(WEB) --no-audit --no-fund --silent onnxruntime-web@$(ORT_WEB)

# Only files with such tests: those of the page and of engines alone take longer to import than many of these tests.
NUMERICAL = $(shell grep -lrE --include="test_*.py" "numerical|parity" tests)

test-long: $(READY)  ## run what takes too long for every change: training steps of every system compiled, 100 examples of each property
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope -m long
	STYLEZOO_EXAMPLES=100 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal tests/test_properties.py

test-versions: $(TOOLS)/uv  ## run the tests with other versions: make test-versions PYTHON=python3.10 VERSIONS=lowest (or newest, plain)
	$(TOOLS)/uv venv --quiet --allow-existing --python "$(PYTHON)" $(OTHER)
	$(TOOLS)/uv pip install --quiet --python $(OTHER)/bin/python $(INSTALL_$(VERSIONS))
	$(TOOLS)/uv pip install --quiet --python $(OTHER)/bin/python pytest pytest-xdist hypothesis
	$(TOOLS)/uv pip freeze --python $(OTHER)/bin/python > $(OTHER)/versions.txt
	$(OTHER)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long"

test-portable: $(READY)  ## run the numerical tests as on a processor without AVX, which sums in another order
	STYLEZOO_TEST_CPU=baseline $(BIN)/python -m pytest --numprocesses $(WORKERS) -m numerical -k "not float64" $(NUMERICAL)

# Prints its seed, and where the smallest input is that fails; SEED=... repeats it.
fuzz: $(READY)  ## break files, recipes and options on purpose for SECONDS=120 seconds: one sentence each, and nothing lost
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

$(TOOLS)/mutmut: | $(TOOLS)/pip-licenses
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1

# SEED=1 draws others, FILES="stylezoo/losses.py stylezoo/inference" those of some files; see tools/mutants.py.
mutants: $(READY) $(TOOLS)/mutmut  ## change the code a little, MUTANTS=200 times, and count the changes that no test notices
	$(TOOLS)/python tools/mutants.py draw --number $(MUTANTS) $(if $(SEED),--seed $(SEED)) $(if $(FILES),--files $(FILES))
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py test

notebooks: $(READY)  ## run the notebooks side by side (minutes on a CPU)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --nbmake --nbmake-timeout=600 notebooks

# Folders of photos (CONTENT) and paintings (STYLE); optionally of public weight files (WEIGHTS), of StyleID's
# images (BENCHMARK) and of images of the styles that models were trained on (TRAINED). SPLIT="val test" evaluates on images
# that training on these folders leaves out, with ratios to the model REFERENCE. FORCE=1 measures everything again.
results: $(READY)  ## measure all models on this machine: make results CONTENT=photos STYLE=paintings WEIGHTS=public
	$(BIN)/python tools/update_results.py --content "$(CONTENT)" --style "$(STYLE)" --pairs $(PAIRS) --size $(SIZE) \
	  $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(BENCHMARK),--benchmark "$(BENCHMARK)") \
	  $(if $(TRAINED),--trained "$(TRAINED)") $(if $(SPLIT),--split $(SPLIT)) --reference "$(REFERENCE)" $(if $(FORCE),--force)
	$(BIN)/python tools/reproduction.py

# Hours on a CPU; it resumes where it was stopped, and MINUTES=15 stops it. NAME is the folder in benchmarks/results.
benchmark: $(READY)  ## measure the speed and memory of all systems and engines: make benchmark NAME=my_machine
	$(BIN)/python benchmarks/inference.py --output "benchmarks/results/$(NAME)" $(if $(MINUTES),--minutes $(MINUTES))

# One core for hours or days; it resumes where it was stopped. OVERLAY holds your data and weight files (tools/train_zoo.py).
train-zoo: $(READY)  ## train the models that ship, one turn after another: make train-zoo OVERLAY=data.yaml FOLDER=runs/zoo
	OMP_NUM_THREADS=1 $(BIN)/python tools/train_zoo.py --folder "$(FOLDER)" --overlay $(OVERLAY) --content "$(CONTENT)" \
	  --style "$(STYLE)" --reference "$(REFERENCE)" $(if $(ENCODER),--encoder_weights "$(ENCODER)")

docs: $(READY)  ## build the documentation site in site/, which fails on any warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

$(TOOLS)/pip-licenses:
	$(PYTHON) -m venv build/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check pip-licenses cyclonedx-bom pip-audit

$(TOOLS)/uv: | $(TOOLS)/pip-licenses
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check uv

licenses: $(READY) $(TOOLS)/pip-licenses  ## list the licenses of all installed packages in build/licenses.md
	$(TOOLS)/pip-licenses --python=$(BIN)/python --format=markdown --output-file=build/licenses.md

sbom: $(READY) $(TOOLS)/pip-licenses  ## write a bill of materials of all installed packages, build/sbom.json (CycloneDX)
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.json $(BIN)/python

audit: $(READY) $(TOOLS)/pip-licenses  ## look for known vulnerabilities of the installed versions, over the network
	$(BIN)/python -m pip freeze --exclude-editable > build/installed.txt
	$(TOOLS)/pip-audit --requirement build/installed.txt --no-deps --disable-pip

wheel: $(READY)  ## build the wheel, the same bytes for the same commit, in dist/
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel . --no-deps --quiet --wheel-dir dist

lint: $(READY)  ## check style, types, and imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the files of the other targets
	rm -rf $(VENV) demo build *.egg-info
