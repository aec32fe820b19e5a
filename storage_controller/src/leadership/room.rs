//! The driver: the only owner of the leadership machine. It feeds events in and carries actions out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::Term;
use pgfleet_api::controller::{Candidate, StepDownResponse};
use pgfleet_clients::peer::PeerClient;
use pgfleet_domain::leadership::{
    Action, AskEnd, Began, Claim, ClaimEnd, Config, Ending, Event, Phase as Where, State, decide, judge,
};
use pgfleet_persistence::{Database, Ended, LeaderTerm, LeaseSession};
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::pause::{PausePoint, Pauses};
use pgfleet_runtime::supervisor::{Kind, TaskGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::ask;
use super::clock::now;
use super::handle::{Handle, NotThatLeader, Request, Standing, StepDownAnswer};
use super::leader::{Leader, Mandate, TakeUp, TakeUpError, Work};
use super::lease::{Lease, Order};
use super::metrics::{LeadershipMetrics, Phase};
use super::trace::{self, Trace};

/// The machine looks at its clock this often.
const TICK: Duration = Duration::from_millis(50);

/// Times of the chair that are not in the machine's own configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine's configuration.
    pub machine: Config,
    /// How long a leader gets to answer the request to step down.
    pub step_down_timeout: Duration,
    /// How long a step-down may take to drain.
    pub step_down_grace: Duration,
}

/// Everything that reaches the driver.
pub(super) enum Input {
    Event(Event),
    Asked(AskEnd, Option<StepDownResponse>),
    Won { term: LeaderTerm, how: Began, sent_at: Duration },
    TookUp(Term, Result<Arc<dyn Work>, TakeUpError>),
    Stopped(StepDownResponse, Option<LeaderTerm>),
}

/// The room.
pub struct Room {
    state: State,
    settings: Settings,
    peers: PeerClient,
    take_up: TakeUp,
    pauses: Pauses,
    metrics: Arc<LeadershipMetrics>,
    tasks: TaskGroup,
    lease: mpsc::Sender<Order>,
    reports: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    requests: mpsc::Receiver<Request>,
    standing: watch::Sender<Standing>,
    handle: Handle,
    leader: Option<Leader>,
    /// The term that ended last, for as long as its row may have to be released.
    ended_term: Option<LeaderTerm>,
    /// Why the take-over failed, for the history.
    failure: Option<(Ended, String)>,
    handed_over: Option<StepDownResponse>,
    answered: Option<Arc<StepDownResponse>>,
    waiting: Vec<oneshot::Sender<StepDownAnswer>>,
    began: Option<Instant>,
    phase_began: Instant,
    trace: Trace,
}

/// What the room is made of.
pub struct Parts {
    /// Times and the machine's configuration.
    pub settings: Settings,
    /// The database.
    pub database: Arc<Database>,
    /// The other members.
    pub peers: PeerClient,
    /// Begins a leader's work.
    pub take_up: TakeUp,
    /// Test doors.
    pub pauses: Pauses,
    /// What it counts.
    pub metrics: Arc<LeadershipMetrics>,
    /// Where its tasks run.
    pub tasks: TaskGroup,
}

impl Room {
    /// Builds the room and starts the task of its connection; the machine runs in [`Room::run`].
    #[must_use]
    pub fn open(parts: Parts) -> (Self, Handle) {
        let Parts { settings, database, peers, take_up, pauses, metrics, tasks } = parts;
        let (reports, inputs) = mpsc::channel(64);
        let (lease, orders) = mpsc::channel(32);
        let (ask, requests) = mpsc::channel(64);
        let machine = settings.machine.clone();
        let state = State::new(machine.clone());
        let (standing, seen) = watch::channel(standing_of(&state));
        metrics.standing(state.role(), None);
        let keeper = Lease {
            session: LeaseSession::new(database),
            address: machine.address.clone(),
            lease: machine.lease,
            renew: machine.renew,
            metrics: metrics.clone(),
            reports: reports.clone(),
        };
        tasks.spawn("lease", Kind::Vital, keeper.run(orders, tasks.token()));
        let handle = Handle::new(machine.me, &machine.address, seen, ask);
        let room = Self {
            state,
            settings,
            peers,
            take_up,
            pauses,
            metrics,
            tasks,
            lease,
            reports,
            inputs,
            requests,
            standing,
            handle: handle.clone(),
            leader: None,
            ended_term: None,
            failure: None,
            handed_over: None,
            answered: None,
            waiting: Vec::new(),
            began: None,
            phase_began: Instant::now(),
            trace: Trace::default(),
        };
        (room, handle)
    }

