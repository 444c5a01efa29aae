//! Where chance comes from: one seed, from which every part gets a sequence of its own.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// A sequence of random choices.
pub(crate) struct Random(SmallRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// A sequence of its own for a part, so that one part's choices do not move another's.
    pub(crate) fn part(&mut self) -> Self {
        Self::new(self.0.random())
    }

    /// From 0 to below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0.random()
    }

    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// One of `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// In microseconds, from `least` to below `most`.
    pub(crate) fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_micros(self.0.random_range(least.as_micros() as u64..most.as_micros() as u64))
    }
}
