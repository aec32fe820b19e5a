//! Panics by task group.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName};
use measured::metric::MetricEncoding;
use measured::metric::counter::{CounterState, write_counter};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;

/// Counts per group. The names are those in the source, so their number does not grow.
#[derive(Debug, Default)]
pub struct TaskMetrics {
    panics: Mutex<BTreeMap<&'static str, u64>>,
}

impl TaskMetrics {
    fn panics_by_group(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the group with 0 from its beginning.
    pub fn register(&self, group: &'static str) {
        self.panics_by_group().entry(group).or_default();
    }

    /// Counts a panic: of a task of the group, or of work that the group catches itself.
    pub fn panicked(&self, group: &'static str) {
        *self.panics_by_group().entry(group).or_default() += 1;
    }

    /// How many tasks of the group have panicked.
    #[must_use]
    pub fn panics(&self, group: &str) -> u64 {
        self.panics_by_group().get(group).copied().unwrap_or_default()
    }
}

struct Group(&'static str);

impl LabelGroup for Group {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const GROUP: &LabelName = LabelName::from_str("group");
        v.write_value(GROUP, &self.0);
    }
}

impl<Enc: Encoding> MetricGroup<Enc> for TaskMetrics
where
    CounterState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const NAME: &MetricName = MetricName::from_str("panics_total");
        enc.write_help(NAME, "Tasks that panicked, by the group they ran in.")?;
        CounterState::write_type(NAME, enc)?;
        for (group, count) in self.panics_by_group().iter() {
            write_counter(enc, NAME, Group(group), *count)?;
        }
        Ok(())
    }
}