    /// Runs the machine until the process may end; `terminate` asks for that.
    pub async fn run(mut self, terminate: CancellationToken) -> Ending {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminating = false;
        loop {
            let ending = tokio::select! {
                biased;
                () = terminate.cancelled(), if !terminating => {
                    terminating = true;
                    self.step(Event::Terminate).await
                }
                Some(input) = self.inputs.recv() => self.input(input).await,
                Some(request) = self.requests.recv() => self.request(request).await,
                _ = ticks.tick() => self.step(Event::Tick).await,
            };
            if let Some(ending) = ending {
                return ending;
            }
        }
    }

    async fn input(&mut self, input: Input) -> Option<Ending> {
        match input {
            Input::Event(event) => self.step(event).await,
            Input::Asked(end, answer) => {
                self.handed_over = answer;
                self.end_phase(Phase::StepDown);
                self.step(Event::AskEnded(end)).await
            }
            Input::Won { term, how, sent_at } => self.won(term, how, sent_at).await,
            Input::TookUp(term, outcome) => self.took_up(term, outcome).await,
            Input::Stopped(answer, term) => {
                self.ended_term = term;
                let answer = Arc::new(answer);
                self.answered = Some(answer.clone());
                let waiting = std::mem::take(&mut self.waiting);
                let ending = self.step(Event::Drained).await;
                let consented = !matches!(self.state.phase, Where::Candidate(_));
                for caller in waiting {
                    let leader = self.state.leader();
                    let reply = if consented { Ok(answer.clone()) } else { Err(NotThatLeader { leader }) };
                    // A caller that went away asks again.
                    let _ = caller.send(reply);
                }
                ending
            }
        }
    }

    async fn request(&mut self, request: Request) -> Option<Ending> {
        match request {
            Request::Fenced(term) if self.state.held_term() == Some(term) => self.step(Event::Fenced).await,
            Request::Fenced(_) => None,
            Request::Heard(leader) => self.step(Event::Heard(leader)).await,
            Request::MayLead(may) => self.step(Event::MayLead(may)).await,
            Request::StepDown { target, successor, answer } => {
                let mine = self.own_term();
                let meant = target.is_none_or(|t| t.instance_id == self.state.config.me && Some(t.term) == mine);
                match (&self.state.phase, &self.answered) {
                    (Where::SteppedDown { .. }, Some(known)) if meant => drop(answer.send(Ok(known.clone()))),
                    (Where::SteppingDown { .. }, _) if meant => self.waiting.push(answer),
                    (Where::Leader { .. } | Where::TakingOver { .. }, _) if meant => {
                        self.waiting.push(answer);
                        return self.step(Event::StepDownAsked { successor }).await;
                    }
                    _ => drop(answer.send(Err(NotThatLeader { leader: self.state.leader() }))),
                }
                None
            }
        }
    }

    fn own_term(&self) -> Option<Term> {
        match &self.state.phase {
            Where::TakingOver { term, .. }
            | Where::Leader { term, .. }
            | Where::SteppingDown { term, .. }
            | Where::SteppedDown { term, .. } => Some(*term),
            Where::Candidate(_) | Where::Gone => None,
        }
    }

    /// Decides, publishes, and only then acts, so that a door never executes for a role that has ended.
    async fn step(&mut self, event: Event) -> Option<Ending> {
        let (next, actions) = decide(&self.state, event, now());
        let (was, is) = (self.state.role(), next.role());
        self.state = next;
        self.handle.proof.set(self.state.proved_until());
        let standing = standing_of(&self.state);
        if was != is {
            tracing::info!(from = was.as_str(), to = is.as_str(), term = ?standing.term.map(Term::get), "role changed");
            self.metrics.standing(is, standing.term);
        }
        self.standing.send_if_modified(|known| {
            let changed = *known != standing;
            *known = standing;
            changed
        });
        let mut ending = None;
        for action in actions {
            ending = self.act(action).await.or(ending);
        }
        ending
    }

