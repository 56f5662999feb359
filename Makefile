# The front doors. `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo
export CARGO_TERM_COLOR ?= never

.PHONY: help demo demo-stop demo-clean build test check e2e test-vm soak bench bench-proxy fuzz openapi

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## from a clean clone to a live URL: engine if missing, build, platform, an example
	@scripts/demo

demo-stop: ## stop the demo's platform; its apps run on
	@scripts/demo stop

demo-clean: ## destroy the demo's apps and data
	@scripts/demo clean

build: ## mini, minid and mini-static for use, in target/release
	$(CARGO) build --release -p mini -p minid
	scripts/build-static release

test: ## everything that CI checks
	scripts/test

check: ## formatting and lints only
	scripts/test check

e2e: ## the end-to-end tests only: make e2e [T=part of a test's name]
	scripts/test e2e $(T)

test-vm: ## install, deploy, reboot and more on a host like a cloud VM
	scripts/test-vm

soak: ## crash matrix and drop test with the default drain and grace times
	@scripts/soak

bench: bench-proxy ## the performance tables (release build, real engine)
	scripts/bench

bench-proxy: ## the proxy beside nginx, haproxy and caddy: make bench-proxy [ARGS="--quick"]
	scripts/bench-proxy $(ARGS)

fuzz: ## fuzz what parses hostile bytes, a minute each: make fuzz [T=target] (nightly, cargo-fuzz)
	scripts/fuzz $(T)

openapi: ## write docs/openapi.json anew
	$(CARGO) run --quiet -p minid -- openapi > docs/openapi.json
