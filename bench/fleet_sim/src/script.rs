//! What the agents do besides their contract: how slow they are, which fail, flap or are away.
//!
//! A script is a seed and groups of agents; an agent goes by the last group that has it. Every draw is a function of the
//! seed, the agent, what is drawn and how often it was drawn for this agent: the same seed gives the same behaviour whatever
//! the order in which agents are asked.

use serde::{Deserialize, Serialize};

/// A script. The empty one has every agent answer at once and apply a spec in 10 ms.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Where every draw begins.
    pub seed: u64,
    /// Groups; of those that have an agent the last one counts.
    pub groups: Vec<Group>,
}

/// Agents `from..to` and what they do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// The first agent.
    pub from: u32,
    /// The first one behind; all that follow where absent.
    pub to: Option<u32>,
    /// Time before each answer.
    pub answer: Latency,
    /// Time to apply a spec, and to stop.
    pub apply: Latency,
    /// Some are slower than that.
    pub slow: Option<Slow>,
    /// Share of the agents, 0 to 1, at which every application fails: the generation ends as rejected.
    pub failing: f64,
    /// Share of the requests, 0 to 1, whose connection is reset instead of an answer.
    pub cut: f64,
    /// Some come and go.
    pub flapping: Option<Flapping>,
    /// All of them are away.
    pub away: Option<Away>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            from: 0,
            to: None,
            answer: Latency::FixedMs(0.0),
            apply: Latency::FixedMs(10.0),
            slow: None,
            failing: 0.0,
            cut: 0.0,
            flapping: None,
            away: None,
        }
    }
}

/// A distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// Always this.
    FixedMs(f64),
    /// Evenly between two.
    UniformMs(f64, f64),
    /// Memoryless, with this mean.
    ExponentialMs(f64),
}

/// Slow agents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Share of the agents, 0 to 1.
    pub share: f64,
    /// What each answer and each application of theirs takes longer.
    pub extra: Latency,
}

/// Agents that come and go by themselves: their connections are reset while they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flapping {
    /// Share of the agents, 0 to 1.
    pub share: f64,
    /// How long they are there.
    pub up_ms: u64,
    /// How long they are gone.
    pub down_ms: u64,
}

/// How an agent is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Away {
    /// As after its process died: its connections are reset, new ones at once.
    Reset,
    /// As while its process or host stands still: what is asked is answered when it is back.
    Silent,
}

/// Longer is a script of its own.
const LONGEST_FLAP_MS: u64 = 3_600_000;

/// Why a script cannot be used; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {msg}")]
pub struct ScriptError {
    /// Path of the field.
    pub path: String,
    /// What is wrong.
    pub msg: &'static str,
}

/// What is drawn, so that one draw does not tell about another.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Answer = 1,
    Apply = 2,
    Slow = 3,
    SlowExtra = 4,
    Failing = 5,
    Cut = 6,
    Flapping = 7,
    Phase = 8,
}

impl Script {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), ScriptError> {
        for (i, group) in self.groups.iter().enumerate() {
            group.check().map_err(|(field, msg)| ScriptError { path: format!("groups[{i}].{field}"), msg })?;
        }
        Ok(())
    }

    /// What agent `n` goes by.
    #[must_use]
    pub fn of(&self, n: u32) -> Role<'_> {
        let has = |group: &&Group| n >= group.from && group.to.is_none_or(|to| n < to);
        Role { seed: self.seed, n, group: self.groups.iter().rev().find(has) }
    }
}

impl Group {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.to.is_some_and(|to| to < self.from) {
            return Err(("to", "it is below `from`"));
        }
        let flapping = self.flapping.map_or(0.0, |flapping| flapping.share);
        let slow = self.slow.map_or(0.0, |slow| slow.share);
        for (field, share) in
            [("failing", self.failing), ("cut", self.cut), ("slow.share", slow), ("flapping.share", flapping)]
        {
            if !(0.0..=1.0).contains(&share) {
                return Err((field, "a share is 0 to 1"));
            }
        }
        let sane = |ms: u64| (1..=LONGEST_FLAP_MS).contains(&ms);
        if self.flapping.is_some_and(|flapping| !sane(flapping.up_ms) || !sane(flapping.down_ms)) {
            return Err(("flapping", "`up_ms` and `down_ms` are 1 to 3600000"));
        }
        let extra = self.slow.map_or(Latency::FixedMs(0.0), |slow| slow.extra);
        for (field, latency) in [("answer", self.answer), ("apply", self.apply), ("slow.extra", extra)] {
            if !latency.is_sane() {
                return Err((field, "a time is 0 to 3600000 ms, the smaller first"));
            }
        }
        Ok(())
    }
}

