//! The user that PostgreSQL runs as. PostgreSQL refuses root, so an agent that is root changes to this one.

use std::os::unix::fs::chown;
use std::path::Path;

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Its primary group; supplementary groups are dropped.
    pub gid: u32,
}

/// The user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunAsError {
    /// `/etc/passwd` cannot be read.
    #[error("cannot read /etc/passwd")]
    Passwd(#[source] std::io::Error),
    /// There is no such user.
    #[error("there is no user {0:?} to run PostgreSQL as; name one with --postgres-user")]
    Unknown(String),
    /// PostgreSQL would refuse.
    #[error("PostgreSQL refuses to run as root; name another user with --postgres-user")]
    Root,
}

impl RunAs {
    /// The user PostgreSQL must be run as: `name` where the agent is root, the agent's own (none) elsewhere.
    ///
    /// # Errors
    /// There is no such user, or it is root.
    pub fn resolve(name: &str) -> Result<Option<Self>, RunAsError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").map_err(RunAsError::Passwd)?;
        let user = find(&passwd, name).ok_or_else(|| RunAsError::Unknown(name.to_owned()))?;
        if user.uid == 0 { Err(RunAsError::Root) } else { Ok(Some(user)) }
    }

    /// Makes `path` belong to this user.
    ///
    /// # Errors
    /// What the system said.
    pub fn own(self, path: &Path) -> std::io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}

fn find(passwd: &str, name: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(RunAs { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find(passwd, "postgres"), Some(RunAs { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "post"), None);
    }
}
