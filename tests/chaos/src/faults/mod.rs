//! What can be done to a fleet's links and clocks from outside. What is done to processes and to the database needs no
//! more than the harness.

pub mod clock;
mod pipe;
pub mod proxy;
