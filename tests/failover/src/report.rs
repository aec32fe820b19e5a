//! The results: for machines and, as Markdown, for people. Pure but for where and when.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pgfleet_bench::{Spread, commit, machine};
use serde::Serialize;

use crate::kills::{Killed, Round};
use crate::lossy::Lossy;
use crate::patroni::Death;

/// What is written to `failover.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always `failover`.
    pub scenario: &'static str,
    /// The commit that was measured; `-dirty` if the checkout differs from it.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
    /// Cores, memory, kernel.
    pub machine: String,
    /// Killed primaries.
    pub n: usize,
    /// The figures.
    pub figures: Figures,
    /// What nothing here can be faster than.
    pub floors: Floors,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Killed primaries.
    pub kills: usize,
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Acknowledged writes that the database does not have.
    pub lost: usize,
    /// The largest distance of two acknowledged writes around each death.
    pub gap_ms: Option<Spread>,
    /// From the signal to the first commit at the new primary of a client that does nothing else.
    pub patroni_ms: Option<Spread>,
    /// From that to the next acknowledged write.
    pub beyond_ms: Option<Spread>,
    /// Leaderships after the first.
    pub leader_changes: i64,
    /// Requests that failed in spite of the retry rule, by kind.
    pub failed: BTreeMap<&'static str, usize>,
    /// Requests that had to wait and then succeeded.
    pub waited: usize,
    /// The same by what died.
    pub server: Kind,
    /// The same by what died.
    pub node: Kind,
    /// The same by what died.
    pub frozen: Kind,
    /// Asynchronous replication, with a standby that was held back.
    #[serde(rename = "async")]
    pub lossy: Option<Lossy>,
}

/// The figures of one kind of death.
#[derive(Debug, Clone, Serialize)]
pub struct Kind {
    /// How many.
    pub kills: usize,
    /// As above.
    pub gap_ms: Option<Spread>,
    /// As above.
    pub patroni_ms: Option<Spread>,
}

/// The floor: Patroni itself.
#[derive(Debug, Clone, Serialize)]
pub struct Floors {
    /// As in the figures.
    pub patroni_ms: Option<Spread>,
}

impl Report {
    /// Of these runs, here and today.
    #[must_use]
    pub fn here(killed: &Killed, lossy: Option<Lossy>) -> Self {
        let rounds = &killed.rounds;
        let patroni_ms = spread(rounds, |round| round.patroni_ms);
        let kind = |death: Death| {
            let own: Vec<Round> = rounds.iter().filter(|round| round.death == death).copied().collect();
            let (gap, patroni) = (spread(&own, |round| round.gap_ms), spread(&own, |round| round.patroni_ms));
            Kind { kills: own.len(), gap_ms: gap, patroni_ms: patroni }
        };
        let figures = Figures {
            kills: rounds.len(),
            acknowledged: killed.acknowledged,
            lost: killed.lost.len(),
            gap_ms: spread(rounds, |round| round.gap_ms),
            patroni_ms,
            beyond_ms: spread(rounds, |round| round.beyond_ms),
            leader_changes: killed.leader_changes,
            failed: killed.failed.iter().map(|(kind, (count, _))| (*kind, *count)).collect(),
            waited: killed.waited,
            server: kind(Death::Server),
            node: kind(Death::Node),
            frozen: kind(Death::Frozen),
            lossy,
        };
        Self {
            scenario: "failover",
            commit: commit(),
            date: chrono::Utc::now().format("%F").to_string(),
            machine: machine(),
            n: rounds.len(),
            figures,
            floors: Floors { patroni_ms },
        }
    }

    /// What must not be.
    #[must_use]
    pub fn broken(&self, killed: &Killed) -> Vec<String> {
        let mut broken: Vec<String> =
            killed.lost.iter().map(|what| format!("acknowledged and not in the database: {what}")).collect();
        let failed = killed.failed.iter();
        broken.extend(failed.map(|(kind, (count, first))| format!("{count} requests failed ({kind}), as {first}")));
        if let Some(lossy) = &self.figures.lossy {
            broken.extend(lossy.broken().map(ToOwned::to_owned));
        }
        broken
    }

    /// For people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# The database fails over, at {}, {}\n\n{}. ", self.commit, self.date, self.machine);
        let figures = &self.figures;
        put(
            &mut text,
            &format!(
                "{} primaries were killed under Patroni with synchronous replication. {} writes were acknowledged, {} lost, {} \
             had to wait for the database, {} failed; {} changes of leader.\n\n",
                figures.kills,
                figures.acknowledged,
                figures.lost,
                figures.waited,
                figures.failed.values().sum::<usize>(),
                figures.leader_changes
            ),
        );
        put(
            &mut text,
            "| killed | times | gap in acknowledged writes, p50 / max | floor: Patroni, p50 / max | ratio |\n",
        );
        put(&mut text, "|---|---|---|---|---|\n");
        let all = Kind { kills: figures.kills, gap_ms: figures.gap_ms, patroni_ms: figures.patroni_ms };
        for (name, kind) in
            [("server", &figures.server), ("node", &figures.node), ("frozen", &figures.frozen), ("all", &all)]
        {
            if let (Some(gap), Some(floor)) = (kind.gap_ms, kind.patroni_ms) {
                put(
                    &mut text,
                    &format!(
                        "| {name} | {} | {:.0} / {:.0} ms | {:.0} / {:.0} ms | {:.2} |\n",
                        kind.kills,
                        gap.p50,
                        gap.max,
                        floor.p50,
                        floor.max,
                        gap.p50 / floor.p50
                    ),
                );
            }
        }
        put(
            &mut text,
            "\n*server*: the postmaster; *node*: it and its Patroni, whose key then runs out after 20 s; *frozen*: \
                        the same, stopped and let go.\n",
        );
        if let Some(beyond) = figures.beyond_ms {
            let line =
                format!("From the floor to the next acknowledged write: {:.0} / {:.0} ms.\n", beyond.p50, beyond.max);
            put(&mut text, &line);
        }
        if let Some(lossy) = &figures.lossy {
            put(
                &mut text,
                &format!(
                    "\nAsynchronous, with a standby that was held back: {} acknowledged writes and {} leaderships were lost; the \
                 members counted {} losses and wrote {} lines about them into the journal; the fleet was {} afterwards.\n",
                    lossy.lost_commits,
                    lossy.lost_terms,
                    lossy.detected,
                    lossy.journalled,
                    if lossy.governable { "governable" } else { "NOT governable" }
                ),
            );
        }
        text
    }
}

fn spread(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Option<Spread> {
    Spread::of(rounds.iter().map(figure))
}

fn put(text: &mut String, more: &str) {
    // Writing to a string cannot fail.
    let _ = text.write_str(more);
}
