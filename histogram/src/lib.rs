//! The histogram in which openraft counts its batches and waits.
//!
//! openraft depends on a crate of this name and interface that computes tables for sixteen resolutions on first use:
//! 26 MiB of resident memory, most of what an idle member held, for the one resolution that is used. This one computes
//! a bucket from the value. Only openraft calls it, and only the part of the interface that openraft uses is here.

use std::marker::PhantomData;

/// Bits of a value, below its highest, that choose the bucket: four buckets for every power of two.
const FRACTION_BITS: u32 = 2;

/// Buckets within one power of two.
const FRACTIONS: usize = 1 << FRACTION_BITS;

/// Values below `FRACTIONS` have a bucket each; every further power of two has `FRACTIONS`.
const BUCKETS: usize = FRACTIONS * (u64::BITS as usize - FRACTION_BITS as usize + 1);

/// How often values came, by size: exact up to seven, within a fifth above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    total: u64,
    /// The original attaches data to slices of time; openraft uses none.
    data: PhantomData<T>,
}

/// The values below which a share of the samples lies, each rounded down to the start of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Number of values recorded.
    pub samples: u64,
    /// 0.1 % of the values are smaller.
    pub p0_1: u64,
    /// 1 % of the values are smaller.
    pub p1: u64,
    /// 5 % of the values are smaller.
    pub p5: u64,
    /// 10 % of the values are smaller.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 % of the values are smaller.
    pub p90: u64,
    /// 99 % of the values are smaller.
    pub p99: u64,
    /// 99.9 % of the values are smaller.
    pub p99_9: u64,
}

impl std::fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "samples {samples}, 0.1% {p0_1}, 1% {p1}, 5% {p5}, 10% {p10}, 50% {p50}, 90% {p90}, 99% {p99}, 99.9% {p99_9}"
        )
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty histogram. It allocates with the first value.
    pub fn new() -> Self {
        Self { counts: Vec::new(), total: 0, data: PhantomData }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = bucket_of(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
        self.total += count;
    }

    /// Number of values recorded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value below which the share `p` (0 to 1) of the values lies; 0 when there are none.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = ((self.total as f64 * p).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return start_of(bucket);
            }
        }
        0
    }

    /// The usual percentiles together.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Several histograms under each other: one line of percentiles for each, where the original draws bars.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    /// A chart of nothing.
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// Adds a line.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// The chart as text; the original has a shorter form too.
    #[must_use]
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> std::fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

fn bucket_of(value: u64) -> usize {
    let Some(exponent) = value.checked_ilog2().and_then(|highest| highest.checked_sub(FRACTION_BITS)) else {
        return value as usize;
    };
    let fraction = (value >> exponent) as usize - FRACTIONS;
    let bucket = FRACTIONS * (exponent as usize + 1) + fraction;
    debug_assert!(bucket < BUCKETS, "a bucket for every value");
    bucket
}

fn start_of(bucket: usize) -> u64 {
    if bucket < FRACTIONS {
        return bucket as u64;
    }
    let exponent = bucket / FRACTIONS - 1;
    ((FRACTIONS + bucket % FRACTIONS) as u64) << exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_starts_at_or_below_it() {
        let borders = (0..u64::BITS).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in borders.chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS, "{value}");
            assert!(start_of(bucket) <= value, "{value}");
            assert!(bucket + 1 == BUCKETS || start_of(bucket + 1) > value, "{value}");
        }
    }

    #[test]
    fn percentiles_are_within_a_fifth() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1000);
        assert_eq!((stats.p50, stats.p99), (448, 896));
        histogram.record_n(1 << 40, 100_000);
        assert_eq!(histogram.percentile(0.5), 1 << 40);
    }
}
