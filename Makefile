# Coldframe's commands. `make up` and `make test` set up all that they need.

PYTHON ?= python3
STATE := $(or $(COLDFRAME_STATE_DIR),.coldframe)
P ?=
PY := .venv/bin/python
UV := uv==0.13.9

# Driver local: the Python of user code is made beside ours, at the same time.
LOCAL_PYTHON := --for-others $(STATE)/local-python=container/sandbox/user-requirements.txt
WITH_LOCAL_PYTHON := $(if $(COLDFRAME_LOCAL_PYTHON),,$(if $(filter local,$(COLDFRAME_DRIVER)),$(LOCAL_PYTHON)))

.PHONY: help up node certificates down status logs engine image services-image key check test bench lock clean python environment dev-environment

help:
	@echo "make up        start the platform on this machine, then a short tour"
	@echo "make node      make this machine a node of a platform that is up elsewhere"
	@echo "make certificates    what nodes and web show each other (make certificates FOR=node-2)"
	@echo "make down      end it: programs and sandboxes; data, key and image stay"
	@echo "make status    what runs, where, and how it is"
	@echo "make logs      follow the logs (make logs P=web: of one program)"
	@echo "make engine    install and start a Docker engine (root, Debian)"
	@echo "make image     add an image of your own (make image NAME=mine FROM=path/of/Dockerfile or archive)"
	@echo "make key       an API key for somebody (make key OWNER=alice SCOPES=read,run)"
	@echo "make services-image   build the image of docker-compose.yml, without a registry too"
	@echo "make check     format, lint, types, imports, unit tests: under a minute"
	@echo "make test      all tests, with all that they need"
	@echo "make chaos     kill at random what runs, and count (SEED=7 ROUNDS=1000)"
	@echo "make bench     measure, and print a table"
	@echo "make lock      pin the dependencies of pyproject.toml anew"
	@echo "make clean     make down, and forget data, key and image"

up: environment
	@$(PY) -m stack up

node: environment
	@$(PY) -m stack node

certificates: environment
	@$(PY) -m stack certificates $(FOR)

# Without an environment there never was a platform here.
down status clean:
	@if [ -x $(PY) ]; then $(PY) -m stack $@; else echo "Nothing is set up here."; fi

logs:
	@if [ -x $(PY) ]; then $(PY) -m stack logs $(P); else echo "Nothing is set up here."; fi

engine: environment
	@$(PY) -m container.engine --state-dir $(STATE)

image: environment
	@$(PY) -m container.image --state-dir $(STATE) add "$(NAME)" "$(FROM)"

key: environment
	@$(PY) -m web create-key --owner "$(OWNER)" --scopes "$(or $(SCOPES),read,run)"

services-image: environment
	@$(PY) -m container.services_image

check: dev-environment
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pytest -q tests/unit

# Where Docker or bubblewrap cannot be had, the tests that need them are skipped; in CI they fail.
test: export COLDFRAME_TEST_PYTHON ?= $(abspath $(STATE)/local-python/bin/python)
test: dev-environment
	@$(PYTHON) -m stack.environment $(LOCAL_PYTHON)
	COLDFRAME_DRIVER=docker $(PY) -m stack prepare || [ -z "$$CI" ]
	COLDFRAME_DRIVER=local $(PY) -m stack prepare || [ -z "$$CI" ]
	$(PY) -m tests.postgres_server || [ -z "$$CI" ]
	$(PY) .ci/run_tests.py

# A platform and a Docker engine of its own; nothing else on the machine is touched.
chaos: dev-environment
	@$(PY) -m tests.chaos

bench: dev-environment
	@$(PYTHON) -m stack.environment $(STATE)/jupyter=bench/jupyter-requirements.txt
	@$(PY) -m bench

# A pin moves only where pyproject.toml makes it; `make lock UPGRADE=--upgrade` moves them all.
lock: python
	tool=$$(mktemp -d) && trap 'rm -rf "$$tool"' EXIT \
	&& $(PYTHON) -m venv "$$tool" && "$$tool/bin/pip" install --quiet "$(UV)" \
	&& compile="$$tool/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE)" \
	&& $$compile pyproject.toml -o requirements.txt \
	&& $$compile --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt

environment: python
	@mkdir -p -m 711 $(STATE)
	@$(PYTHON) -m stack.environment .venv=requirements.txt $(WITH_LOCAL_PYTHON)

dev-environment: python
	@mkdir -p -m 711 $(STATE)
	@$(PYTHON) -m stack.environment .venv=requirements-dev.txt

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Coldframe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=python3.12 up" >&2; exit 1; }
