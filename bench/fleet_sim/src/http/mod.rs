//! The doors: [`agent`] is what every agent's listener answers, [`control`] steers and counts the simulator.

mod agent;
mod answer;
mod control;

pub use agent::{Caller, agents};
pub use control::{AgentLine, Connections, Counters, Range, control};