impl Latency {
    const LONGEST_MS: f64 = 3_600_000.0;

    fn is_sane(self) -> bool {
        let fits = |ms: f64| (0.0..=Self::LONGEST_MS).contains(&ms);
        match self {
            Self::FixedMs(ms) | Self::ExponentialMs(ms) => fits(ms),
            Self::UniformMs(low, high) => fits(low) && fits(high) && low <= high,
        }
    }

    /// In microseconds, for a number evenly drawn from 0 to 1.
    fn at(self, drawn: f64) -> u64 {
        let ms = match self {
            Self::FixedMs(ms) => ms,
            Self::UniformMs(low, high) => low + (high - low) * drawn,
            Self::ExponentialMs(mean) => -(1.0 - drawn).ln() * mean,
        };
        micros(ms.min(Self::LONGEST_MS))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are checked: 0 to an hour")]
fn micros(ms: f64) -> u64 {
    (ms * 1000.0) as u64
}

/// What one agent does.
#[derive(Debug, Clone, Copy)]
pub struct Role<'s> {
    seed: u64,
    n: u32,
    group: Option<&'s Group>,
}

impl Role<'_> {
    /// Whether every application of a spec fails here.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.group.is_some_and(|group| self.is_one_of(group.failing, Draw::Failing))
    }

    /// Whether this one is slower than its group.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.group.and_then(|group| group.slow).is_some_and(|slow| self.is_one_of(slow.share, Draw::Slow))
    }

    /// Time before answer number `k`, in microseconds.
    #[must_use]
    pub fn answer_us(&self, k: u64) -> u64 {
        let latency = self.group.map_or(Group::default().answer, |group| group.answer);
        latency.at(self.draw(Draw::Answer, k)) + self.extra_us(k)
    }

    /// Time to apply spec number `k`, in microseconds.
    #[must_use]
    pub fn apply_us(&self, k: u64) -> u64 {
        let latency = self.group.map_or(Group::default().apply, |group| group.apply);
        latency.at(self.draw(Draw::Apply, k)) + self.extra_us(k)
    }

    /// Whether the connection of request number `k` is reset.
    #[must_use]
    pub fn cuts(&self, k: u64) -> bool {
        self.group.is_some_and(|group| group.cut > 0.0 && self.draw(Draw::Cut, k) < group.cut)
    }

    /// Whether and how it is away, `now_us` after the script began.
    #[must_use]
    pub fn away(&self, now_us: u64) -> Option<Away> {
        let group = self.group?;
        group.away.or_else(|| self.is_down(now_us).then_some(Away::Reset))
    }

    /// How long until it goes or comes by itself, `now_us` after the script began; none where it does not.
    #[must_use]
    pub fn next_turn_us(&self, now_us: u64) -> Option<u64> {
        let (at, up, period) = self.turn(now_us)?;
        Some(if at < up { up - at } else { period - at })
    }

    fn is_down(&self, now_us: u64) -> bool {
        self.turn(now_us).is_some_and(|(at, up, _)| at >= up)
    }

    /// Where in its coming and going it is, how long of it it is there, and how long all of it takes.
    fn turn(&self, now_us: u64) -> Option<(u64, u64, u64)> {
        let flapping = self.group?.flapping.filter(|it| self.is_one_of(it.share, Draw::Flapping))?;
        let (up, period) = (flapping.up_ms * 1000, (flapping.up_ms + flapping.down_ms) * 1000);
        Some(((now_us + self.bits(Draw::Phase, 0) % period) % period, up, period))
    }

    fn extra_us(&self, k: u64) -> u64 {
        match self.group.and_then(|group| group.slow) {
            Some(slow) if self.is_slow() => slow.extra.at(self.draw(Draw::SlowExtra, k)),
            Some(_) | None => 0,
        }
    }

    fn is_one_of(&self, share: f64, what: Draw) -> bool {
        share > 0.0 && self.draw(what, 0) < share
    }

    /// Evenly from 0 (included) to 1 (excluded).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn draw(&self, what: Draw, k: u64) -> f64 {
        (self.bits(what, k) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn bits(&self, what: Draw, k: u64) -> u64 {
        [u64::from(self.n), what as u64, k].into_iter().fold(mix(self.seed), |state, word| mix(state ^ mix(word)))
    }
}

