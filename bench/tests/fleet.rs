//! The tool measures: some scenarios, small, in the debug build; `make bench-quick` runs all of them. Whether the figures are good
//! is not asked here.

use clap::Parser as _;
use pgfleet_bench::fleet::{Plan, markdown, run};

/// Floors from a database, simulated agents, and a load that is read back after a crash of the database.
#[tokio::test(flavor = "multi_thread")]
async fn scenarios_are_measured() {
    let plan = Plan::parse_from(["fleet", "--quick", "--scenarios", "scrape,push,converge"]);
    let mut seen = Vec::new();
    let outcome = run(&plan, |report| seen.push(report.scenario)).await;
    if outcome.skipped {
        return;
    }
    assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
    assert_eq!(seen, ["scrape", "push", "converge"]);
    let [scrape, push, converge] = &outcome.reports[..] else { panic!("{:?}", outcome.reports) };
    assert!(scrape.figures["n200"]["bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{scrape:?}");
    assert!(push.figures["pushes"].as_u64().is_some_and(|pushes| pushes >= 200), "{push:?}");
    assert_eq!(converge.figures["n400_faulty"]["unapplied_healthy"], 0, "{converge:?}");
    assert!(converge.figures["n400_faulty"]["faulty"].as_u64().is_some_and(|faulty| faulty > 0), "{converge:?}");
    let text = markdown(push, false);
    assert!(text.contains("| floor: bare_loop_per_s |") && !text.contains("target"), "{text}");
}
