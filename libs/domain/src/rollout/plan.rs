//! What a strategy comes to for so many computes.

use std::time::Duration;

use pgfleet_api::rollout::{RolloutPlan, RolloutStrategy};

use crate::spec::SpecError;

const MAX_GATE_S: u32 = 86_400;
const MAX_SOAK_S: u32 = 7 * 86_400;

/// Waves and limits, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Computes that are changed: ordinals from 0. Those above were left out from the start.
    pub computes: u32,
    /// Of the first wave, which has number 0; none if 0.
    pub canary: u32,
    /// Of each later one.
    pub wave: u32,
    /// May at one time be touched and not healthy.
    pub max_unavailable: u32,
    /// May fail.
    pub error_budget: u32,
    /// A finished wave is watched for so long.
    pub soak: Duration,
    /// A touched compute must be healthy within this.
    pub gate_timeout: Duration,
}

impl Plan {
    /// The plan for so many computes.
    ///
    /// # Errors
    /// A number that cannot work, with the field's path.
    pub fn new(strategy: &RolloutStrategy, computes: u32) -> Result<Self, SpecError> {
        let refuse = |field: &str, msg: &str| Err(SpecError { path: format!("strategy.{field}"), msg: msg.to_owned() });
        let plan = Self {
            computes,
            canary: strategy.canary.of(computes).min(computes),
            wave: strategy.wave.of(computes),
            max_unavailable: strategy.max_unavailable.of(computes),
            error_budget: strategy.error_budget,
            soak: Duration::from_secs(strategy.soak_s.into()),
            gate_timeout: Duration::from_secs(strategy.gate_timeout_s.into()),
        };
        if plan.wave == 0 {
            return refuse("wave", "a wave has at least one compute");
        }
        if plan.max_unavailable == 0 {
            return refuse("max_unavailable", "at least one compute must be allowed to be changed");
        }
        if plan.error_budget >= plan.max_unavailable {
            let msg = format!(
                "it must be below max_unavailable, which is {}: a compute that failed stays unavailable",
                plan.max_unavailable
            );
            return refuse("error_budget", &msg);
        }
        if !(1..=MAX_GATE_S).contains(&strategy.gate_timeout_s) {
            return refuse("gate_timeout_s", "it is 1 to 86400");
        }
        if strategy.soak_s > MAX_SOAK_S {
            return refuse("soak_s", "it is 0 to 604800");
        }
        Ok(plan)
    }

    /// Number of the first wave.
    #[must_use]
    pub const fn first_wave(&self) -> u32 {
        if self.canary > 0 { 0 } else { 1 }
    }

    /// The wave of a compute; none if it is left out.
    #[must_use]
    pub const fn wave_of(&self, ordinal: u32) -> Option<u32> {
        if ordinal >= self.computes {
            return None;
        }
        if ordinal < self.canary { Some(0) } else { Some(1 + (ordinal - self.canary) / self.wave) }
    }

    /// The first compute of a wave.
    #[must_use]
    pub fn start(&self, wave: u32) -> u32 {
        if wave == 0 { 0 } else { self.canary.saturating_add((wave - 1).saturating_mul(self.wave)).min(self.computes) }
    }

    /// The first compute after a wave.
    #[must_use]
    pub fn end(&self, wave: u32) -> u32 {
        self.start(wave + 1)
    }

    /// How many waves there are, the canary's included.
    #[must_use]
    pub fn waves(&self) -> u32 {
        u32::from(self.canary > 0) + (self.computes - self.canary).div_ceil(self.wave)
    }

    /// As it is shown.
    #[must_use]
    pub fn view(&self) -> RolloutPlan {
        let seconds = |length: Duration| u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
        RolloutPlan {
            computes: self.computes,
            canary: self.canary,
            wave: self.wave,
            waves: self.waves(),
            max_unavailable: self.max_unavailable,
            error_budget: self.error_budget,
            soak_s: seconds(self.soak),
            gate_timeout_s: seconds(self.gate_timeout),
        }
    }
}

impl From<&RolloutPlan> for Plan {
    /// What was shown, and stored. A number that no plan has is made one that works.
    fn from(view: &RolloutPlan) -> Self {
        Self {
            computes: view.computes,
            canary: view.canary.min(view.computes),
            wave: view.wave.max(1),
            max_unavailable: view.max_unavailable.max(1),
            error_budget: view.error_budget,
            soak: Duration::from_secs(view.soak_s.into()),
            gate_timeout: Duration::from_secs(view.gate_timeout_s.into()),
        }
    }
}
