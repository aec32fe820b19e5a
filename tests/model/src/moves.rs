//! What can happen next. Each move is made by one member, which makes it possible to say what a member reaches alone.

use crate::mind::{Stand, Why};
use crate::scene::Scene;
use crate::world::{Stage, World};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// To which member, by its place in the world before.
    pub by: u8,
    /// What.
    pub what: What,
}

/// How a question for a status goes out on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// It is lost, or not asked, or the peer is frozen.
    Silent,
    /// The peer answers what is so; a dead one refuses.
    True,
    /// The port refuses although the process lives.
    Refuses,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// A process starts; maybe to take over, maybe with a migration to run.
    Starts {
        /// `--start-as-candidate`.
        takes_over: bool,
        /// Whether it would have to migrate.
        pending: bool,
    },
    /// It is killed at this moment. What it sent to the database may still be carried out.
    Dies,
    /// Its clock goes on, and nothing else of it.
    ClockMoves,
    /// It looks at its clock.
    Ticks,
    /// It reads the row, and asks the row's address if it has to.
    Reads(Wire),
    /// It cannot read the row.
    ReadFails,
    /// The peer hears the question for its status.
    PeerAnswers(Wire),
    /// The answer arrives.
    AnswerArrives,
    /// Its request to step down arrives at the leader, again and again until it is answered.
    PleaArrives,
    /// The leader's consent arrives.
    ConsentArrives,
    /// It waits no longer for the answer to its request.
    PleaFails,
    /// Its claim ends the sessions of the old leader.
    SessionsEnd,
    /// Its claim is carried out by the database.
    ClaimRuns,
    /// Its claim is not answered, or waited too long for a lock.
    ClaimFails,
    /// It hears how its claim ended.
    ClaimEnds,
    /// It renews its lease.
    Renews,
    /// The same, and the answer is lost.
    RenewsUnheard,
    /// It has taken over.
    TookOver,
    /// Its migration failed.
    MigrationFails,
    /// It hears that another member has migrated.
    Migrated,
    /// What it had started is joined, or outlives the grace.
    Drained,
    /// SIGTERM.
    ToldToEnd,
    /// An operator asks it to step down.
    AskedToStepDown,
    /// An operator asks it to take over.
    AskedToTakeOver,
    /// It begins a write; the fence is checked.
    WriteBegins,
    /// Its write commits.
    WriteCommits,
    /// Its write ends without a commit.
    WriteAborts,
    /// It pushes to the agent.
    Pushes,
    /// A push arrives; it may come again.
    PushArrives {
        /// Which.
        place: u8,
        /// Whether it stays under way.
        again: bool,
    },
    /// Another fleet pushes to the agent.
    ForeignPush,
    /// The database is copied.
    Saved,
    /// The copy is put back.
    CommitsLost,
}

impl What {
    /// Whether it can happen to a member while all others are frozen and nothing fails: what a member may count on.
    #[must_use]
    pub const fn is_fair(self) -> bool {
        match self {
            Self::Starts { .. }
            | Self::ClockMoves
            | Self::Ticks
            | Self::Reads(Wire::Silent)
            | Self::AnswerArrives
            | Self::ConsentArrives
            | Self::PleaFails
            | Self::SessionsEnd
            | Self::ClaimRuns
            | Self::ClaimFails
            | Self::ClaimEnds
            | Self::Renews
            | Self::TookOver
            | Self::Drained
            | Self::WriteCommits
            | Self::WriteAborts
            | Self::Pushes
            | Self::PushArrives { .. } => true,
            Self::Dies
            | Self::Reads(Wire::True | Wire::Refuses)
            | Self::ReadFails
            | Self::PeerAnswers(_)
            | Self::PleaArrives
            | Self::RenewsUnheard
            | Self::MigrationFails
            | Self::Migrated
            | Self::ToldToEnd
            | Self::AskedToStepDown
            | Self::AskedToTakeOver
            | Self::WriteBegins
            | Self::ForeignPush
            | Self::Saved
            | Self::CommitsLost => false,
        }
    }
}

