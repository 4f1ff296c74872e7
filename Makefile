# Two commands for everybody: `make demo` and `make test`. Each sets up what it needs by itself (.ci/setup).

BIN := .venv/bin
# What finds more the longer it runs; `make soak` runs it with many more examples, and with what is marked slow.
SOAKED := tests/properties tests/faults tests/psf/test_session_machine.py tests/executors/test_cancelling.py tests/e2e/test_crash.py

# So many processes share the tests; what looks at the whole machine is in one of them (tests/conftest.py).
TESTERS := 2

.PHONY: help setup demo test check fmt lint type soak bench lock clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.stamp ## make the virtual environment

.venv/.stamp: requirements.lock pyproject.toml .ci/setup
	@.ci/setup

demo: .venv/.stamp ## show the main things, on a server of its own
	@$(BIN)/psf demo

test: .venv/.stamp ## run the tests
	@$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadgroup

soak: .venv/.stamp ## run the long batteries
	@HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -m "slow or not slow" --timeout 3600 $(SOAKED)

bench: .venv/.bench ## measure the store beside git, restic, borg and tar, and sandboxes beside bare programs
	@$(BIN)/python benchmarks/store.py --full
	@$(BIN)/python benchmarks/sandboxes.py --full

.venv/.bench: .venv/.stamp benchmarks/requirements.lock
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps --only-binary :all: \
		-r benchmarks/requirements.lock
	@touch $@

check: lint type ## everything that can be said without running the tests

lint: .venv/.stamp ## format, lint rules and layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

type: .venv/.stamp ## mypy
	@$(BIN)/mypy

fmt: .venv/.stamp ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## choose anew the versions in requirements.lock (needs uv)
	$(or $(UV),uv) pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-header --extra dev \
		--python-version 3.11 pyproject.toml --output-file requirements.lock
	$(or $(UV),uv) pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-header --extra bench \
		--constraint requirements.lock --python-version 3.11 pyproject.toml --output-file benchmarks/requirements.lock

clean: ## remove what set-up and tests made
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
