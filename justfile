# Every command a developer types. `just check` changes nothing in the tree and equals CI.

default:
    @just --list

# Format check, lints, build, all tests
check *STEPS:
    scripts/check {{STEPS}}

# Format, and apply what clippy can fix by itself
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Tests whose name contains FILTER
test *FILTER:
    cargo test --workspace {{FILTER}}

# A member with an embedded store in ./default.cleat
run *FLAGS:
    cargo run --release -- {{FLAGS}}

# Compare with an etcd binary, side by side; `--members 3` compares clusters
bench ETCD *FLAGS:
    cargo run --release -p cleat-bench -- compare --cleat target/release/cleat --etcd {{ETCD}} {{FLAGS}}

# Faults of whole clusters, ROUNDS in each scenario; `CLEAT_PEER=etcd just cluster` does it to etcd
cluster ROUNDS='100' *FILTER:
    CLEAT_CLUSTER_ROUNDS={{ROUNDS}} cargo test --release -p cleat-tests --test cluster -- --nocapture {{FILTER}}

# Coverage-guided fuzzing of one target, on nightly Rust; names are in CONTRIBUTING.md
fuzz TARGET SECONDS='600':
    fuzz/guided/run {{TARGET}} {{SECONDS}}

# Random requests to etcd 3.4 and to Cleat, answers compared; OPS operations from SEED
diff OPS='1000000' SEED='':
    CLEAT_DIFF_OPS={{OPS}} CLEAT_SEED={{SEED}} cargo test --release -p cleat-tests --test compat -- --nocapture

# Whole clusters from seeds 0 to COUNT, on a made-up network, disk and clock
sim COUNT='1000':
    CLEAT_SIM_SEEDS={{COUNT}} cargo test --release -p cleat-server --lib simulation::tests::seeds -- --nocapture
