//! What nothing on this machine can be faster than, taken in the same run as the figures.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use hyper::Method;
use serde::Serialize;

use crate::bed::Bed;
use crate::stats::{median, ms};
use crate::wire::{Ask, Wire};

/// Tries of each floor.
const TRIES: usize = 400;

/// One block of PostgreSQL's log.
const BLOCK: [u8; 8192] = [0x5a; 8192];

/// The floors: each the median of [`TRIES`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Floors {
    /// Overwriting one block of a file and `fdatasync`.
    pub fdatasync_ms: Option<f64>,
    /// A durable compare-and-swap of one row, over one connection.
    pub cas_ms: Option<f64>,
    /// One HTTP exchange with a member on a connection that is kept: `GET /live`.
    pub http_ms: Option<f64>,
}

impl Floors {
    /// Takes them, with one idle member. None where there is no PostgreSQL.
    pub async fn take() -> Option<Self> {
        let bed = Bed::make("floors", 1, 0).await?;
        Some(Self { fdatasync_ms: fdatasync(bed.fleet.dir()), cas_ms: cas(&bed).await, http_ms: http(&bed).await })
    }
}

/// The floor of every durable write, in this directory.
pub(crate) fn fdatasync(dir: &Path) -> Option<f64> {
    let path = dir.join("fdatasync");
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // The first one makes the file as long as it stays, like a segment of the log.
    let write = || {
        let begun = Instant::now();
        let written = file.write_all_at(&BLOCK, 0).and_then(|()| file.sync_data());
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ms(begun.elapsed())
    };
    write();
    median((0..TRIES).map(|_| write()))
}

async fn cas(bed: &Bed) -> Option<f64> {
    let database = bed.fleet.database().await;
    let made = "CREATE TABLE bench_cas (term bigint); INSERT INTO bench_cas VALUES (0)";
    database.batch_execute(made).await.unwrap_or_else(|error| panic!("no table: {error}"));
    let swap = database.prepare("UPDATE bench_cas SET term = term + 1 WHERE term = $1").await;
    let swap = swap.unwrap_or_else(|error| panic!("no statement: {error}"));
    let mut figures = Vec::with_capacity(TRIES);
    for term in 0_i64.. {
        let begun = Instant::now();
        let rows = database.execute(&swap, &[&term]).await;
        let took = ms(begun.elapsed());
        assert_eq!(rows.unwrap_or_else(|error| panic!("no swap: {error}")), 1);
        figures.push(took);
        if figures.len() == TRIES {
            break;
        }
    }
    median(figures)
}

async fn http(bed: &Bed) -> Option<f64> {
    let mut wire = Wire::new(bed.members.first()?.url());
    let ask = Ask { method: Method::GET, path: "/live".to_owned(), token: None, body: Vec::new() };
    let mut figures = Vec::with_capacity(TRIES);
    // The first one makes the connection.
    for _ in 0..=TRIES {
        let begun = Instant::now();
        let answer = wire.send(&ask).await;
        figures.push(ms(begun.elapsed()));
        answer.unwrap_or_else(|failure| panic!("GET /live: {failure}"));
    }
    median(figures.into_iter().skip(1))
}
