# Thin on purpose: each target is a command of tools/run.py, which also runs without make.
# Variables: PYTHON=python3.12  KEEP=1  SHORT=1  LONG=1  AIRFLOW=3.1  FAMILY=databricks  ARGS="..."

COMMANDS := help demo demo-celery test test-matrix chaos soak image image-test lint type docs bench lock clean

.DEFAULT_GOAL := help
.PHONY: $(COMMANDS)

# The first Python found only has to read tools/run.py, which then looks for one that will do.
$(COMMANDS):
	@for python in "$(PYTHON)" python3 python python3.13 python3.12 python3.11 python3.10; do \
	  command -v "$$python" >/dev/null 2>&1 && exec "$$python" tools/run.py $@; \
	done; echo 'No Python found. Install Python 3.10 to 3.13 with venv, or set PYTHON.' >&2; exit 2
