//! The journal in the order of the changes.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::{BootId, ComputeId};
use pgfleet_persistence::{Action, Change, WriterHooks};
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
