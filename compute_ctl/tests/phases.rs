//! Every phase of a spec on a real PostgreSQL: carried out, found to be done already, hindered half-way and finished.
//!
//! That nothing is written is told from the number of the next transaction: PostgreSQL gives one out for every write, and
//! for none that only reads. The agent's own statements leave no trace in a log or in `pg_stat_statements`.

mod support;

#[path = "phases/databases.rs"]
mod databases;
#[path = "phases/names.rs"]
mod names;
#[path = "phases/quiet.rs"]
mod quiet;
#[path = "phases/roles.rs"]
mod roles;
#[path = "phases/stage.rs"]
mod stage;
#[path = "phases/upkeep.rs"]
mod upkeep;
