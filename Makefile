# Every target sets up what it needs first; a second call finds it there.
.PHONY: help run test manage lint bench bench-serving bench-console screenshots chaos clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

run: ## install everything, start everything, print where it answers (MLOPS_HOME, PORT)
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m deploy run

test: ## install everything, run every test (PYTEST_ARGS="tests/unit -k name")
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m deploy test

manage: ## a command in the installation that runs (ARGS="sandbox check", ARGS="retention --dry-run")
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m deploy manage $(ARGS)

lint: ## ruff, mypy, the walls between rooms, the OpenAPI schema, missing migrations
	@deploy/bootstrap.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/lint-imports
	.venv/bin/python manage.py makemigrations --check --dry-run
	.venv/bin/python manage.py spectacular --validate --fail-on-warn --file /dev/null

bench: ## our figures beside their floors
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m bench.road

bench-serving: ## our model server beside mlflow, MLServer and BentoML (BENCH_ARGS="--models forest")
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m bench.serving $(BENCH_ARGS)

bench-console: ## pages at a thousand and a million jobs, a long log, print to pixel (BENCH_ARGS)
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m bench.console $(BENCH_ARGS)

screenshots: ## the pictures of docs/CONSOLE.md, of a console full of rows, in both themes
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m deploy.pictures

chaos: ## 200 jobs while everything is killed again and again; prints a table (CHAOS_ARGS="--jobs 50")
	@deploy/bootstrap.sh
	@exec .venv/bin/python -m tests.chaos $(CHAOS_ARGS)

clean: ## remove what was installed here; the state in MLOPS_HOME stays
	rm -rf .venv .tools .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
