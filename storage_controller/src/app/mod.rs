//! The composition root: builds every room, hands them each other's handles, spawns, drains.
//!
//! Called by `main`. Order: parse → bind and serve (from here `/status` answers) → meet itself → database → chair; at the
//! end the chair gives up first and the listener closes last (`farewell`).

mod error;
mod farewell;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_api::agent::PortFile;
use pgfleet_clients::agent::{AgentClient, AgentTimeouts};
use pgfleet_clients::forward::Forwarder;
use pgfleet_clients::peer::{Identity, PeerAnswer, PeerClient};
use pgfleet_clients::token::{Minter, Source};
use pgfleet_domain::leadership::{Config, Ending};
use pgfleet_persistence::{Database, DatabaseConfig};
use pgfleet_runtime::auth::Verifier;
use pgfleet_runtime::http::Layers;
use pgfleet_runtime::listener::{self, Limits, bind, serve_until};
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, encode};
use pgfleet_runtime::pause::Pauses;
use pgfleet_runtime::supervisor::{Kind, TaskGroup};
use pgfleet_runtime::{port_file, signals};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use error::AppError;

use crate::agents::{AgentMetrics, Agents};
use crate::config::{Args, MAX_SPEC_BYTES};
use crate::http::{Door, Ends, Gate, HoldSettings, ROUTES, RequestMetrics, router};
use crate::leadership::{LeadershipMetrics, Parts, Room, Settings};
use crate::metrics::{FleetMetrics, Metrics, Rooms};
use crate::observe::SweepSettings;
use crate::reconcile::ReconcileMetrics;
use crate::service::{DatabaseMetrics, Desk, HOLD_MS, Office};
use farewell::{Farewell, LAST_WORDS};
use work::{Ingredients, Prepared};

/// A controller that is bound and built and has spawned nothing that acts.
pub struct App {
    signals: TaskGroup,
    tasks: TaskGroup,
    room: Room,
    first: First,
    farewell: Farewell,
    drain: Duration,
}

/// What a member does once, after its listener answers and before it becomes a candidate.
struct First {
    database: Arc<Database>,
    migrations_dir: Option<PathBuf>,
    prepared: Prepared,
    peers: PeerClient,
    me: InstanceId,
    address: String,
}

