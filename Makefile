# Recipes are short; what needs more than a line or two is a script in .ci/.

.PHONY: demo test chaos check audit generate bench tools
ARGS ?=

demo: tools   ## a batch of 20 videos from order to settlement; ARGS="--exit --json" for scripts
	@SQLX_OFFLINE=true cargo build --release --locked
	@SQLX_OFFLINE=true cargo run --release --locked --quiet -- demo $(ARGS)

test: tools   ## every test of every member
	SQLX_OFFLINE=true cargo test --workspace --locked --no-fail-fast $(ARGS)

chaos: tools  ## workers, database, connections and clients die at random; CHAOS=full takes about 45 minutes
	@.ci/chaos $(CHAOS)

check: tools  ## what a reviewer should not have to say
	cargo fmt --all --check
	SQLX_OFFLINE=true cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
		else echo "cargo-deny is not installed: deny.toml was not checked"; fi
	.ci/generate --check

audit:        ## known vulnerabilities; fetches the advisory database
	cargo deny check advisories

generate: tools  ## .sqlx/, workflows/GRAPH.md, openapi/, help texts
	.ci/generate

bench: tools  ## videos per second from order to settlement
	@SQLX_OFFLINE=true cargo build --release --locked
	@SQLX_OFFLINE=true cargo run --release --locked --quiet -- bench engine $(ARGS)

tools:
	@.ci/ensure-tools
