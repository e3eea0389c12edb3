#!/bin/sh
# Runs the demonstration of services from a checkout, with the environment that `make serve` made if it is there.
set -eu
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
PYTHONPATH=. exec "${PYTHON:-$python}" examples/dag_microservices_demo.py "$@"
