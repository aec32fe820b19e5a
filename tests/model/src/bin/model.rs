//! try
use pgfleet_model::{explore::explore, scene::Scene};
fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let limit = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    for scene in Scene::DEEP.iter().filter(|s| name.is_empty() || s.name == name) {
        let begun = std::time::Instant::now();
        let found = explore(scene, limit, |s, q| eprintln!("{s} {q}"));
        println!("{} complete {} states {} steps {} breaches {:?} headless {:?} {:?}", scene.name, found.complete, found.states, found.steps, found.breaches, found.headless, begun.elapsed());
        if let Some((_, s, _)) = found.breaches.first() { for (m, w) in found.path(*s) { println!("{m:?}\n   {:?}", w.row); for m in &w.members { println!("     {m:?}") } } }
        else if let Some((s, who)) = found.headless.1 { println!("who {who}"); for (m, w) in found.path(s) { println!("{m:?}\n   {:?}", w.row); for m in &w.members { println!("     {m:?}") } } }
    }
}