impl App {
    /// Binds, builds every room, serves; the database is not dialled yet.
    ///
    /// # Errors
    /// One line that says what cannot work, with its exit code.
    pub async fn build(args: Args) -> Result<Self, AppError> {
        args.check()?;
        let pauses = Pauses::from_env(args.dev)?;
        let verifier = args.jwks_file.as_deref().map(Verifier::from_file).transpose()?;
        let keys = match &args.jwt_private_key {
            Some(path) => Source::Minter(Arc::new(Minter::open(path)?)),
            None => Source::Anonymous,
        };
        let listener = bind(&args.listen).await?;
        let port = listener.local_addr().port();
        let address = args.advertise.clone().unwrap_or_else(|| format!("http://{}", listener.local_addr()));
        let me = InstanceId::generate();
        tracing::info!(instance_id = %me, %address, version = env!("CARGO_PKG_VERSION"), "controller starts");
        let database = Database::open(DatabaseConfig {
            url: args.database_url.clone(),
            instance_id: me,
            lease: args.lease,
            connect_timeout: args.db_connect_timeout,
            pool_size: args.db_pool_size,
        })?;
        let prepared = Prepared::default();

        let (signals, tasks) = (TaskGroup::new("process"), TaskGroup::new("controller"));
        let listening = tasks.child("http");
        let identity =
            Identity { instance_id: me, address: address.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let peers = PeerClient::new(identity, keys.clone())?;
        let groups = Groups::default();
        let client = AgentClient::new(keys, AgentTimeouts::default())?;
        let office = Office::default();
        let ingredients = Ingredients {
            database: database.clone(),
            agents: Agents::new(client, args.reconcile_concurrency, groups.agents.clone(), pauses.clone()),
            office: office.clone(),
            migrations_dir: args.migrations_dir.clone(),
            prepared: prepared.clone(),
            pauses: pauses.clone(),
            engine: crate::reconcile::Settings { concurrency: args.reconcile_concurrency, ..Default::default() },
            sweep: SweepSettings { period: args.probe_interval, concurrency: args.reconcile_concurrency },
            grace: args.step_down_grace,
            reconcile_metrics: groups.reconcile.clone(),
            database_metrics: groups.database.clone(),
        };
        let (room, leadership) = Room::open(Parts {
            settings: settings(&args, me, &address),
            database: database.clone(),
            peers: peers.clone(),
            take_up: work::take_up(ingredients),
            pauses,
            metrics: groups.leadership.clone(),
            tasks: tasks.child("leadership"),
        });
        let ends = Ends::before(&listening);
        let gate = Gate::new(hold(&args), ends.clone(), Forwarder::new()?, groups.requests.clone());
        let farewell = Farewell::new(&database, &leadership, &gate, &listening);
        let desk = Desk::new(leadership, office.clone(), database.clone(), groups.database.clone());
        let http = Arc::new(HttpMetrics::with_routes(&ROUTES));
        let layers = Layers {
            metrics: http.clone(),
            tasks: tasks.metrics(),
            body_limit_bytes: MAX_SPEC_BYTES,
            request_timeout: None,
        };
        let page = groups.page(office, http, &tasks);
        let door = Door { desk, verifier, scrape: Arc::new(move || encode(&page)), gate };
        let limits = Limits { drain: args.drain + LAST_WORDS, ..Limits::default() };
        let steps = listener::Farewell { last_answers: ends.ending, idle: ends.idle };
        serve_until(listener, router(door, layers), &listening, limits, steps);
        if let Some(path) = &args.port_file {
            let ports = [("http".to_owned(), port)].into();
            port_file::write(path, &PortFile { pid: std::process::id(), instance_id: me.0, ports })?;
        }
        let migrations_dir = args.migrations_dir;
        let first = First { database, migrations_dir, prepared, peers, me, address };
        Ok(Self { signals, tasks, room, first, farewell, drain: args.drain })
    }

    /// Runs until a signal, or until the process cannot go on; then ends in order.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn run(self) -> Result<(), AppError> {
        signals::install(&self.signals).map_err(AppError::Runtime)?;
        let signalled = self.signals.token();
        tokio::select! {
            ready = self.first.run() => ready?,
            // Nothing is held yet, so there is nothing to give up.
            () = signalled.cancelled() => return Ok(()),
        }
        let (ended, mut ending) = oneshot::channel();
        let terminate = CancellationToken::new();
        let (room, asked) = (self.room, terminate.clone());
        let token = self.tasks.token();
        let until = token.clone();
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
                    () = token.cancelled() => None,
                }
            }
            () = token.cancelled() => None,
        };
        let failure = self.tasks.failure();
        self.farewell.see_out(self.drain).await;
        if let Err(names) = self.tasks.stop_within(self.drain).await {
            tracing::warn!(tasks = ?names, "tasks did not end in time");
        }
        match (ending, failure) {
            (Some(Ending::Done), _) => Ok(()),
            (Some(Ending::TakeOverFailed), _) => Err(AppError::TakeOverFailed),
            (Some(Ending::Unauthorized), _) => Err(AppError::PeerUnauthorized),
            (None, reason) => Err(AppError::Task(reason.unwrap_or_else(|| "the leadership ended".to_owned()))),
        }
    }
}

impl First {
    async fn run(&self) -> Result<(), AppError> {
        self.meet_myself().await?;
        self.database.check().await?;
        self.database.bootstrap().await?;
        if self.database.pending(self.migrations_dir.as_deref()).await?.is_empty() {
            self.prepared.nothing_is_pending();
            if let Err(error) = self.database.warm_up().await {
                tracing::warn!(%error, "the sessions of a later leadership are not warm; its hand-over takes longer");
            }
        }
        Ok(())
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
            hold: Duration::from_millis(HOLD_MS),
        },
        step_down_timeout: args.step_down_timeout,
        step_down_grace: args.step_down_grace,
    }
}

/// The rooms' metric groups, made before the rooms.
struct Groups {
    leadership: Arc<LeadershipMetrics>,
    reconcile: Arc<ReconcileMetrics>,
    agents: Arc<AgentMetrics>,
    database: Arc<DatabaseMetrics>,
    requests: Arc<RequestMetrics>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            leadership: Arc::new(LeadershipMetrics::new()),
            reconcile: Arc::new(ReconcileMetrics::new()),
            agents: Arc::new(AgentMetrics::new()),
            database: Arc::new(DatabaseMetrics::new()),
            requests: Arc::new(RequestMetrics::new()),
        }
    }
}

impl Groups {
    fn page(self, office: Office, http: Arc<HttpMetrics>, tasks: &TaskGroup) -> Metrics {
        let tally = move || office.leading().map(|leading| leading.snapshot.tally()).unwrap_or_default();
        let rooms = Rooms {
            leadership: self.leadership,
            reconcile: self.reconcile,
            agents: self.agents,
            database: self.database,
            fleet: FleetMetrics(Arc::new(tally)),
            http,
            requests: self.requests,
            tasks: tasks.metrics(),
        };
        Metrics::new(rooms, ProcessMetrics::for_self())
    }
}
