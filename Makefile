# Every target is one line of scripts/dev.py, which also runs alone: python scripts/dev.py demo
PYTHON ?= python3
ARGS ?=

.PHONY: demo install test test-slow test-gpu check bench clean

demo install test test-slow test-gpu check bench:
	@$(PYTHON) scripts/dev.py $@ $(ARGS)

# what tools left behind; data sets, runs and .venv stay
clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
