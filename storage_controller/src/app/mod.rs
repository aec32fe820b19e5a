//! The composition root: builds every room, hands them each other's handles, spawns, drains.
//!
//! Called by `main`. Order: parse → bind and serve (from here `/status` answers) → meet itself → database → memory → chair;
//! at the end the chair gives up first and the listener closes last (`farewell`).

mod error;
mod farewell;
mod gates;
mod program;
mod warm;
mod work;

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_api::agent::PortFile;
use pgfleet_clients::agent::{AgentClient, AgentTimeouts};
use pgfleet_clients::forward::Forwarder;
use pgfleet_clients::peer::{Identity, PeerAnswer, PeerClient};
use pgfleet_clients::token::{Minter, Source};
use pgfleet_domain::leadership::{Config, Ending};
use pgfleet_domain::loss::What;
use pgfleet_persistence::{Database, DatabaseConfig, MigrationOptions, Release};
use pgfleet_runtime::auth::{KeySets, Verifier};
use pgfleet_runtime::http::Layers;
use pgfleet_runtime::listener::{self, Limits, Listener, bind, serve_until};
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, encode};
use pgfleet_runtime::panic_door::Panics;
use pgfleet_runtime::pause::Pauses;
use pgfleet_runtime::supervisor::{Kind, TaskGroup};
use pgfleet_runtime::{port_file, signals};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use error::AppError;
pub use program::run;

use crate::agents::{AgentMetrics, Agents, Doors};
use crate::config::{Args, MAX_SPEC_BYTES};
use crate::http::{Door, Ends, Gate, HoldSettings, MemoryDoor, ROUTES, RequestMetrics, router};
use crate::leadership::{LeadershipMetrics, LossMetrics, Losses, Parts, Room, Settings};
use crate::metrics::{FleetMetrics, Metrics, Rooms};
use crate::observe::{Follower, FollowerMetrics, Memory, SweepSettings};
use crate::reconcile::ReconcileMetrics;
use crate::rollout::RolloutMetrics;
use crate::service::{DatabaseMetrics, Desk, Office};
use farewell::{Farewell, LAST_WORDS};
use gates::Gates;
use work::{Ingredients, Prepared};

/// How long a process that starts may take to load before it becomes a candidate all the same.
const WARM_UP: Duration = Duration::from_secs(60);

/// A controller that is bound and built and has spawned nothing that acts.
pub struct App {
    signals: TaskGroup,
    tasks: TaskGroup,
    /// Cancelled when a vital task ended early.
    alarm: CancellationToken,
    room: Room,
    first: First,
    farewell: Farewell,
    follower: Follower,
    memory: Memory,
    look_every: Duration,
    drain: Duration,
}

/// What a member does once, after its listener answers and before it becomes a candidate.
struct First {
    database: Arc<Database>,
    gates: Gates,
    migration_budget: Duration,
    peers: PeerClient,
    me: InstanceId,
    address: String,
}