/// Everything that may happen next; some of it may change nothing.
pub fn moves(world: &World, scene: &Scene, out: &mut Vec<Move>) {
    if world.broken.is_some() {
        return;
    }
    for by in 0..scene.members {
        of_member(world, by, scene, &mut |what| out.push(Move { by, what }));
    }
    if scene.pushes > 0 {
        for (place, push) in (0..).zip(&world.agents.pushes) {
            if let Some(push) = push {
                let by = push.by.map_or(0, |by| by.slot);
                let mut more = |again| out.push(Move { by, what: What::PushArrives { place, again } });
                more(true);
                more(false);
            }
        }
        let mut more = |what| out.push(Move { by: 0, what });
        more(What::ForeignPush);
        if scene.lost_commits {
            more(What::Saved);
            more(What::CommitsLost);
        }
    }
}

fn of_member(world: &World, by: u8, scene: &Scene, more: &mut impl FnMut(What)) {
    let member = world.member(by);
    if let Some(write) = &member.write {
        more(What::WriteCommits);
        more(What::WriteAborts);
        debug_assert_eq!(write.by.slot, by, "a write lies at its member");
    }
    let Some(mind) = &member.mind else {
        for takes_over in [false, true] {
            for pending in [false, true] {
                if (scene.take_overs || !takes_over) && (scene.migrations || !pending) {
                    more(What::Starts { takes_over, pending });
                }
            }
        }
        return;
    };
    more(What::Dies);
    more(What::ClockMoves);
    if scene.migrations && mind.pending && mind.held().is_none() {
        more(What::Migrated);
    }
    let told = scene.operators && !matches!(mind.stand, Stand::Idle | Stand::Asking | Stand::Claiming);
    if told && !matches!(mind.stand, Stand::SteppingDown { why: Why::Terminating, .. }) {
        more(What::ToldToEnd);
    }
    if scene.operators && mind.wish.is_none() {
        more(What::AskedToTakeOver);
    }
    of_stand(world, by, mind.stand, scene, more);
    if let Some(question) = member.question {
        if question.answer.is_some() {
            more(What::AnswerArrives);
        } else {
            more(What::PeerAnswers(Wire::True));
            if scene.network {
                more(What::PeerAnswers(Wire::Refuses));
            }
        }
    }
}

fn of_stand(world: &World, by: u8, stand: Stand, scene: &Scene, more: &mut impl FnMut(What)) {
    match stand {
        Stand::Idle | Stand::SteppedDown { .. } => reads(scene, more),
        Stand::Asking => {
            let granted = world.member(by).plea.is_some_and(|plea| plea.granted);
            more(if granted { What::ConsentArrives } else { What::PleaArrives });
            more(What::PleaFails);
            if scene.late_answers {
                more(What::Reads(Wire::Silent));
            }
        }
        Stand::Claiming => claims(world, by, scene, more),
        Stand::TakingOver { .. } => {
            renews(scene, more);
            more(What::TookOver);
            if scene.migrations {
                more(What::MigrationFails);
            }
        }
        Stand::Leader { .. } | Stand::Suspended { .. } => {
            more(What::Ticks);
            renews(scene, more);
            if scene.writes {
                more(What::WriteBegins);
            }
            if scene.pushes > 0 {
                more(What::Pushes);
            }
        }
        Stand::SteppingDown { .. } => {
            more(What::Drained);
            // A task that had passed the gate before.
            if scene.writes {
                more(What::WriteBegins);
            }
        }
        Stand::Gone => {}
    }
    if scene.operators && matches!(stand, Stand::TakingOver { .. } | Stand::Leader { .. } | Stand::Suspended { .. }) {
        more(What::AskedToStepDown);
    }
}

fn reads(scene: &Scene, more: &mut impl FnMut(What)) {
    more(What::Reads(Wire::Silent));
    if !scene.late_answers {
        more(What::Reads(Wire::True));
        if scene.network {
            more(What::Reads(Wire::Refuses));
        }
    }
    if scene.network {
        more(What::ReadFails);
    }
}

fn renews(scene: &Scene, more: &mut impl FnMut(What)) {
    more(What::Renews);
    if scene.network {
        more(What::RenewsUnheard);
    }
}

fn claims(world: &World, by: u8, scene: &Scene, more: &mut impl FnMut(What)) {
    let Some(bid) = &world.member(by).bid else { return };
    match bid.stage {
        Stage::Decided if bid.end_sessions => {
            more(What::SessionsEnd);
            more(What::ClaimFails);
        }
        Stage::Decided | Stage::Ready => {
            if !world.is_locked(scene) {
                more(What::ClaimRuns);
            }
            more(What::ClaimFails);
        }
        Stage::Won(_) | Stage::Lost => more(What::ClaimEnds),
    }
}
