//! The journal in the order of the changes.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::{BootId, ComputeId};
use pgfleet_persistence::{Action, Change, Wanted, WriterHooks};
use serde_json::json;

use crate::support::{Fleet, Leader, id, observed, register, report};

/// Every line once and in order, whatever it is about, in pieces that begin where the last one ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_read_by_change() {
    let Some(fleet) = Fleet::new("the_journal_is_read_by_change").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let db = leader.member.db.clone();
    assert!(db.journal_after(0, 10).await.unwrap().is_empty());
    let boot = BootId::generate();
    let note = |n: i64, about: Option<ComputeId>| {
        let detail = json!({ "n": n });
        Change::Journal(Action { compute_id: about, actor: "op".to_owned(), reason: None, detail })
    };
    let mut last = 0;
    for n in 0..5 {
        let name = format!("c{n}");
        leader.writer.submit(register(&name, None)).await.unwrap();
        leader.writer.submit(report(&name, &observed(boot, 1, ComputeState::Running))).await.unwrap();
        leader.writer.submit(note(n, None)).await.unwrap();
        last = leader.writer.submit(note(n, Some(id(&name)))).await.unwrap().change_seq;
    }
    let all = db.journal_after(0, 1000).await.unwrap();
    let seqs: Vec<i64> = all.iter().map(|line| line.change_seq).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b) && all.len() >= 15, "{seqs:?}");
    assert_eq!(seqs.last(), Some(&last));
    assert!(all.iter().any(|line| line.compute_id.is_none()) && all.iter().any(|line| line.detail["n"] == 4));
    let mut pieces = Vec::new();
    while let Some(line) = pieces.last().map_or(Some(0), |seq| (*seq < last).then_some(*seq)) {
        let piece = db.journal_after(line, 4).await.unwrap();
        assert!((1..=4).contains(&piece.len()));
        pieces.extend(piece.iter().map(|line| line.change_seq));
    }
    assert_eq!(pieces, seqs);
    assert!(db.journal_after(last, 10).await.unwrap().is_empty());
}

/// A compute's lines, the newest first, in pages that begin where the last one ended; nobody else's, and still there when
/// the compute is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_compute_is_read_in_pages() {
    let Some(fleet) = Fleet::new("the_journal_of_a_compute_is_read_in_pages").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let db = leader.member.db.clone();
    let note = |n: i64, name: &str| {
        let detail = json!({ "n": n });
        Change::Journal(Action { compute_id: Some(id(name)), actor: "op".to_owned(), reason: None, detail })
    };
    for name in ["a", "b"] {
        leader.writer.submit(register(name, None)).await.unwrap();
    }
    for n in 0..7 {
        leader.writer.submit(note(n, "a")).await.unwrap();
        leader.writer.submit(note(n, "b")).await.unwrap();
    }
    leader.writer.submit(Change::Delete { compute_id: id("a") }).await.unwrap();
    let (mut numbers, mut before) = (Vec::new(), i64::MAX);
    loop {
        let page = db.history_page(&id("a"), &Wanted { before, limit: 3, ..Wanted::default() }).await.unwrap();
        assert!(page.len() <= 3 && page.iter().all(|line| line.compute_id == Some(id("a"))), "{page:?}");
        let Some(last) = page.last() else { break };
        before = last.change_seq;
        numbers.extend(page.iter().filter_map(|line| line.detail["n"].as_i64()));
    }
    assert_eq!(numbers, [6, 5, 4, 3, 2, 1, 0]);
    assert!(db.history(&id("nobody"), 3).await.unwrap().is_empty());

    // By time and by kind: from a line's own moment on, and up to it without it.
    let boot = BootId::generate();
    leader.writer.submit(report("b", &observed(boot, 1, ComputeState::Running))).await.unwrap();
    let all = db.history(&id("b"), 99).await.unwrap();
    let (newest, at) = (all[0].clone(), all[3].at);
    assert_eq!(newest.kind, JournalKind::Transition);
    let find = async |wanted: Wanted| db.history_page(&id("b"), &wanted).await.unwrap();
    let (since, until) =
        (Wanted { since: Some(at), ..Wanted::default() }, Wanted { until: Some(at), ..Wanted::default() });
    assert_eq!(find(since).await, all[..4]);
    assert_eq!(find(until).await, all[4..]);
    assert!(find(Wanted { until: Some(at), ..since }).await.is_empty());
    assert_eq!(find(Wanted { kind: Some(JournalKind::Transition), ..Wanted::default() }).await, [newest]);
    assert!(Wanted::default().is_everything() && !since.is_everything() && !until.is_everything());
}