/// The finalizer of splitmix64: every bit of the word moves every bit of the result.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_group_counts_and_nobody_is_the_default() {
        let script = script(
            r#"{"groups": [{"from": 10, "to": 30, "apply": {"fixed_ms": 1}}, {"from": 20, "apply": {"fixed_ms": 2}}]}"#,
        );
        let applies = [9, 10, 19, 20, 1000].map(|n| script.of(n).apply_us(0));
        assert_eq!(applies, [10_000, 1000, 1000, 2000, 2000]);
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let text = r#"{"seed": 7, "groups": [{"failing": 0.1, "cut": 0.5, "answer": {"uniform_ms": [1, 9]},
            "slow": {"share": 0.3, "extra": {"exponential_ms": 50}}}]}"#;
        let all = |script: &Script| -> Vec<(bool, bool, u64, bool)> {
            let of =
                |n| (script.of(n).fails(), script.of(n).is_slow(), script.of(n).answer_us(3), script.of(n).cuts(5));
            (0..1000).map(of).collect()
        };
        assert_eq!(all(&script(text)), all(&script(text)));
        assert_ne!(all(&script(text)), all(&Script { seed: 8, ..script(text) }));
    }

    #[test]
    fn shares_are_met() {
        let script =
            script(r#"{"seed": 1, "groups": [{"failing": 0.01, "slow": {"share": 0.2, "extra": {"fixed_ms": 5}}}]}"#);
        let fails = (0..20_000).filter(|n| script.of(*n).fails()).count();
        let slow = (0..20_000).filter(|n| script.of(*n).is_slow()).count();
        assert!((150..250).contains(&fails), "{fails}");
        assert!((3800..4200).contains(&slow), "{slow}");
        let both = (0..20_000).filter(|n| script.of(*n).fails() && script.of(*n).is_slow()).count();
        assert!(both < 80, "one draw tells about the other: {both}");
    }

    #[test]
    fn who_flaps_is_down_for_its_part_of_the_time() {
        let script = script(r#"{"groups": [{"flapping": {"share": 1.0, "up_ms": 300, "down_ms": 100}}]}"#);
        let down = (0..4000u64).filter(|ms| script.of(5).away(ms * 1000).is_some()).count();
        assert_eq!(down, 1000);
        let turn = script.of(5).next_turn_us(0).unwrap();
        assert_ne!(script.of(5).away(turn - 1), script.of(5).away(turn));
        let at_once = (0..4000).filter(|n| script.of(*n).away(0).is_some()).count();
        assert!((900..1100).contains(&at_once), "they flap in step: {at_once}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_path() {
        for (text, path) in [
            (r#"{"groups": [{}, {"failing": 1.1}]}"#, "groups[1].failing"),
            (r#"{"groups": [{"from": 5, "to": 4}]}"#, "groups[0].to"),
            (r#"{"groups": [{"answer": {"uniform_ms": [2, 1]}}]}"#, "groups[0].answer"),
            (r#"{"groups": [{"apply": {"fixed_ms": -1}}]}"#, "groups[0].apply"),
            (r#"{"groups": [{"flapping": {"share": 1, "up_ms": 0, "down_ms": 1}}]}"#, "groups[0].flapping"),
        ] {
            assert_eq!(script(text).check().unwrap_err().path, path);
        }
        assert!(serde_json::from_str::<Script>(r#"{"groups": [{"typo": 1}]}"#).is_err());
    }
}
