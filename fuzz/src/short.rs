//! The run of a target in a test: bounded, and the same each time.
//!
//! ```text
//! CLEAT_SEED=7 CLEAT_FUZZ_RUNS=1000000 cargo test -p cleat-bolt --lib fuzz_target     other inputs, more of them
//! CLEAT_FUZZ_INPUT=FILE cargo test -p cleat-bolt --lib fuzz_target::tests::NAME       one input again
//! ```

use crate::Target;
use crate::mutate::mutate;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Inputs beside the target's own.
const RUNS: u64 = 2000;

/// An input that takes so long is a finding. The largest takes milliseconds.
const HANG: Duration = Duration::from_mins(1);

/// Bytes that an input has at most: a few times what the seeds have.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// Runs the target's own inputs, and then changed ones. The last input is kept in a file when it is a finding.
///
/// # Panics
/// An input is a finding.
pub fn run(target: &'static Target) {
    if let Some(path) = std::env::var_os("CLEAT_FUZZ_INPUT") {
        target.check(&std::fs::read(&path).expect("CLEAT_FUZZ_INPUT names a file"));
        return;
    }
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    let (seed, runs) = (number("CLEAT_SEED").unwrap_or(1), number("CLEAT_FUZZ_RUNS").unwrap_or(RUNS));
    let current = Arc::new(Current::default());
    let (done, ended) = mpsc::channel();
    let shared = Arc::clone(&current);
    let worker = std::thread::spawn(move || {
        // The seeds are made here, too: they may be cut off like everything else.
        let inputs = Inputs::new(target, seed, runs);
        for input in inputs {
            let input = shared.begin(input);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.check(&input))) {
                let path = keep(target, &input);
                eprintln!(
                    "{} fails, CLEAT_SEED={seed}; the input is kept: CLEAT_FUZZ_INPUT={}",
                    target.name,
                    path.display()
                );
                resume_unwind(panic);
            }
        }
        drop(done);
    });
    let mut seen = 0;
    while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(HANG) as Result<(), _> {
        let now = current.count.load(Ordering::Relaxed);
        if now == seen {
            let path = keep(target, &current.input.lock().expect("nothing panics while it is held"));
            panic!("{} hangs, CLEAT_SEED={seed}; the input is kept: CLEAT_FUZZ_INPUT={}", target.name, path.display());
        }
        seen = now;
    }
    worker.join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// The input that is being run, for whoever watches.
#[derive(Default)]
struct Current {
    count: AtomicU64,
    input: Mutex<Arc<Vec<u8>>>,
}

impl Current {
    fn begin(&self, input: Vec<u8>) -> Arc<Vec<u8>> {
        let input = Arc::new(input);
        *self.input.lock().expect("nothing panics while it is held") = Arc::clone(&input);
        self.count.fetch_add(1, Ordering::Relaxed);
        input
    }
}

/// Every seed of a target, and so many changed ones.
struct Inputs {
    seeds: Vec<Vec<u8>>,
    random: StdRng,
    next: usize,
    left: u64,
}

impl Inputs {
    fn new(target: &Target, seed: u64, left: u64) -> Self {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has nothing to begin with", target.name);
        Self { seeds, random: StdRng::seed_from_u64(seed), next: 0, left }
    }
}

impl Iterator for Inputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(seed) = self.seeds.get(self.next) {
            self.next += 1;
            return Some(seed.clone());
        }
        self.left = self.left.checked_sub(1)?;
        let mut input = self.seeds.choose(&mut self.random)?.clone();
        mutate(&mut self.random, &mut input, &self.seeds, INPUT_BYTES_MAX);
        Some(input)
    }
}

fn keep(target: &Target, input: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("cleat-fuzz-{}-{}", target.name, std::process::id()));
    std::fs::write(&path, input).expect("the input can be kept");
    path
}

#[cfg(test)]
mod tests {
    use super::{Inputs, run};
    use crate::{Memory, Target};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn seeds() -> Vec<Vec<u8>> {
        vec![b"a seed".to_vec(), vec![0; 100]]
    }

    fn target(name: &'static str, run: fn(&[u8]), base: u64) -> Target {
        Target { name, seeds, run, memory: Memory { base, per_byte: 4 } }
    }

    #[test]
    fn inputs_follow_from_the_seed() {
        let target = target("none", |_| (), 0);
        let inputs = |seed| Inputs::new(&target, seed, 50).collect::<Vec<_>>();
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert_eq!((&inputs(1)[..2], inputs(1).len()), (&seeds()[..], 52));
        let changed = inputs(1)[2..].iter().filter(|input| !seeds().contains(input)).count();
        assert!(changed > 40, "{changed}");
    }

    #[test]
    fn every_input_is_run() {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        static TARGET: Target = Target {
            name: "count",
            seeds,
            run: |_| {
                COUNT.fetch_add(1, Ordering::Relaxed);
            },
            memory: Memory { base: 0, per_byte: 0 },
        };
        run(&TARGET);
        assert!(COUNT.load(Ordering::Relaxed) >= 1000);
    }

    #[test]
    fn a_panic_and_too_much_memory_are_findings() {
        let finds = |target: Target, input: &[u8]| std::panic::catch_unwind(|| target.check(input)).is_err();
        let panics = |input: &[u8]| assert!(input.first() != Some(&7), "seven");
        assert!(finds(target("panics", panics, 0), &[7]));
        assert!(!finds(target("panics", panics, 0), &[8]));
        let allocates = |input: &[u8]| drop(std::hint::black_box(vec![1_u8; 1000 * input.len()]));
        assert!(finds(target("allocates", allocates, 1000), &[0; 10]));
        assert!(!finds(target("allocates", allocates, 10_000), &[0; 10]));
    }
}
