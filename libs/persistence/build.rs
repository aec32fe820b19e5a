//! Embeds the SQL of `migrations/` anew when one of its files changes.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
