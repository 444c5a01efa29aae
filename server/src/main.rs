//! The member process.

use server::config;
use std::io::Write as _;

fn main() {
    let text = config::help();
    std::io::stdout().write_all(text.as_bytes()).ok();
}
