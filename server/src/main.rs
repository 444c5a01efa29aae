//! The member process.
fn main() {}