    async fn act(&mut self, action: Action) -> Option<Ending> {
        match action {
            // A full queue means that the database is slow; the next tick asks again.
            Action::ReadRow => drop(self.lease.try_send(Order::Read)),
            Action::AskStatus(row) => {
                let (peers, own) = (self.peers.clone(), self.state.config.address.clone());
                self.later("ask_status", async move {
                    let reply = ask::status(&peers, &row.address).await;
                    Input::Event(Event::Answered { term: row.term, answer: judge(&row, &own, &reply) })
                });
            }
            Action::AskStepDown(leader) => {
                self.begin();
                let (peers, pauses, limit) = (self.peers.clone(), self.pauses.clone(), self.settings.step_down_timeout);
                let me = Candidate { instance_id: self.state.config.me, address: self.state.config.address.clone() };
                tracing::info!(leader = %leader.address, term = %leader.term, "asking the leader to step down");
                self.later("ask_step_down", async move {
                    let (end, answer) = ask::step_down(&peers, &leader, &me, limit).await;
                    if end == AskEnd::Consented {
                        pauses.at(PausePoint::AfterStepDown).await;
                    }
                    Input::Asked(end, answer)
                });
            }
            Action::Claim(claim) => self.claim(claim).await,
            Action::TakeOver(_) => self.take_over(),
            Action::StopLeading { flush } => self.stop_leading(flush),
            Action::Release(term, why) => self.release(term, why).await,
            Action::Exit(ending) => return Some(ending),
        }
        None
    }

    fn begin(&mut self) {
        self.began.get_or_insert_with(Instant::now);
        self.phase_began = Instant::now();
        self.trace.begin();
    }

    fn end_phase(&mut self, phase: Phase) {
        self.metrics.phase(phase, self.phase_began.elapsed());
        self.trace.phase(phase);
        self.phase_began = Instant::now();
    }

    async fn claim(&mut self, claim: Claim) {
        if self.began.is_none() {
            self.begin();
        }
        tracing::info!(how = claim.how.as_str(), over = ?claim.seen.map(|seen| seen.term.get()), "claiming leadership");
        self.order(Order::Claim(claim)).await;
    }

    async fn order(&self, order: Order) {
        if self.lease.send(order).await.is_err() {
            tracing::debug!("the lease task has ended; the process is ending");
        }
    }

