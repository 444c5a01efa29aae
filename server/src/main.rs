//! The member process.

fn main() {
    print!("{}", String::from_utf8_lossy(&server::metrics::Metrics::new(true).expect("x").render()));
}
