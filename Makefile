# make study: the whole study on the default profile. make test: everything that is checked. Nothing else is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= ml-100k
PIP_FLAGS ?=
BIN := .venv/bin
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 DPO4REC_TEST_STUDY=build/study

.PHONY: study test test-all long gpu kill report lab slides setup doctor bench clean
study: setup
	$(BIN)/python -m dpo4rec_utils study --profile $(PROFILE)

# Two processes of one thread each: on two cores that is faster than one of two. A GPU has tests of its own.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: test long

# What takes longer: solutions of the exercises, controls in a browser and kills, on the smoke study that `make test` has left.
long: setup
	CUDA_VISIBLE_DEVICES= $(OFFLINE) $(BIN)/python -m pytest -m long

# What differs where there is a CUDA device.
gpu: setup
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "There is no CUDA device.")'
	$(OFFLINE) $(BIN)/python -m pytest tests/gpu

# The whole study on smoke-controls, killed at 20 moments and resumed, against an undisturbed one: about half an hour.
kill: setup
	$(OFFLINE) $(BIN)/python -m pytest tests/kill/test_smoke.py -m kill -s

# Every table, figure, report and page again, from the committed records alone.
report: .venv/.ready
	$(BIN)/python -m dpo4rec_utils report

lab: .venv/.ready
	$(BIN)/jupyter lab $(LAB_FLAGS) --LabApp.default_url=/lab/tree/START.md

# The executed walkthrough as slides: sections to the right, their parts downwards. The page fetches reveal.js when it is opened.
slides: .venv/.ready
	$(BIN)/jupyter nbconvert --to slides --no-input --SlidesExporter.reveal_scroll=True --output-dir build results/ml-100k/notebooks/00_walkthrough.ipynb

doctor: setup
	$(BIN)/python -m dpo4rec_utils doctor

bench: setup
	$(BIN)/python benchmarks/run.py

# The seconds of a first set-up stand in .venv/setup_seconds until a study records them. Reading needs no assets.
setup: .venv/.ready .venv/.assets
	@$(BIN)/python -m dpo4rec_utils assets

.venv/.assets: .venv/.ready
	@date +%s > .venv/assets_began
	$(BIN)/python -m dpo4rec_utils assets
	@echo $$(( $$(cat .venv/.ready) + $$(date +%s) - $$(cat .venv/assets_began) )) > .venv/setup_seconds
	@touch $@

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	@date +%s > .venv/setup_began
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -c 'from dpo4rec_utils.execute import install_kernel, show_pages_rendered; install_kernel(); show_pages_rendered()'
	@echo $$(( $$(date +%s) - $$(cat .venv/setup_began) )) > $@

# Keeps results/ and the asset cache; removes the environment and every intermediate artefact.
clean:
	rm -rf .venv runs build *.egg-info
