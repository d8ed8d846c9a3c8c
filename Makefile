# Every target sets up what it needs: nothing but Python 3.11 has to be there.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
READY = .venv/.ready
OLDEST = .venv-oldest
PROCESSES ?= 4
MINUTES ?= 10
ULTRALYTICS ?= .venv-ultralytics
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0
EXPORTED ?= exported
TEST = -m pytest --numprocesses $(PROCESSES) --dist worksteal  # one thread each (tests/conftest.py); more than two, as some wait

.PHONY: help setup demo test test-slow test-ray test-export test-oldest fuzz kill check benchmark benchmark-runtimes benchmark-minutes clean

help:
	@echo "make demo       train a TinySSD on the built-in pictures, measure it, draw what it finds (about 5 minutes)"
	@echo "make test       run the tests            make test-slow  run the long ones too   (both: PROCESSES=4)"
	@echo "make test-oldest run the tests with the oldest versions of all that pyproject.toml names"
	@echo "make test-ray   batch work on Ray clusters of two nodes on this machine: workers, nodes and drivers killed"
	@echo "make test-export compare exported files of every family with their models on 50 real pictures"
	@echo "make fuzz       give every reader broken input for FUZZ_SECONDS=60 each, from FUZZ_SEED=0"
	@echo "make kill       kill workers, runs, ranks and predictions at random moments"
	@echo "make check      lint and types           make benchmark  time us against torchvision"
	@echo "make benchmark-runtimes  the same with every runtime, files kept in EXPORTED=exported (15 minutes, and the exports)"
	@echo "make benchmark-minutes DATA=FOLDER  compare what is trained in MINUTES=10 minutes with YOLO and torchvision (45 minutes)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onestage needs Python 3.11 or later: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing torch and the rest into .venv: about 7 GB, some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)

demo: $(READY)
	$(BIN)/onestage demo --out demo

test: $(READY)
	$(BIN)/python $(TEST)

test-export: $(READY)  # of fewer pictures: EXPORT_PICTURES=10
	$(BIN)/python -m pytest tests/unit/deploy/test_same_boxes.py -m slow -s

test-slow: $(READY)
	$(BIN)/python $(TEST) -m "not ray" --timeout 1800

test-ray: $(READY)  # one after another: each cluster takes the machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'ray[data]'
	$(BIN)/python -m pytest tests/unit/scale -m ray --timeout 900

$(OLDEST)/.ready: pyproject.toml .ci/oldest.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(PYTHON) .ci/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	touch $@

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python $(TEST)

fuzz: $(READY)
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python $(TEST) tests/fuzz -m "slow or not slow" --timeout 0 -rP

kill: $(READY)
	$(BIN)/python -m pytest tests/kill -m "slow or not slow" --timeout 0 -s

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(READY)
	$(BIN)/python benchmarks/postprocess.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/training.py

benchmark-runtimes: $(READY)  # files, int8 too, are made once and kept in EXPORTED: take another folder after an update
	$(BIN)/python benchmarks/inference.py --runtimes torch onnxruntime openvino ncnn --precision fp32 int8 \
	    --repeats 12 --files $(EXPORTED) --json $(EXPORTED)/runtimes.json

$(ULTRALYTICS)/bin/yolo:  # a separate program under the AGPL, in a separate environment
	$(PYTHON) -m venv $(ULTRALYTICS)
	$(ULTRALYTICS)/bin/python -m pip install --quiet --disable-pip-version-check ultralytics

benchmark-minutes: $(READY) $(ULTRALYTICS)/bin/yolo
	$(BIN)/python benchmarks/time_to_accuracy.py $(DATA) --minutes $(MINUTES) --ultralytics $(ULTRALYTICS)/bin/python --json minutes.json

clean:
	rm -rf .venv $(OLDEST) .venv-ultralytics demo runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/onestage.egg-info
