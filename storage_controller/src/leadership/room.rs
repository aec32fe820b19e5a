//! The driver: the only owner of the leadership machine. It feeds events in; what comes out is carried out in `act`.
//!
//! Called by `app`, once. Everything that takes time runs beside it and comes back as an [`Input`], so the machine always
//! answers: a suspended leader can be asked to step down, and a process that waits for its database can be told to end.

mod act;
mod loss;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::Term;
use pgfleet_api::controller::{LeaderRef, Role, StepDownRequest, StepDownResponse, TakeOverResponse};
use pgfleet_clients::peer::PeerClient;
use pgfleet_domain::leadership::{
    AskEnd, Began, ClaimEnd, Config, Ending, Event, Phase as Where, State, Waiting, decide,
};
use pgfleet_persistence::{ConfirmSession, Database, Ended, Head, LeaderTerm, LeaseSession};
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::pause::Pauses;
use pgfleet_runtime::queue::refuse_rest;
use pgfleet_runtime::supervisor::{Kind, TaskGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::clock::now;
use super::confirm::Questions;
use super::handle::{Handle, Request, Standing, StepDownAnswer, StepDownRefusal, TakeOverAnswer, TakeOverRefusal};
use super::leader::{Leader, SteppedDown, TakeUp, TakeUpError, Work};
use super::lease::{Lease, Order};
use super::losses::Losses;
use super::metrics::{LeadershipMetrics, Phase, Wake};
use super::takers::Takers;
use super::trace::Trace;
use super::{confirm, follow, notices};

/// The machine looks at its clock this often; whatever is urgent wakes it.
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
    Woken(Wake),
    Renewed {
        sent_at: Duration,
        /// The last change that this member knew of when it was sent.
        reached: i64,
        head: Option<Head>,
    },
    /// The database told of a claim or release of this term, or of some that was missed.
    Noticed(Option<Term>),
    Asked(AskEnd, Option<StepDownResponse>),
    Won {
        term: LeaderTerm,
        how: Began,
        sent_at: Duration,
    },
    TookUp(Term, Result<Arc<dyn Work>, TakeUpError>),
    Stopped(SteppedDown, Option<LeaderTerm>),
}

/// Whether this member knows the observed state by itself, so that nobody has to hand it over.
pub type Warm = Arc<dyn Fn() -> bool + Send + Sync>;

/// The room.
pub struct Room {
    state: State,
    settings: Settings,
    database: Arc<Database>,
    peers: PeerClient,
    take_up: TakeUp,
    warm: Warm,
    pauses: Pauses,
    metrics: Arc<LeadershipMetrics>,
    tasks: TaskGroup,
    /// Taken when it begins to run.
    questions: Option<Questions>,
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
    answered: Option<Arc<SteppedDown>>,
    waiting: Vec<oneshot::Sender<StepDownAnswer>>,
    takers: Takers,
    began: Option<Instant>,
    phase_began: Instant,
    suspended_at: Option<Instant>,
    trace: Trace,
    /// What the database was at the last renewal that looked.
    head: Option<Head>,
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
    /// Whether the observed state need not be handed over.
    pub warm: Warm,
    /// Test doors.
    pub pauses: Pauses,
    /// What it counts.
    pub metrics: Arc<LeadershipMetrics>,
    /// What the database was found to have lost.
    pub losses: Losses,
    /// Where its tasks run.
    pub tasks: TaskGroup,
}

impl Room {
    /// Builds the room and starts the task of its connection; the machine runs in [`Room::run`].
    #[must_use]
    pub fn open(parts: Parts) -> (Self, Handle) {
        let Parts { settings, database, peers, take_up, warm, pauses, metrics, losses, tasks } = parts;
        let (reports, inputs) = mpsc::channel(64);
        let (lease, orders) = mpsc::channel(32);
        let (ask, requests) = mpsc::channel(64);
        let machine = settings.machine.clone();
        let state = State::new(machine.clone());
        let (standing, seen) = watch::channel(standing_of(&state));
        metrics.standing(state.role(), None);
        let (confirmer, questions) = confirm::channel();
        let handle = Handle::new(&machine, seen, ask, confirmer, metrics.clone(), losses);
        let keeper = Lease {
            session: LeaseSession::new(database.clone()),
            address: machine.address.clone(),
            lease: machine.lease,
            renew: machine.renew,
            metrics: metrics.clone(),
            reports: reports.clone(),
            reached: handle.follow_reached(),
            failures: 0,
            warm: false,
        };
        tasks.spawn("lease", Kind::Vital, keeper.run(orders, tasks.token()));
        let room = Self {
            state,
            settings,
            database,
            peers,
            take_up,
            warm,
            pauses,
            metrics,
            tasks,
            questions: Some(questions),
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
            takers: Takers::default(),
            began: None,
            phase_began: Instant::now(),
            suspended_at: None,
            trace: Trace::default(),
            head: None,
        };
        (room, handle)
    }

