//! A bounded run of the pairs: no plan is wrong.

use clap::Parser as _;
use pgfleet_bench::pairs::{Asked, markdown, run};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_says_is_what_is_done() {
    let Some(results) = run(&Asked::parse_from(["plan_vs_configure", "--pairs", "15", "--seed", "4"])).await else {
        return;
    };
    assert_eq!(results.mismatches, 0, "{}", markdown(&results));
    assert_eq!(results.figures.by_verdict.values().sum::<usize>(), 15, "{results:?}");
    assert!(results.figures.by_verdict.len() >= 3, "the pairs are too much alike: {}", markdown(&results));
    let json = serde_json::to_value(&results).unwrap();
    for path in
        ["/scenario", "/commit", "/date", "/machine", "/n", "/pairs", "/mismatches", "/figures/by_verdict", "/floors"]
    {
        assert!(json.pointer(path).is_some_and(|value| !value.is_null()), "{path} is not in {json:#}");
    }
}
