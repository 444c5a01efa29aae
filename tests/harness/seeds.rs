//! The seeds of random tests, and other numbers that the environment sets.

use anyhow::{Context, Result};

/// A number of the environment.
///
/// # Errors
/// It is no number.
pub fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?))
}

/// The seeds of a test that runs `count` sequences: the one of `CLEAT_SEED`, those from `CLEAT_FIRST_SEED` on, or any.
///
/// # Errors
/// As [`number`].
pub fn seeds(count: usize) -> Result<Vec<u64>> {
    if let Some(seed) = number("CLEAT_SEED")? {
        return Ok(vec![seed]);
    }
    let first = number("CLEAT_FIRST_SEED")?.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    Ok((first..).take(count).collect())
}
