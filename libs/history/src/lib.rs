//! The record of a run, and whether it keeps the promises.
//!
//! Called by the chaos suite, which writes histories, and by `pgfleet verify`, which reads them. Pure: it judges what is
//! given and asks nobody. What it calls: `api` for the words.
//!
//! A history is a file of [`Entry`] lines ([`read`], [`write()`]). [`check()`] looks at it through one invariant after the
//! other, each a file in [`mod@check`], and answers a [`Report`]: what each says, how many facts it saw, and each violation with
//! the numbers of its lines.

mod calls;
pub mod check;
pub mod event;
mod file;
mod losses;
pub mod report;
mod search;

pub use check::{Options, check};
pub use event::{Answer, Call, Entry, Event};
pub use file::{ReadError, read, write};
pub use report::{Figures, Finding, Outcome, Report, Violation};
