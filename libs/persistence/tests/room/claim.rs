//! The leader row: compare and set, renewal, release, and the end of an old leader's sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_persistence::{Began, ClaimOutcome, ConfirmSession, Ended, Release, Renewed, Seen};

use crate::support::{Fleet, Member, claim, cluster, seen, spawn, until, won};
use crate::wire::{CUT_AFTER, CUT_BEFORE, PASS, Wire};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_of_the_same_row_one_wins() {
    let Some(fleet) = Fleet::new("of_two_claims_of_the_same_row_one_wins").await else { return };
    let old = fleet.member().await;
    let old_term = old.lead().await;
    assert_eq!(old_term.term(), Term(1));
    let row = old.db.read_leader().await.unwrap().unwrap();

    let mut claims = Vec::new();
    for _ in 0..8 {
        let member = fleet.member().await;
        let seen = seen(&row);
        claims.push(spawn(async move { member.claim(Some(seen), Began::StepDown).await.unwrap() }));
    }
    let mut terms = Vec::new();
    for claim in claims {
        if let ClaimOutcome::Won(term) = claim.await.unwrap() {
            terms.push(term.term());
        }
    }
    assert_eq!(terms, [Term(2)]);
    assert_eq!(old.session().renew(&old_term).await.unwrap(), Renewed::NotMine);

    let history = old.db.leader_history(10).await.unwrap();
    let told: Vec<_> = history.iter().map(|t| (t.term.get(), t.began.as_str(), t.ended.as_deref())).collect();
    assert_eq!(told, [(2, "step_down", None), (1, "first", Some("step_down"))]);
    assert_eq!(history[0].target_schema, Release::this().newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_consent_fails_if_the_lease_was_renewed() {
    let Some(fleet) = Fleet::new("a_claim_without_consent_fails_if_the_lease_was_renewed").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let term = old.lead().await;
    let row = new.db.read_leader().await.unwrap().unwrap();
    let watched = Seen { renewals: Some(row.renewals), ..seen(&row) };
    assert_eq!(old.session().renew(&term).await.unwrap(), Renewed::Yes);
    assert!(matches!(new.claim(Some(watched), Began::Lease).await.unwrap(), ClaimOutcome::Lost));

    let row = new.db.read_leader().await.unwrap().unwrap();
    assert_eq!(row.renewals, 1);
    let watched = Seen { renewals: Some(row.renewals), ..seen(&row) };
    assert_eq!(won(new.claim(Some(watched), Began::Lease).await.unwrap()).term(), Term(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_term_is_above_everything_the_claimer_ever_heard_of() {
    let Some(fleet) = Fleet::new("a_new_term_is_above_everything_the_claimer_ever_heard_of").await else { return };
    let member = fleet.member().await;
    let mut first = claim(None, Began::First);
    first.floor = Term(40);
    assert_eq!(won(member.session().claim(&first).await.unwrap()).term(), Term(41));
    let row = member.db.read_leader().await.unwrap().unwrap();
    let mut again = claim(Some(seen(&row)), Began::Revert);
    again.floor = Term(100);
    assert_eq!(won(member.session().claim(&again).await.unwrap()).term(), Term(101));

    // A row that was lost leaves its terms in the history.
    fleet.client().await.batch_execute("DELETE FROM leader").await.unwrap();
    assert_eq!(won(member.claim(None, Began::First).await.unwrap()).term(), Term(102));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_row_is_nobodys() {
    let Some(fleet) = Fleet::new("a_released_row_is_nobodys").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let term = old.lead().await;
    let mut session = old.session();
    assert!(session.release(&term, Ended::Released, Some("asked by an operator")).await.unwrap());
    assert!(!session.release(&term, Ended::Released, None).await.unwrap(), "once is enough");
    assert_eq!(session.renew(&term).await.unwrap(), Renewed::NotMine);
    let row = new.db.read_leader().await.unwrap().unwrap();
    assert!(row.released_at.is_some());

    let term = won(new.claim(Some(seen(&row)), Began::Released).await.unwrap());
    assert_eq!(term.term(), Term(2));
    assert_eq!(new.db.read_leader().await.unwrap().unwrap().released_at, None);
    let ended = &new.db.leader_history(2).await.unwrap()[1];
    assert_eq!((ended.ended.as_deref(), ended.note.as_deref()), (Some("released"), Some("asked by an operator")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_connection_is_lost_is_cleared_up() {
    let Some(fleet) = Fleet::new("a_claim_whose_connection_is_lost_is_cleared_up").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let old_term = old.lead().await;
    let admin = fleet.client().await;

    // The claim waits for an open fence, and its session is ended meanwhile: it was not executed, and says so.
    let mut holder = fleet.client().await;
    let fence = holder.transaction().await.unwrap();
    fence.query_one("SELECT 1 FROM leader FOR KEY SHARE", &[]).await.unwrap();
    let request = claim(Some(seen(&new.db.read_leader().await.unwrap().unwrap())), Began::Crash);
    let mut session = new.session();
    let waiting = spawn(async move { (session.claim(&request).await, session, request) });
    crate::support::until_waiting(&admin, 1).await;
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgfleet/{}'", new.me);
    admin.query(&end, &[]).await.unwrap();
    let (outcome, mut session, request) = waiting.await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(old.session().renew(&old_term).await.unwrap(), Renewed::Yes, "the old leader still leads");

    // The same claim on the same session, once the fence is gone, wins.
    fence.rollback().await.unwrap();
    assert_eq!(won(session.claim(&request).await.unwrap()).term(), Term(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_committed_and_not_answered_is_its_own() {
    let test = "a_claim_that_was_committed_and_not_answered_is_its_own";
    let (Some(fleet), Some(cluster)) = (Fleet::new(test).await, cluster(test).await) else { return };
    // The address is in the message that claims, and in no other.
    let wire = Wire::to(cluster, &fleet.url, "http://127.0.0.1:7000").await;
    let old = fleet.member().await;
    let _old = old.lead().await;
    let new = Member::connect(&wire.url, Duration::from_secs(5)).await;
    let request = claim(Some(seen(&new.db.read_leader().await.unwrap().unwrap())), Began::Crash);
    let mut session = new.session();

    wire.cut(CUT_BEFORE, PASS);
    let error = session.claim(&request).await.unwrap_err();
    assert!(error.is_retryable(), "it was not executed, and that is known: {error:?}");
    wire.cut(CUT_AFTER, PASS);
    assert_eq!(won(session.claim(&request).await.unwrap()).term(), Term(2), "it was executed, and that is known");
    assert_eq!(wire.mode.load(Ordering::SeqCst), PASS, "the cuts were made");
    // Asked once more, it recognises its own row and does not claim a second time.
    assert_eq!(won(session.claim(&request).await.unwrap()).term(), Term(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_of_an_old_leader_end() {
    let Some(fleet) = Fleet::new("all_sessions_of_an_old_leader_end").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let _term = old.lead().await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let mut session = old.session();
        session.read().await.unwrap();
        sessions.push(session);
    }
    old.db.load().await.unwrap();
    let admin = fleet.client().await;
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgfleet/{}'", old.me);
    // The session of the claim may still be leaving.
    until(&admin, "six sessions are open", &format!("SELECT ({open}) = 6")).await;

    let mut mine = new.session();
    let ended = mine.end_sessions_of(old.me, Duration::from_secs(5)).await.unwrap();
    assert_eq!((ended.ended, ended.left), (6, 0));
    until(&admin, "the sessions are gone", &format!("SELECT ({open}) = 0")).await;
    let again = mine.end_sessions_of(old.me, Duration::from_secs(5)).await.unwrap();
    assert_eq!((again.ended, again.left), (0, 0));

    // Every handle of the old one works again by itself: it was told to end, not broken.
    for session in &mut sessions {
        if session.read().await.is_err() {
            session.read().await.unwrap();
        }
    }
    assert!(Arc::strong_count(&old.db) > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_sees_where_the_database_stands() {
    let Some(fleet) = Fleet::new("a_renewal_sees_where_the_database_stands").await else { return };
    let leader = crate::support::Leader::new(fleet.member().await, Default::default()).await;
    let (mut session, term) = (leader.member.session(), leader.term.clone());
    let (renewed, head) = session.renew_and_look(&term).await.unwrap();
    assert_eq!((renewed, head), (Renewed::Yes, None), "nobody has seen the tables of the migrations yet");
    leader.member.db.compat().await.unwrap().unwrap();
    leader.register("a").await;
    let before = session.renew_and_look(&term).await.unwrap().1.unwrap();
    assert_eq!(before.last_change, leader.writer.last_change());
    let client = fleet.client().await;
    client.batch_execute("UPDATE change_cursor SET last_change = 0").await.unwrap();
    let after = session.renew_and_look(&term).await.unwrap().1.unwrap();
    assert_eq!((after.last_change, &after.timeline, after.system), (0, &before.timeline, before.system));
    // Tables that are gone: the renewal goes on without a look as soon as it has met that.
    client.batch_execute("ALTER TABLE change_cursor RENAME TO gone").await.unwrap();
    session.renew_and_look(&term).await.unwrap_err();
    assert_eq!(session.renew_and_look(&term).await.unwrap(), (Renewed::Yes, None));
    client.batch_execute("UPDATE leader SET term = 9").await.unwrap();
    assert_eq!(session.renew_and_look(&term).await.unwrap(), (Renewed::NotMine, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_is_confirmed_until_another_is_claimed() {
    let Some(fleet) = Fleet::new("a_term_is_confirmed_until_another_is_claimed").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let mut confirming = ConfirmSession::new(Arc::clone(&old.db));
    confirming.warm_up().await.unwrap();
    let _term = old.lead().await;
    assert!(confirming.still_leads(Term(1)).await.unwrap());
    assert!(!confirming.still_leads(Term(2)).await.unwrap(), "a term that nobody holds");

    let row = new.db.read_leader().await.unwrap().unwrap();
    let mut mine = new.session();
    mine.end_sessions_of(old.me, Duration::from_secs(5)).await.unwrap();
    // It may hear of the end by its own question; then nothing is known, and the next one goes over a new session.
    if !matches!(confirming.still_leads(Term(1)).await, Ok(true)) {
        assert!(confirming.still_leads(Term(1)).await.unwrap(), "nobody has claimed yet");
    }
    assert_eq!(won(new.claim(Some(seen(&row)), Began::Crash).await.unwrap()).term(), Term(2));
    assert!(!confirming.still_leads(Term(1)).await.unwrap());
    assert!(!confirming.still_leads(Term(2)).await.unwrap(), "the term is another instance's");

    let released = fleet.member().await;
    let row = released.db.read_leader().await.unwrap().unwrap();
    let mut confirming = ConfirmSession::new(Arc::clone(&released.db));
    let term = won(released.claim(Some(seen(&row)), Began::StepDown).await.unwrap());
    assert!(confirming.still_leads(Term(3)).await.unwrap());
    assert!(released.session().release(&term, Ended::Released, None).await.unwrap());
    assert!(!confirming.still_leads(Term(3)).await.unwrap(), "it gave the row up");
}