impl App {
    /// Binds, builds every room, serves; the database is not dialled yet.
    ///
    /// # Errors
    /// One line that says what cannot work, with its exit code.
    pub async fn build(args: Args, release: Release) -> Result<Self, AppError> {
        args.check()?;
        let (pauses, panics) = (Pauses::from_env(args.dev)?, Panics::from_env(args.dev)?);
        let doors = Doors { pauses: pauses.clone(), panics: panics.clone() };
        let verifier = args.jwks_file.as_deref().map(|path| Verifier::from_file(path, KeySets::Ed25519)).transpose()?;
        let keys = match &args.jwt_private_key {
            Some(path) => Source::Minter(Arc::new(Minter::open(path)?)),
            None => Source::Anonymous,
        };
        let listener = bind(&args.listen).await?;
        let port = listener.local_addr().port();
        let address = args.advertise.clone().unwrap_or_else(|| format!("http://{}", listener.local_addr()));
        let me = InstanceId::generate();
        tracing::info!(instance_id = %me, %address, version = env!("CARGO_PKG_VERSION"), "controller starts");
        let (database, prepared) = (database(&args, me, release)?, Prepared::default());

        let alarm = CancellationToken::new();
        let (signals, tasks) = (TaskGroup::new("process"), TaskGroup::with_alarm("controller", alarm.clone()));
        let listening = tasks.child("http");
        let identity =
            Identity { instance_id: me, address: address.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let peers = PeerClient::new(identity, keys.clone())?;
        let groups = Groups::default();
        let client = AgentClient::new(keys, AgentTimeouts::default())?;
        let office = Office::default();
        let (follower, memory) = Follower::new(database.clone(), groups.follower.clone());
        let ingredients = Ingredients {
            database: database.clone(),
            memory: memory.clone(),
            agents: Agents::new(client, args.reconcile_concurrency, groups.agents.clone(), doors),
            office: office.clone(),
            migrations: MigrationOptions {
                budget: args.migration_budget,
                mid_migration: Some(work::mid_migration(&pauses)),
            },
            prepared: prepared.clone(),
            pauses: pauses.clone(),
            engine: crate::reconcile::Settings { concurrency: args.reconcile_concurrency, ..Default::default() },
            sweep: SweepSettings { period: args.probe_interval, concurrency: args.reconcile_concurrency },
            grace: args.step_down_grace,
            keep: args.keep(),
            reconcile_metrics: groups.reconcile.clone(),
            rollout_metrics: groups.rollouts.clone(),
            database_metrics: groups.database.clone(),
            quarantine: args.quarantine(),
            tasks: tasks.metrics(),
            panics,
        };
        let warm = memory.clone();
        let (room, leadership) = Room::open(Parts {
            settings: settings(&args, me, &address),
            database: database.clone(),
            peers: peers.clone(),
            take_up: work::take_up(ingredients),
            // A member whose memory follows the leader's says so here.
            warm: Arc::new(move || warm.is_warm()),
            pauses,
            metrics: groups.leadership.clone(),
            losses: Losses::new(me, groups.losses.clone()),
            tasks: tasks.child("leadership"),
        });
        let (chair, losses) = (leadership.clone(), leadership.losses().clone());
        let follower = follower
            .on_reached(Arc::new(move |change_seq| chair.note_reached(change_seq)))
            .on_lost(Arc::new(move |known, found| losses.found(What::Changes, known, found)));
        let ends = Ends::before(&listening);
        let gate = Gate::new(hold(&args), ends.clone(), Forwarder::new()?, groups.requests.clone());
        let farewell = Farewell::new(&database, &leadership, &gate, &listening);
        let gates = Gates::new(database.clone(), leadership.clone(), prepared, groups.database.clone());
        let desk = Desk::new(leadership, office.clone(), database.clone(), groups.database.clone());
        let memory_door = args.dev.then(|| warm::door(memory.clone()));
        let (drain, shown) = (args.drain, memory.clone());
        let opening = Opening { desk, verifier, gate, ends, office, memory: shown, memory_door, drain };
        opening.serve(listener, groups, &tasks, &listening);
        if let Some(path) = &args.port_file {
            let ports = [("http".to_owned(), port)].into();
            port_file::write(path, &PortFile { pid: std::process::id(), instance_id: me.0, ports })?;
        }
        let first = First { database, gates, migration_budget: args.migration_budget, peers, me, address };
        let look_every = args.lease_renew;
        Ok(Self { signals, tasks, alarm, room, first, farewell, follower, memory, look_every, drain })
    }

    /// Runs until a signal, or until the process cannot go on; then ends in order.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn run(self) -> Result<(), AppError> {
        signals::install(&self.signals).map_err(AppError::Runtime)?;
        let signalled = self.signals.token();
        let gates = tokio::select! {
            ready = self.first.run() => ready?,
            // Nothing is held yet, so there is nothing to give up.
            () = signalled.cancelled() => return Ok(()),
        };
        let following = self.tasks.child("memory");
        following.spawn("memory", Kind::Vital, self.follower.run(following.token()));
        if gates.may_follow() {
            // Whoever asks a leader to step down before it has loaded makes everybody wait for that load.
            tokio::select! {
                () = self.memory.warmed(WARM_UP) => {}
                () = signalled.cancelled() => {}
            }
        }
        self.tasks.spawn("schema", Kind::Vital, gates.run(self.look_every, self.tasks.token()));
        let (ended, mut ending) = oneshot::channel();
        let terminate = CancellationToken::new();
        let (room, asked) = (self.room, terminate.clone());
        let until = self.tasks.token();
        self.tasks.spawn("leadership", Kind::Vital, async move {
            let how = room.run(asked).await;
            // The receiver lives as long as this function.
            let _ = ended.send(how);
            until.cancelled().await;
            Ok::<_, std::convert::Infallible>(())
        });
        let ending = tokio::select! {
            how = &mut ending => how.ok(),
            () = signalled.cancelled() => {
                self.farewell.begin();
                terminate.cancel();
                tokio::select! {
                    how = &mut ending => how.ok(),
                    () = self.alarm.cancelled() => tokio::time::timeout(self.drain, &mut ending).await.ok().and_then(Result::ok),
                }
            }
            // The chair gives up first here as well, unless it is what broke: whoever leads next does not wait for a lease.
            () = self.alarm.cancelled() => {
                terminate.cancel();
                tokio::time::timeout(self.drain, &mut ending).await.ok().and_then(Result::ok)
            }
        };
        let failure = self.tasks.failure();
        self.farewell.see_out(self.drain).await;
        if let Err(names) = self.tasks.stop_within(self.drain).await {
            tracing::warn!(tasks = ?names, "tasks did not end in time");
        }
        match (ending, failure) {
            (_, Some(reason)) => Err(AppError::Task(reason)),
            (Some(Ending::Done), None) => Ok(()),
            (Some(Ending::TakeOverFailed), None) => Err(AppError::TakeOverFailed),
            (Some(Ending::Unauthorized), None) => Err(AppError::PeerUnauthorized),
            (None, None) => Err(AppError::Task("the leadership ended".to_owned())),
        }
    }
}

