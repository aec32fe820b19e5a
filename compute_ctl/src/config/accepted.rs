//! Flags of the reference's agent that have no effect here. They are no error, so that its command lines work.

use clap::Args;

/// Flags without effect.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted, without effect on stock PostgreSQL")]
pub struct Accepted {
    /// Gateway of extension archives
    #[arg(short = 'r', long, value_name = "URL")]
    pub remote_ext_base_url: Option<String>,
    /// Connection for the local file cache
    #[arg(long, value_name = "CONNSTR")]
    pub filecache_connstr: Option<String>,
    /// Resize swap when a spec says so
    #[arg(long)]
    pub resize_swap_on_bind: bool,
    /// File system whose quota a spec may set
    #[arg(long, value_name = "MOUNT")]
    pub set_disk_quota_for_fs: Option<String>,
    /// How long PostgreSQL may take to run
    #[arg(long, value_name = "SECS")]
    pub pg_init_timeout: Option<u64>,
    /// A vendor's mode
    #[arg(long, value_name = "BOOL", num_args = 1, action = clap::ArgAction::Set)]
    pub lakebase_mode: Option<bool>,
}

impl Accepted {
    /// Those that were given.
    #[must_use]
    pub fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--remote-ext-base-url", self.remote_ext_base_url.is_some()),
            ("--filecache-connstr", self.filecache_connstr.is_some()),
            ("--resize-swap-on-bind", self.resize_swap_on_bind),
            ("--set-disk-quota-for-fs", self.set_disk_quota_for_fs.is_some()),
            ("--pg-init-timeout", self.pg_init_timeout.is_some()),
            ("--lakebase-mode", self.lakebase_mode.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}
