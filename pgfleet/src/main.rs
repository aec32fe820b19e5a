//! Built next.
fn main() {}
