# The targets people meet; `make help` lists them.
VENV   := .venv
PYTHON := $(VENV)/bin/python
UV     := uv==0.13.9
N      := 100000

# What the tests drive beside our own processes. Without one of them the tests that need it skip and say so.
PACKAGES := python3-venv openssh-server openssh-client putty-tools dropbear-bin lftp rsync git sshfs ansible-core \
            curl xauth strace libfaketime nodejs npm expect tmux systemd libvterm0 slapd ldap-utils freeradius softhsm2 \
            samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules iproute2 gcc libc6-dev libssl-dev

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: help setup demo run packages test check e2e mutants bench fuzz vectors lock deb
help:      ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(VENV)/.ready   ## .venv from the lock file, with the system's Python

# Without uv (no wheel for this platform) pip takes the same versions, each checked against its hash.
$(VENV)/.ready: uv.lock pyproject.toml requirements.txt
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "python3-venv is missing: sudo apt install python3-venv" >&2; exit 1; }
	@rm -f $@
	python3 -m venv $(VENV)
	if $(VENV)/bin/pip install --quiet --disable-pip-version-check '$(UV)'; then \
	  $(VENV)/bin/uv sync --quiet --frozen --all-groups --inexact --python $(PYTHON); \
	else \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt && \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	@touch $@

demo: setup   ## a bastion and a target on loopback, driven with the system's ssh; everything in ./demo
	$(PYTHON) -m bastion.demo ./demo

run: setup   ## the same bastion and target, staying up for you to try
	$(PYTHON) -m bastion.demo ./demo --stay

packages:   ## install what the tests drive (apt, as root or with sudo), or name what is missing
	@missing=$$(for name in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || echo $$name; done); \
	if command -v node >/dev/null && command -v npm >/dev/null; then \
	  missing=$$(echo "$$missing" | grep -vxE 'nodejs|npm'); \
	fi; \
	missing=$$(echo $$missing); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else \
	  echo "not installed, tests that need them will skip: sudo apt install $$missing" >&2; exit 0; fi; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

test: packages check e2e mutants   ## everything that shows the project works
	@echo "all tests passed"

check: setup   ## format, lint, types, import contracts, unit tests: what CI runs first
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PYTHON) -m pytest -q -n 4 --dist worksteal --maxfail 30 -m 'not e2e'

e2e: setup   ## real clients and servers through a running bastion
	$(PYTHON) -m pytest -q -n 3 --dist loadgroup --maxfail 30 -m e2e

mutants: setup   ## remove each guard of the lists in tests/mutation: a named test must fail
	$(PYTHON) -m tests.mutation

bench: setup   ## the figures of the README, measured on this machine
	$(PYTHON) -m tests.bench --markdown build/bench.md
	$(PYTHON) -m tests.bench.recording --markdown build/bench-recording.md

fuzz: setup   ## N=... inputs at every parser of bytes from outside
	$(PYTHON) -m tests.fuzz $(N)

vectors: setup   ## write the test vectors of the recording format again, and show what changed
	$(PYTHON) -m tests.vectors
	git diff --stat -- tests/vectors

lock:   ## resolve the dependencies again; requirements.txt follows
	uv lock
	uv export --quiet --frozen --all-groups --no-emit-project --no-header -o requirements.txt

deb: setup   ## build/bastion_VERSION_ARCH.deb with its own virtual environment
	./systemd/build-deb
