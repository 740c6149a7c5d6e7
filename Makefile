# Every target is one line of scripts/dev.py, which also runs alone: python scripts/dev.py demo
PYTHON ?= python3
ARGS ?=

.PHONY: demo install test test-slow test-gpu check bench mutants clean

demo install test test-slow test-gpu check bench:
	@$(PYTHON) scripts/dev.py $@ $(ARGS)

# make mutants rows=CEUS-P; the words are those of tests/mutants.py
WORDS = rows list ids changed share minutes again write jobs seconds
mutants:
	@$(PYTHON) scripts/dev.py $@ $(ARGS) $(foreach word,$(WORDS),$(if $(filter command,$(firstword $(origin $(word)))),$(word)=$($(word))))

# what tools left behind; data sets, runs and .venv stay
clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .mutants
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