    /// Runs the machine until the process may end; `terminate` asks for that.
    pub async fn run(mut self, terminate: CancellationToken) -> Ending {
        self.listen();
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
            self.settle();
            if let Some(ending) = ending {
                refuse_rest(self.requests).await;
                return ending;
            }
        }
    }

    /// What wakes the machine before its next look: the stream to the leader, and the database. And what asks the database
    /// for those who read.
    fn listen(&mut self) {
        let (renew, token) = (self.settings.machine.renew, self.tasks.token());
        if let Some(questions) = self.questions.take() {
            let (session, chair) = (ConfirmSession::new(self.database.clone()), self.handle.clone());
            let deposed = move |term| chair.deposed(term);
            let confirming = questions.run(session, self.metrics.clone(), renew, deposed, token.clone());
            self.tasks.spawn("confirm", Kind::Vital, confirming);
        }
        let following =
            follow::follow(self.handle.clone(), self.peers.clone(), renew, self.reports.clone(), token.clone());
        self.tasks.spawn("follow", Kind::Vital, following);
        let listening = notices::listen(self.database.clone(), renew, self.reports.clone(), token);
        self.tasks.spawn("listen", Kind::Vital, listening);
    }

    async fn input(&mut self, input: Input) -> Option<Ending> {
        match input {
            Input::Event(event) => {
                self.look_for_lost_terms(&event);
                self.step(event).await
            }
            Input::Renewed { sent_at, reached, head } => self.renewed(sent_at, reached, head).await,
            Input::Woken(cause) => {
                self.metrics.woken(cause);
                self.step(Event::Woken).await
            }
            Input::Noticed(term) => match (self.state.held_term(), term) {
                // A renewal asks whether the term is still ours, a claim above it says that it is not.
                (Some(mine), Some(term)) if term > mine => {
                    self.order(Order::Renew).await;
                    None
                }
                (Some(_), _) => None,
                (None, _) => {
                    self.metrics.woken(Wake::Notice);
                    self.step(Event::Woken).await
                }
            },
            Input::Asked(end, answer) => {
                self.handed_over = answer;
                self.end_phase(Phase::StepDown);
                match end {
                    AskEnd::MigrationFailedBefore => self.takers.refuse(&TakeOverRefusal::MigrationFailedBefore),
                    AskEnd::Unauthorized => self.takers.refuse(&TakeOverRefusal::Unauthorized),
                    AskEnd::Consented | AskEnd::NotThatLeader | AskEnd::Failed => {}
                }
                self.step(Event::AskEnded(end)).await
            }
            Input::Won { term, how, sent_at } => self.won(term, how, sent_at).await,
            Input::TookUp(term, outcome) => self.took_up(term, outcome).await,
            Input::Stopped(answer, term) => self.stopped(answer, term).await,
        }
    }

    async fn request(&mut self, request: Request) -> Option<Ending> {
        match request {
            Request::Fenced(term) if self.state.held_term() == Some(term) => self.step(Event::Fenced).await,
            Request::Fenced(_) => None,
            Request::Outbid { own, seen } if self.state.held_term() == Some(own) => {
                self.step(Event::Outbid { term: seen }).await
            }
            Request::Outbid { .. } => None,
            Request::Heard(leader) => self.step(Event::Heard(leader)).await,
            Request::Pending(target) => self.step(Event::Pending(target)).await,
            Request::MayLead(may) => self.step(Event::MayLead(may)).await,
            Request::StepDown { request, answer } => self.asked_to_step_down(request, answer).await,
            Request::TakeOver { force, answer } => self.asked_to_take_over(force, answer).await,
        }
    }

    async fn asked_to_step_down(
        &mut self,
        request: Option<StepDownRequest>,
        answer: oneshot::Sender<StepDownAnswer>,
    ) -> Option<Ending> {
        let mine = self.own_term();
        let meant = request
            .as_ref()
            .is_none_or(|asked| asked.leader.instance_id == self.state.config.me && Some(asked.leader.term) == mine);
        match (&self.state.phase, &self.answered) {
            (Where::SteppedDown { .. }, Some(known)) if meant => drop(answer.send(Ok(known.clone()))),
            (Where::SteppingDown { .. }, _) if meant => self.waiting.push(answer),
            (Where::Leader { .. } | Where::TakingOver { .. } | Where::Suspended { .. }, _) if meant => {
                let target = request.as_ref().and_then(|asked| asked.target_schema.clone());
                let force = request.as_ref().is_some_and(|asked| asked.force);
                if let Some(target) = target.filter(|target| self.state.refuses(Some(target), force, now())) {
                    tracing::warn!(%target, "a candidate whose migration failed a short while ago does not get the term");
                    let leader = self.state.leader();
                    drop(answer.send(Err(StepDownRefusal::MigrationFailedBefore { target, leader })));
                    return None;
                }
                self.waiting.push(answer);
                return self.step(Event::StepDownAsked { successor: request.map(|asked| asked.candidate) }).await;
            }
            _ => drop(answer.send(Err(StepDownRefusal::NotThatLeader { leader: self.state.leader() }))),
        }
        None
    }

    async fn asked_to_take_over(&mut self, force: bool, answer: oneshot::Sender<TakeOverAnswer>) -> Option<Ending> {
        if let (Where::Leader { .. }, Some(leader)) = (&self.state.phase, self.state.leader()) {
            drop(answer.send(Ok(TakeOverResponse { leader, gap_ms: 0.0, phases_ms: BTreeMap::new() })));
            return None;
        }
        if !self.state.can_lead || self.state.phase == Where::Gone {
            drop(answer.send(Err(TakeOverRefusal::CannotLead)));
            return None;
        }
        let until = now() + self.settings.step_down_timeout + self.settings.machine.lease;
        self.takers.wait(until, answer);
        self.step(Event::TakeOverAsked { force, until }).await
    }

    /// After each turn: whoever waits for this member to lead is told when it does, or that it will not.
    fn settle(&mut self) {
        match (&self.state.phase, self.state.leader()) {
            (Where::Leader { .. }, Some(leader)) => {
                let metrics = &self.metrics;
                self.takers.done(|| {
                    let (gap_ms, phases_ms) = metrics.last_hand_over();
                    TakeOverResponse { leader: leader.clone(), gap_ms, phases_ms }
                });
            }
            (Where::Gone, _) => self.takers.refuse(&TakeOverRefusal::CannotLead),
            // A migration takes its time.
            (Where::TakingOver { .. }, _) => {}
            (_, leader) => self.takers.time_out(now(), || leader.clone()),
        }
    }

    fn own_term(&self) -> Option<Term> {
        match &self.state.phase {
            Where::TakingOver { term, .. }
            | Where::Leader { term, .. }
            | Where::Suspended { term, .. }
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
            self.role_changed(was, is, standing.term);
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
        if self.state.phase == Where::Candidate(Waiting::Idle) {
            // Whatever it was busy with came to nothing.
            self.began = None;
        }
        ending
    }

    fn role_changed(&mut self, was: Role, is: Role, term: Option<Term>) {
        tracing::info!(from = was.as_str(), to = is.as_str(), term = ?term.map(Term::get), "role changed");
        self.metrics.standing(is, term);
        if is == Role::Suspended {
            tracing::warn!(term = ?term.map(Term::get), "the lease is not proved: nothing is executed until it is renewed");
            self.metrics.suspended();
            self.suspended_at = Some(Instant::now());
        } else if let Some(since) = self.suspended_at.take() {
            self.metrics.resumed(since.elapsed());
        }
        if !matches!(is, Role::SteppingDown | Role::SteppedDown) {
            // It holds the observed state of a leadership that is over.
            self.answered = None;
        }
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

    async fn stopped(&mut self, answer: SteppedDown, term: Option<LeaderTerm>) -> Option<Ending> {
        self.ended_term = term;
        let answer = Arc::new(answer);
        self.answered = Some(answer.clone());
        let ending = self.step(Event::Drained).await;
        let consented = !matches!(self.state.phase, Where::Candidate(_));
        for caller in std::mem::take(&mut self.waiting) {
            let leader: Option<LeaderRef> = self.state.leader();
            let reply = if consented { Ok(answer.clone()) } else { Err(StepDownRefusal::NotThatLeader { leader }) };
            // A caller that went away asks again.
            let _ = caller.send(reply);
        }
        ending
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
}

fn standing_of(state: &State) -> Standing {
    let (term, successor) = match &state.phase {
        Where::TakingOver { term, .. }
        | Where::Leader { term, .. }
        | Where::Suspended { term, .. }
        | Where::SteppingDown { term, .. } => (Some(*term), None),
        Where::SteppedDown { term, successor, .. } => (Some(*term), successor.clone()),
        Where::Candidate(_) | Where::Gone => (None, None),
    };
    Standing { role: state.role(), term, leader: state.leader(), successor }
}
