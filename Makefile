# make demo [GUEST=x86_64]   boot a guest, serve its network card, fetch files over IPv4 and IPv6
# make test                  everything: unit, property, interoperation and guest tests; then all but the last two on the other Pythons
# make bench                 the benchmarks, with the peers where they can be had
# make sanitize              the tests of the data plane and the devices against an ASan and UBSan build
# make conformance [PYTHON=3.13]   CPython's own socket tests on our sockets, those of the version named
# make lint                  import layers, C warnings as errors
# Each sets the machine up first and says what it installs: Python packages go into .venv, system packages through apt.

PYTHON ?= python3
VENV ?= .venv
GUEST ?= aarch64
JOBS ?= 2
PYTEST_ARGS ?=

SANITIZED_TESTS ?= tests/unit/dataplane tests/unit/device tests/stack/test_lending.py tests/property/test_lending.py tests/guest/test_qtest.py

SETUP = $(PYTHON) examples/lab/setup_host.py --venv $(VENV)

.PHONY: demo test bench conformance lint sanitize clean

demo:
	$(PYTHON) examples/demo.py --guest $(GUEST)

# Tests that share something (guests, CPU time) carry the same xdist_group and so run one after another.
test:
	$(SETUP) --for test
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)
	$(PYTHON) examples/lab/pythons.py --jobs $(JOBS) $(PYTEST_ARGS)

bench:
	$(SETUP) --for bench
	$(VENV)/bin/python benchmarks/run.py
	$(VENV)/bin/python benchmarks/linux_goodput.py
	$(VENV)/bin/python benchmarks/http_requests.py

# PYTHON may be a version here: that interpreter, found on the PATH or among pyenv's, gets a .venv of its own.
VERSION = $(filter 3.%,$(PYTHON))
FOUND = $(if $(VERSION),$(shell python3 examples/lab/pythons.py --find $(VERSION)),$(PYTHON))
conformance: VENV := $(if $(VERSION),.venv-$(VERSION),$(VENV))
conformance:
	$(or $(FOUND),false) examples/lab/setup_host.py --venv $(VENV) --for test
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup tests/conformance/cpython $(PYTEST_ARGS)

lint:
	$(SETUP) --for test
	$(VENV)/bin/lint-imports
	$(CC) -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fsyntax-only vhost/*.c

# Built apart, so that no object of the ordinary build is taken for a sanitized one.
SANITIZED = build/sanitized
sanitize:
	$(SETUP) --for test
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r src vhost setup.py setup.cfg pyproject.toml README.md $(SANITIZED)/
	rm -f $(SANITIZED)/src/swos_net/_dataplane*
	cd $(SANITIZED) && SWOS_NET_SANITIZE=1 SWOS_NET_WARNINGS_AS_ERRORS=1 $(abspath $(VENV))/bin/python setup.py -q build_ext --inplace
	PYTHONPATH=$(SANITIZED)/src LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 $(VENV)/bin/python -m pytest -q $(SANITIZED_TESTS)

# Fetched guests stay in the cache folder (~/.cache/swos_net/lab or $$SWOS_NET_CACHE).
clean:
	rm -rf $(VENV) .venv-3.* .tox build dist *.egg-info src/*.egg-info .pytest_cache .hypothesis .import_linter_cache
	rm -f src/swos_net/_dataplane*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
