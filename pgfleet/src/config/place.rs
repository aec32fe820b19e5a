//! Where the configuration file is, and what lies beside it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::exit::CliError;

/// How many symbolic links are followed, as the kernel does.
const LINKS: u32 = 40;

/// The configuration file.
#[derive(Debug, Clone)]
pub struct Place {
    /// As it was named.
    pub path: PathBuf,
    /// Whether somebody named it; the default one need not exist.
    pub is_explicit: bool,
}

impl Place {
    /// The file that was named, else $XDG_CONFIG_HOME/pgfleet/config.toml, else ~/.config/pgfleet/config.toml.
    pub fn find(named: Option<&Path>) -> Result<Self, CliError> {
        if let Some(path) = named {
            let path = std::path::absolute(path)
                .map_err(|error| CliError::Usage(format!("--config {}: {error}", path.display())))?;
            if path.extension().is_some_and(|extension| extension == "lock") {
                return Err(CliError::Usage(format!("{} is a lock's name; give another --config", path.display())));
            }
            return Ok(Self { path, is_explicit: true });
        }
        // The XDG specification has relative paths ignored.
        let xdg = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let base = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
        let base = base.ok_or_else(|| CliError::Usage("no home directory; give --config".to_owned()))?;
        Ok(Self { path: base.join("pgfleet/config.toml"), is_explicit: false })
    }

    /// The file itself, behind symbolic links, so that all its names share one lock and the links stay. It need not exist.
    pub fn target(&self) -> Result<PathBuf, CliError> {
        let mut path = self.path.clone();
        for _ in 0..LINKS {
            match std::fs::read_link(&path) {
                Ok(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
                // No link, or nothing there: the directory's own links are resolved by the kernel, to one directory.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => return Ok(path),
                Err(error) => return Err(CliError::Usage(format!("cannot look at {}: {error}", path.display()))),
            }
        }
        Err(CliError::Usage(format!("{} is a symbolic link that ends nowhere", self.path.display())))
    }
}

/// The lock of this file: `config.lock` beside `config.toml`.
pub fn lock_of(target: &Path) -> PathBuf {
    target.with_extension("lock")
}

/// The file that is written, and then takes the place of this one.
pub fn new_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    target.with_file_name(name)
}