impl First {
    async fn run(mut self) -> Result<Gates, AppError> {
        self.meet_myself().await?;
        self.database.check().await?;
        self.database.bootstrap().await?;
        self.gates.first(self.migration_budget).await?;
        Ok(self.gates)
    }

    /// The advertised address must be this process's own listener: not a load balancer, not a neighbour.
    async fn meet_myself(&self) -> Result<(), AppError> {
        match self.peers.status(&self.address, Duration::from_secs(5)).await {
            PeerAnswer::Status(status) if status.instance_id == self.me => Ok(()),
            PeerAnswer::Status(_) => Err(AppError::NotMyself { address: self.address.clone(), met: "another process" }),
            PeerAnswer::Refused => Err(AppError::NotMyself { address: self.address.clone(), met: "a closed port" }),
            PeerAnswer::Silent(_) => Err(AppError::NotMyself { address: self.address.clone(), met: "no answer" }),
        }
    }
}

fn database(args: &Args, me: InstanceId, release: Release) -> Result<Arc<Database>, AppError> {
    let release = match &args.migrations_dir {
        Some(dir) => release.with_dir(dir)?,
        None => release,
    };
    let database = Database::open(DatabaseConfig {
        url: args.database_url.clone(),
        instance_id: me,
        lease: args.lease,
        connect_timeout: args.db_connect_timeout,
        pool_size: args.db_pool_size,
        release,
    })?;
    Ok(database)
}

/// What the door is made of.
struct Opening {
    desk: Desk,
    verifier: Option<Verifier>,
    gate: Gate,
    ends: Ends,
    office: Office,
    memory: Memory,
    memory_door: Option<MemoryDoor>,
    drain: Duration,
}

impl Opening {
    /// From here on requests are answered.
    fn serve(self, listener: Listener, groups: Groups, tasks: &TaskGroup, listening: &TaskGroup) {
        let http = Arc::new(HttpMetrics::with_routes(&ROUTES));
        let layers = Layers {
            metrics: http.clone(),
            tasks: tasks.metrics(),
            body_limit_bytes: MAX_SPEC_BYTES,
            request_timeout: None,
        };
        let (follower, measured) = (groups.follower.clone(), self.memory);
        let page = groups.page(self.office, http, tasks);
        let scrape = Arc::new(move || {
            follower.measure(&measured);
            encode(&page)
        });
        let (desk, verifier, gate) = (self.desk, self.verifier, self.gate);
        let door = Door { desk, verifier, scrape, gate, memory: self.memory_door };
        let limits = Limits { drain: self.drain + LAST_WORDS, ..Limits::default() };
        let steps = listener::Farewell { last_answers: self.ends.ending, idle: self.ends.idle };
        serve_until(listener, router(door, layers), listening, limits, steps);
    }
}

fn hold(args: &Args) -> HoldSettings {
    HoldSettings {
        hold: args.handover_hold,
        forward: !args.no_forward,
        max_bytes: args.hold_max_bytes,
        max_body_bytes: u32::try_from(MAX_SPEC_BYTES).unwrap_or(u32::MAX),
    }
}

fn settings(args: &Args, me: InstanceId, address: &str) -> Settings {
    Settings {
        machine: Config {
            me,
            address: address.to_owned(),
            start_as_candidate: args.start_as_candidate,
            renew: args.lease_renew,
            lease: args.lease,
            margin: args.margin(),
            hold: args.hold(),
            revert: args.revert(),
            migration_retry: args.migration_retry,
        },
        step_down_timeout: args.step_down_timeout,
        step_down_grace: args.step_down_grace,
    }
}

/// The rooms' metric groups, made before the rooms.
struct Groups {
    leadership: Arc<LeadershipMetrics>,
    losses: Arc<LossMetrics>,
    reconcile: Arc<ReconcileMetrics>,
    rollouts: Arc<RolloutMetrics>,
    agents: Arc<AgentMetrics>,
    database: Arc<DatabaseMetrics>,
    requests: Arc<RequestMetrics>,
    follower: Arc<FollowerMetrics>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            leadership: Arc::new(LeadershipMetrics::new()),
            losses: Arc::new(LossMetrics::new()),
            reconcile: Arc::new(ReconcileMetrics::new()),
            rollouts: Arc::new(RolloutMetrics::new()),
            agents: Arc::new(AgentMetrics::new()),
            database: Arc::new(DatabaseMetrics::new()),
            requests: Arc::new(RequestMetrics::new()),
            follower: Arc::new(FollowerMetrics::new()),
        }
    }
}

impl Groups {
    fn page(self, office: Office, http: Arc<HttpMetrics>, tasks: &TaskGroup) -> Metrics {
        let tally = move || office.leading().map(|leading| leading.snapshot.tally()).unwrap_or_default();
        let rooms = Rooms {
            leadership: self.leadership,
            losses: self.losses,
            reconcile: self.reconcile,
            rollouts: self.rollouts,
            agents: self.agents,
            database: self.database,
            follower: self.follower,
            fleet: FleetMetrics(Arc::new(tally)),
            http,
            requests: self.requests,
            tasks: tasks.metrics(),
        };
        Metrics::new(rooms, ProcessMetrics::for_self())
    }
}
