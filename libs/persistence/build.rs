//! Lists the SQL of `migrations/`, so that a new folder is embedded by being there.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../migrations");
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../migrations").canonicalize()?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if path.join("up.sql").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut list = "&[\n".to_owned();
    for path in folders {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(
            list,
            "    Migration::embedded({name:?}, include_str!({:?})),",
            path.join("up.sql").display().to_string()
        )?;
    }
    list.push_str("]\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}
