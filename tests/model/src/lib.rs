//! The model of leadership: every state that a few members can reach, checked with the product's own decisions.
//!
//! Called by its tests (bounded) and by the program `model` (deep). Every member of the model runs
//! [`pgfleet_domain::leadership::decide`] and `judge`, every agent [`pgfleet_domain::fence::admit`]; what the model adds is
//! the world around them: the leader row, locks, processes, messages, clocks.
//!
//! ```text
//! mind   one member's State <-> its finite, canonical form     world  all that there is at one moment, and its canonical form
//! moves  what can happen next                                  step   what comes of it      agents  pushes and the ledger
//! scene  which faults and which size; rules switched off       explore  the whole graph     model   stateright's view of it
//!                                                                                                 report  for readers
//! ```
//!
//! What makes the space finite without bounds on time, terms, crashes or messages: clocks are ages that stop at the limit
//! where they make no further difference; terms, generations and lives of processes are only ever compared, so their
//! ranks stand for them; of `renewals` only "as in the row now" or not is kept.

pub mod agents;
pub mod explore;
pub mod mind;
pub mod model;
pub mod moves;
pub mod report;
pub mod scene;
pub mod step;
pub mod world;
