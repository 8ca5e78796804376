# Two commands do everything: `make demo` and `make test`. Both make the environment first.
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# Minutes each; losses.py, models.py, gpu.py and exhaustive are asked for by name.
BENCHMARKS ?= products step memory devices shares gas chain network
# Twice the cores: tests of networks mostly wait for blocks.
WORKERS ?= $$($(BIN)/python -c 'import os; print(2 * (os.cpu_count() or 1))')

.PHONY: demo test lint types imports slither mutants artifacts wheel bench exhaustive soak adversary fuzz clean help

help:
	@echo "make demo    the whole network on this machine (make demo ARGS='--rounds 3')"
	@echo "make test    the tests (make test ARGS='-k merkle')"
	@echo "make lint types imports    what CI checks besides"
	@echo "make slither    Slither over the contracts: fails on a finding that nobody answered (needs Node.js)"
	@echo "make mutants    break the contracts and see which tests notice (make mutants ARGS='clerk --count 50')"
	@echo "make artifacts    recompile the contracts (needs Node.js)"
	@echo "make wheel    build the wheel from the sdist and use it outside the repository"
	@echo "make bench    the benchmarks of minutes (make bench BENCHMARKS=step)"
	@echo "make exhaustive    every function of the engine at every float32 (make exhaustive ARGS='--function exp')"
	@echo "make soak    a network under a thousand faults (make soak ARGS='--rounds 5 --faults 50')"
	@echo "make adversary    every way to cheat, and who loses how much (make adversary ARGS='--attack \"one ulp\"')"
	@echo "make fuzz    a million hostile Programs (make fuzz ARGS='--seed 2'), then the contracts', for hours"

demo:
	@VENV=$(VENV) tools/setup.sh
	@$(BIN)/cupel demo $(ARGS)

# Test processes are many: none should compile again what another has compiled.
test: export PYTHONDONTWRITEBYTECODE =
test:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types:
	@VENV=$(VENV) tools/setup.sh dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/link_tree.sh
	@MYPYPATH=build/types $(BIN)/python -m mypy -p cupel

imports:
	@VENV=$(VENV) tools/setup.sh dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/link_tree.sh
	@PYTHONPATH=build/types $(BIN)/lint-imports

slither:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python contracts/analyse.py

mutants:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python contracts/mutate.py $(or $(ARGS),court)

artifacts:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python contracts/compile.py

wheel:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python tools/check_wheel.py

bench:
	@VENV=$(VENV) tools/setup.sh dev
	@for b in $(BENCHMARKS); do echo "== $$b"; $(BIN)/python benchmarks/$$b.py || exit 1; done

fuzz:
	@VENV=$(VENV) tools/setup.sh dev
	@$(BIN)/python tests/fuzz_program.py $(ARGS)
	@FOUNDRY_PROFILE=long contracts/forge-test

exhaustive:
	@VENV=$(VENV) tools/setup.sh dev
	@PYTHONPATH=benchmarks $(BIN)/python -m exhaustive --output benchmarks/results/exhaustive.txt $(ARGS)

soak:
	@VENV=$(VENV) tools/setup.sh dev
	@PYTHONPATH=benchmarks:tests $(BIN)/python -m soak --output benchmarks/results/soak.txt $(ARGS)

adversary:
	@VENV=$(VENV) tools/setup.sh dev
	@PYTHONPATH=benchmarks:tests $(BIN)/python -m adversary --output benchmarks/results/adversary.txt $(ARGS)

clean:
	rm -rf build dist *.egg-info cupel-demo
