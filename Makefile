# The front doors. `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: help test
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

test: ## everything that CI checks
	$(CARGO) fmt --all --check
	$(CARGO) test --workspace --lib --bins --tests