    /// Runs something outside the driver; its result comes back as an input.
    fn later(&self, name: &'static str, work: impl Future<Output = Input> + Send + 'static) {
        let reports = self.reports.clone();
        self.tasks.spawn(name, Kind::Step, async move {
            let input = work.await;
            // The room ends before its helpers do.
            let _ = reports.send(input).await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    async fn won(&mut self, term: LeaderTerm, how: Began, sent_at: Duration) -> Option<Ending> {
        let number = term.term();
        self.metrics.took(how);
        self.end_phase(Phase::Claim);
        tracing::info!(term = %number, how = how.as_str(), "leadership claimed");
        if !matches!(self.state.phase, Where::Candidate(_)) {
            // The process was asked to end while its claim was under way.
            self.ended_term = Some(term);
            self.release(number, Ending::Done).await;
            return None;
        }
        let term = Arc::new(term);
        self.order(Order::Hold(term.clone())).await;
        self.leader = Some(Leader { term, tasks: self.tasks.child("leader"), work: None });
        self.step(Event::ClaimEnded(ClaimEnd::Won { term: number, sent_at })).await
    }

    fn take_over(&mut self) {
        let Some(leader) = &self.leader else { return };
        let number = leader.term.term();
        let handed_over = self.handed_over.take().map(|answer| answer.computes).unwrap_or_default();
        let mandate = Mandate {
            term: leader.term.clone(),
            tasks: leader.tasks.clone(),
            handed_over,
            chair: self.handle.clone(),
            metrics: self.metrics.clone(),
        };
        let (reports, work, pauses) = (self.reports.clone(), self.take_up.clone(), self.pauses.clone());
        let span = self.trace.take_up(number);
        // In the leader's own group: whoever stops the leadership joins its beginning, too.
        leader.tasks.spawn("take_up", Kind::Step, async move {
            pauses.at(PausePoint::AfterClaim).await;
            let outcome = work(mandate).instrument(span).await;
            let _ = reports.send(Input::TookUp(number, outcome)).await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    async fn took_up(&mut self, term: Term, outcome: Result<Arc<dyn Work>, TakeUpError>) -> Option<Ending> {
        if self.state.held_term() != Some(term) {
            // It was told to end while it began, and its tasks are joined; what it opened is closed here.
            if let Ok(work) = outcome {
                work.close(false).await;
            }
            return None;
        }
        match (outcome, &mut self.leader) {
            (Ok(work), Some(leader)) => {
                leader.work = Some(work);
                let ending = self.step(Event::TookOver).await;
                if let Some(began) = self.began.take() {
                    let gap = began.elapsed();
                    self.trace.end(term);
                    self.metrics.gap(gap);
                    tracing::info!(%term, duration_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX), "leading");
                }
                ending
            }
            (Err(error), Some(_)) => {
                let reason = chain(&error);
                tracing::error!(%term, "cannot take over: {reason}");
                self.failure = Some((error.ended(), reason));
                self.end_failed().await;
                self.step(Event::TakeOverFailed).await
            }
            (_, None) => None,
        }
    }

    /// Ends a leadership that never began to work, so that its row can be released.
    async fn end_failed(&mut self) {
        if let Some(leader) = self.leader.take() {
            let_go(&self.lease).await;
            self.ended_term = leader.stop(false, self.settings.step_down_grace).await.1;
        }
    }

    fn stop_leading(&mut self, flush: bool) {
        self.began = None;
        self.trace = Trace::default();
        let Some(leader) = self.leader.take() else { return };
        let (lease, grace) = (self.lease.clone(), self.settings.step_down_grace);
        self.later("stop_leading", async move {
            let span = trace::step_down(leader.term.term(), flush);
            let ending = async {
                let_go(&lease).await;
                leader.stop(flush, grace).await
            };
            let (answer, term) = ending.instrument(span.clone()).await;
            span.record("complete", answer.complete);
            tracing::info!(term = %answer.term, complete = answer.complete, "leadership ended");
            Input::Stopped(answer, term)
        });
    }

    async fn release(&mut self, number: Term, why: Ending) {
        let Some(term) = self.ended_term.take().filter(|term| term.term() == number) else {
            tracing::warn!(term = %number, "the row is not released: not everything of this term has ended; the next leader ends it");
            return;
        };
        let (how, note) = match (why, self.failure.take()) {
            (Ending::TakeOverFailed, Some((how, reason))) => (how, Some(reason)),
            (Ending::TakeOverFailed, None) => (Ended::TakeOverFailed, None),
            (Ending::Done | Ending::Unauthorized, _) => (Ended::Released, None),
        };
        let (done, released) = oneshot::channel();
        self.order(Order::Release { term, how, note, done }).await;
        let _ = released.await;
    }
}

/// Has the lease task stop renewing and give its clone of the term back.
async fn let_go(lease: &mpsc::Sender<Order>) {
    let (done, gone) = oneshot::channel();
    // Errors mean that the task has ended, and its clone with it.
    if lease.send(Order::LetGo(done)).await.is_ok() {
        let _ = gone.await;
    }
}

fn standing_of(state: &State) -> Standing {
    let (term, successor) = match &state.phase {
        Where::TakingOver { term, .. } | Where::Leader { term, .. } | Where::SteppingDown { term, .. } => {
            (Some(*term), None)
        }
        Where::SteppedDown { term, successor } => (Some(*term), successor.clone()),
        Where::Candidate(_) | Where::Gone => (None, None),
    };
    Standing { role: state.role(), term, leader: state.leader(), successor }
}
