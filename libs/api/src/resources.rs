//! What a compute has of memory and how long it waits for it and for the processor. Readings, never limits.

use serde::{Deserialize, Serialize};

/// Readings, taken when the status was asked for and at most a second old.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Where the readings come from.
    pub source: ResourceSource,
    /// Memory in use, with what the kernel keeps of files.
    pub memory_bytes: u64,
    /// The lowest limit that holds: of the group, of a group around it, or the machine's memory.
    pub memory_limit_bytes: u64,
    /// Above this the kernel slows the group down; absent where nobody has set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// Memory that cannot be given back without swapping: of processes, and shared buffers.
    pub memory_anon_bytes: u64,
    /// Processes that the kernel has killed for lack of memory.
    pub oom_kills: u64,
    /// How long processes waited for memory; absent where the kernel does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<Pressure>,
    /// How long processes waited for the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<Pressure>,
    /// What an operator should look at, one line each. Nothing is done about it by the agent.
    #[serde(default)]
    pub advice: Vec<String>,
    /// Settings that would fit this much memory and take effect by a reload. Nothing is set by the agent.
    #[serde(default)]
    pub suggested_settings: Vec<SuggestedSetting>,
}

/// Where readings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceSource {
    /// A version-2 control group.
    Cgroup,
    /// The whole machine.
    Host,
}

/// Parts of the last 10 and 60 seconds, from 0 to 1, in which processes waited.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one waited, last 10 s.
    pub some_avg10: f64,
    /// At least one waited, last 60 s.
    pub some_avg60: f64,
    /// All that had something to do waited, last 10 s.
    pub full_avg10: f64,
    /// All that had something to do waited, last 60 s.
    pub full_avg60: f64,
}

/// A setting and the value that would fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuggestedSetting {
    /// Its name.
    pub name: String,
    /// Its value, with a unit.
    pub value: String,
}
