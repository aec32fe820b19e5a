//! Flags of this room.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// What is read, and from where on there is advice.
#[derive(Debug, Clone, Args)]
pub struct ResourceArgs {
    /// Where version-2 control groups are mounted
    #[arg(long, default_value = "/sys/fs/cgroup", value_name = "DIR")]
    pub cgroup_root: PathBuf,
    /// Control group to read, below the root [default: the agent's own]
    #[arg(long, value_name = "NAME")]
    pub cgroup: Option<PathBuf>,
    /// Part of the memory limit above which there is advice, and a wish for more over the monitor socket
    #[arg(long, default_value_t = 0.85, value_name = "RATIO", value_parser = ratio)]
    pub memory_high_ratio: f64,
    /// Part of the last minute spent waiting for memory above which there is advice
    #[arg(long, default_value_t = 0.1, value_name = "RATIO", value_parser = ratio)]
    pub memory_pressure_high: f64,
    /// Address of the monitor socket, which is there when AUTOSCALING is set and asks for no token
    #[arg(long, default_value = "127.0.0.1:10301", value_name = "ADDRESS")]
    pub vm_monitor_addr: SocketAddr,
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio > 0.0 && ratio <= 1.0 => Ok(ratio),
        Ok(_) | Err(_) => Err("a number above 0 and up to 1 is needed".to_owned()),
    }
}
