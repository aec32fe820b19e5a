//! What `pg_control` says of a server that does not run.

use pgfleet_api::Lsn;

use super::Postgres;

impl Postgres {
    /// Where the write-ahead log of a cleanly stopped server ends: the position of its last checkpoint, after which
    /// nothing was written. None where there is no data, the server was not stopped cleanly, or it followed a primary.
    pub async fn stopped_at(&self) -> Option<Lsn> {
        let options = self.options();
        if !options.data_dir.join("global/pg_control").exists() {
            return None;
        }
        let mut command = self.command(&options.programs.beside("pg_controldata"));
        command.arg("-D").arg(&options.data_dir);
        match tokio::process::Command::from(command).kill_on_drop(true).output().await {
            Ok(output) => stopped_at(&String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                tracing::warn!("cannot run pg_controldata, so the LSN of the stop is not known: {error}");
                None
            }
        }
    }
}

fn stopped_at(said: &str) -> Option<Lsn> {
    let value = |name: &str| {
        said.lines().find_map(|line| line.split_once(':').filter(|(known, _)| *known == name).map(|(_, v)| v.trim()))
    };
    if value("Database cluster state")? != "shut down" {
        return None;
    }
    value("Latest checkpoint location")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_stop_of_a_primary_has_a_position() {
        let said = |state: &str| {
            format!(
                "pg_control version number:            1300\nDatabase cluster state:               {state}\n\
                 Latest checkpoint location:           0/1700028\nLatest checkpoint's REDO location:    0/1700028\n"
            )
        };
        assert_eq!(stopped_at(&said("shut down")), "0/1700028".parse().ok());
        for state in ["in production", "shut down in recovery", "in archive recovery", "shutting down"] {
            assert_eq!(stopped_at(&said(state)), None, "{state}");
        }
        assert_eq!(stopped_at(""), None);
    }
}
