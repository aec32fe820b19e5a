//! How the driver begins: with a spec from the command line, or with the one the ledger has.

use std::sync::Arc;

use pgfleet_api::agent::ErrorDetail;
use pgfleet_api::spec::OnFailure;
use pgfleet_domain::lifecycle::Event;
use pgfleet_domain::spec::parse;
use serde_json::Value;

use super::admission::{Decision, admit};
use super::body::Body;
use super::driver::{Driver, Job, Via};
use super::handle::{Configure, Origin, Refusal};
use super::work::{Order, Prepared, Task};
use crate::ledger::{Entry, Kept};

impl<B: Body> Driver<B> {
    /// A spec from the command line, or the one the ledger has.
    pub(super) async fn begin_with_what_is_known(&mut self) {
        if let Some(spec) = self.options.spec.take() {
            if self.ledger.entry().record.is_none() {
                self.begin_with_given(spec).await;
                return;
            }
            tracing::warn!("the spec given at start is ignored: the ledger holds a fenced one");
        }
        let entry = self.ledger.entry().clone();
        self.good = entry.good.as_ref().and_then(read);
        // What was given up is not applied again. One that is to be kept for somebody to look at is started as it is.
        let keeps = entry.rejected && self.keeps_what_failed();
        if keeps {
            self.accepted = entry.accepted.as_ref().and_then(read);
        }
        let kept = if entry.rejected && !keeps { entry.good.clone() } else { entry.accepted.clone() };
        if entry.accepted.is_none() && kept.is_none() {
            return;
        }
        self.step(Event::StartRequested);
        match kept {
            Some(kept) if !keeps => self.begin_with_kept(&entry, kept).await,
            Some(_) | None => self.begin(Job::own(Order::Start, Via::Init)),
        }
    }

    async fn begin_with_given(&mut self, spec: Value) {
        self.step(Event::StartRequested);
        let configure = Configure { spec, fence: None, origin: Origin::File };
        match admit(&self.body, &self.options.compute_id, &mut self.ledger, &configure, false).await {
            Ok(Decision::Take(prepared)) => {
                self.accepted = Some(Arc::clone(&prepared));
                self.begin_at_start(prepared, self.ledger.entry().accepted.clone());
            }
            Ok(Decision::Repeated) => {}
            Err(refusal) => self.fail_at_start(&refusal),
        }
    }

    async fn begin_with_kept(&mut self, entry: &Entry, kept: Kept) {
        match self.body.prepare(&kept.spec, false).await {
            Ok(prepared) => {
                if entry.accepted.as_ref() == Some(&kept) {
                    self.accepted = Some(Arc::clone(&prepared));
                }
                self.begin_at_start(prepared, Some(kept));
            }
            Err(refusal) => self.fail_at_start(&refusal),
        }
    }

    fn begin_at_start(&mut self, prepared: Arc<Prepared>, kept: Option<Kept>) {
        self.publisher.show_ledger(self.ledger.entry());
        self.publisher.update(|status| status.ignored_fields.clone_from(&prepared.ignored_fields));
        self.begin(Job { kept, ..Job::own(Order::Apply(prepared), Via::Init) });
    }

    fn fail_at_start(&mut self, refusal: &Refusal) {
        let (object, message) = match refusal {
            Refusal::Content { path, msg } => (Some(path.clone()), msg.clone()),
            other => (None, format!("{other:?}")),
        };
        self.show_failure(&[ErrorDetail { phase: "spec".into(), object, sqlstate: None, message }]);
        self.step(Event::StartFailed);
    }

    /// Whether the accepted spec asks to be left in place when PostgreSQL does not start with it.
    pub(super) fn keeps_what_failed(&self) -> bool {
        let accepted = self.ledger.entry().accepted.as_ref().and_then(read);
        accepted.is_some_and(|prepared| prepared.spec.on_failure == OnFailure::Keep)
    }

    /// An order with what becomes of it if PostgreSQL does not start.
    pub(super) fn task(&self, order: &Order) -> Task {
        let wanted = match order {
            Order::Apply(prepared) => Some(prepared),
            Order::Start | Order::Restart => self.accepted.as_ref(),
            Order::Stop => None,
        };
        let on_failure = wanted.map_or(OnFailure::Rollback, |prepared| prepared.spec.on_failure);
        let good = self.good.clone().filter(|good| wanted.is_none_or(|wanted| !Arc::ptr_eq(good, wanted)));
        Task { order: order.clone(), on_failure, good }
    }
}

/// The spec as it was accepted; its settings are in the configuration that was kept.
fn read(kept: &Kept) -> Option<Arc<Prepared>> {
    let parsed = parse(&kept.spec).ok()?;
    let (spec, ignored_fields) = (parsed.spec, parsed.ignored_fields);
    Some(Arc::new(Prepared { spec, ignored_fields, settings: Vec::new(), promote: None }))
}
