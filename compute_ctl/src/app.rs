//! The composition root: checks and binds everything first, spawns afterwards, ends in order.
//!
//! Called by `main`. Build refuses what would fail later (programs, state, data directory, ports) with one line and the
//! documented exit code. Run ends when a signal, a termination or a vital task says so: first the driver stops PostgreSQL,
//! then the listeners are drained.

use std::fs::{File, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::BootId;
use pgfleet_api::agent::{AgentStatus, PortFile};
use pgfleet_clients::controller::{ControllerClient, Options as ClientOptions};
use pgfleet_clients::token::Source;
use pgfleet_runtime::auth::{Jwks, JwksError, KeySets, Verifier};
use pgfleet_runtime::exit::{ExitCode, FAILED, NOT_OURS, USAGE};
use pgfleet_runtime::http::{Layers, finish};
use pgfleet_runtime::listener::{self, BindError, Limits, Listener};
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, encode};
use pgfleet_runtime::pause::{PauseError, Pauses};
use pgfleet_runtime::port_file::{self, PortFileError};
use pgfleet_runtime::{Kind, TaskGroup, signals};
use tokio_util::sync::CancellationToken;

use crate::apply::ApplyMetrics;
use crate::config::{Config, ConfigError};
use crate::http::{self, Door, Reading};
use crate::inventory::{self, Inventory};
use crate::ledger::{Ledger, LedgerError};
use crate::lifecycle::{self, Driver, Handle, LifecycleMetrics, SpecSource, Tools};
use crate::metrics::{AgentMetrics, Metrics, Up};
use crate::postgres::{self, Errands, LogFollower, Postgres, Programs, ProgramsError, ReadOnly, RunAs, RunAsError};
use crate::report::{MonitorTask, ReportMetrics};
use crate::resources::{Readings, ResourceMetrics, monitor};
use crate::storage::{self, PageStorage, StorageError};

/// Longest socket directory: the name in it and the limit of 107 bytes leave this.
const SOCKET_DIR_LIMIT: usize = 85;
/// How long the rest of the process may take to end after PostgreSQL is gone.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `-b`.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// `--postgres-user`.
    #[error(transparent)]
    RunAs(#[from] RunAsError),
    /// Keys.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The test door.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// An address without keys.
    #[error("--http-host {0} is reachable from elsewhere, which needs keys: give --jwks-file")]
    NoKeys(IpAddr),
    /// The state directory.
    #[error("the state directory {path} cannot be used")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another agent.
    #[error("another compute_ctl owns the state directory {0}")]
    Owned(PathBuf),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `--port-file`.
    #[error(transparent)]
    PortFile(#[from] PortFileError),
    /// Signals.
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
    /// The HTTP client.
    #[error("cannot set up the client of the control plane")]
    Client(#[from] pgfleet_clients::transport::SetUpError),
    /// A vital task ended.
    #[error("{0}")]
    Vital(String),
    /// The runtime failed.
    #[error("the system refuses")]
    Runtime(#[source] std::io::Error),
}

impl ExitCode for AppError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Jwks(error) => error.exit_code(),
            Self::Pause(error) => error.exit_code(),
            Self::Bind(error) => error.exit_code(),
            Self::Programs(_) | Self::RunAs(_) | Self::NoKeys(_) => USAGE,
            Self::Owned(_) | Self::Ledger(_) => NOT_OURS,
            Self::Storage(error) => match error {
                StorageError::NotOurs { .. } | StorageError::Other { .. } | StorageError::Marker { .. } => NOT_OURS,
                StorageError::Local { .. } | StorageError::Disposable { .. } => NOT_OURS,
                StorageError::Io { .. } | StorageError::Initdb { .. } | StorageError::Thread { .. } => FAILED,
                StorageError::Primary(_) | StorageError::Password(_) | StorageError::Backup { .. } => FAILED,
            },
            Self::StateDir { .. } | Self::PortFile(_) | Self::Signals(_) | Self::Client(_) => FAILED,
            Self::Vital(_) | Self::Runtime(_) => FAILED,
        }
    }
}

/// Everything that is ready to run.
pub struct App {
    root: TaskGroup,
    driver: Driver,
    handle: Handle,
    door: Door,
    layers: Layers,
    listeners: Listeners,
    beside: Beside,
    pull: Option<(ControllerClient, Arc<LifecycleMetrics>)>,
    pages: PageStorage,
    config: Config,
    boot_id: BootId,
    /// Held so that no second agent works in the same place.
    _lock: File,
}

/// Bound and not served yet.
struct Listeners {
    external: Listener,
    internal: Listener,
    /// The autoscaler's socket, where it is wanted.
    monitor: Option<Listener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, BindError> {
        let external = listener::bind(&SocketAddr::new(config.http_host, config.ports.0).to_string()).await?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let internal = listener::bind(&SocketAddr::new(loopback, config.ports.1).to_string()).await?;
        let monitor = match std::env::var_os("AUTOSCALING") {
            Some(_) => Some(listener::bind(&config.args.resources.vm_monitor_addr.to_string()).await?),
            None => None,
        };
        Ok(Self { external, internal, monitor })
    }
}

/// What works beside the driver.
struct Beside {
    read_only: ReadOnly,
    inventory: Inventory,
    readings: Readings,
    monitor: MonitorTask,
    log: LogFollower,
}

impl App {
    /// Checks and binds. Nothing runs yet.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn build(mut config: Config) -> Result<Self, AppError> {
        let pauses = Pauses::from_env(config.args.dev)?;
        let programs = Programs::find(&config.args.pgbin)?;
        let run_as = RunAs::resolve(&config.args.postgres_user)?;
        let (verifier, keys_from_config) = verifier(&config)?;
        if verifier.is_none() && !config.http_host.is_loopback() {
            return Err(AppError::NoKeys(config.http_host));
        }
        storage::check(&config.pgdata, &config.compute_id, config.args.adopt)?;
        let lock = open_state_dir(&config.state_dir)?;
        let options = which_postgres(&config, programs, run_as)?;
        let ledger = Ledger::open(&config.state_dir, pauses.clone())?;
        let pull = control_plane(&config)?;

        let root = TaskGroup::new("agent");
        let boot_id = BootId::generate();
        let postgres = Postgres::new(options, root.child("postgres"));
        let log = postgres.follow_log();
        let (lifecycle_metrics, apply_metrics) = (Arc::<LifecycleMetrics>::default(), Arc::<ApplyMetrics>::default());
        let (postgres_metrics, read_only) = (postgres.metrics(), ReadOnly::new(&postgres));
        let errands = Errands::new(&postgres);
        let (readings, inventory) = (Readings::new(&config.args.resources), Inventory::default());
        let options = how_it_lives(&mut config, boot_id);
        let pages = PageStorage::new(basebackup_tries(config.args.dev));
        let storage_metrics = pages.metrics();
        let tools = Tools {
            postgres: postgres.clone(),
            pages: pages.clone(),
            compute_id: config.compute_id.clone(),
            metrics: Arc::clone(&apply_metrics),
            numbers: Arc::clone(&lifecycle_metrics),
            pauses,
            source: source(&config, pull.as_ref()),
            promotion: tokio::sync::watch::Sender::default(),
            timings: lifecycle::Timings::default(),
        };
        let (driver, handle) = Driver::new(options, ledger, tools, Arc::clone(&lifecycle_metrics));
        let (monitor, watched) = MonitorTask::new(postgres, handle.clone());
        let pull = pull.map(|client| (client, Arc::clone(&lifecycle_metrics)));
        let http_metrics = Arc::new(HttpMetrics::with_routes(&http::ROUTES));
        let page = Metrics {
            agent: AgentMetrics {
                up: Up(handle.clone()),
                lifecycle: lifecycle_metrics,
                apply: apply_metrics,
                postgres: postgres_metrics,
                storage: storage_metrics,
                report: ReportMetrics(watched.clone()),
                resources: ResourceMetrics(readings.clone()),
                http: Arc::clone(&http_metrics),
                tasks: root.metrics(),
            },
            inventory: inventory.clone(),
            process: ProcessMetrics::for_self(),
        };
        let door = Door {
            handle: handle.clone(),
            preview: Arc::new(driver.preview()),
            monitor: watched,
            compute_id: config.compute_id.clone(),
            verifier,
            keys_from_config,
            page: Arc::new(move || encode(&page)),
            readings: vec![resources_in_status(readings.clone())],
            read_only: read_only.clone(),
            errands,
        };
        let layers = layers(http_metrics, &root);
        let listeners = Listeners::bind(&config).await?;
        let beside = Beside { read_only, inventory, readings, monitor, log };
        Ok(Self { root, driver, handle, door, layers, listeners, beside, pull, pages, config, boot_id, _lock: lock })
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// A vital task ended before its time.
    pub async fn run(self) -> Result<(), AppError> {
        signals::install(&self.root).map_err(AppError::Signals)?;
        self.announce_ports()?;
        let root = self.root;
        let web = root.child("http");
        let Listeners { external, internal, monitor } = self.listeners;
        let Beside { read_only, inventory, readings, monitor: watcher, log } = self.beside;
        listener::serve(external, http::external(self.door.clone(), self.layers.clone()), &web, Limits::default());
        listener::serve(internal, http::internal(self.door, self.layers.clone()), &web, Limits::default());
        if let Some(listener) = monitor {
            let router = finish(monitor::router(readings, web.token()), self.layers);
            listener::serve(listener, router, &web, Limits::default());
        }
        // A token of its own: it hears PostgreSQL's last words, after the root was told to end.
        let log_end = CancellationToken::new();
        root.child("log").spawn("postgres_log", Kind::Worker, log.run(log_end.clone()));
        let driver = root.child("lifecycle");
        driver.spawn("driver", Kind::Vital, self.driver.run(root.token()));
        let interval = Duration::from_secs(self.config.args.installed_extensions_collection_interval);
        let count = inventory::run(self.handle.clone(), read_only, inventory, interval, driver.token());
        driver.spawn("inventory", Kind::Worker, count);
        let report = root.child("report");
        if let Some((client, numbers)) = self.pull {
            if self.config.args.report {
                let (plane, id) = (client.clone(), self.config.compute_id.clone());
                let told = crate::report::tell(plane, id, self.handle.watch(), report.token());
                report.spawn("tell", Kind::Worker, told);
            }
            let pull = lifecycle::pull(client, self.config.compute_id, (self.handle, numbers), driver.token());
            driver.spawn("pull", Kind::Worker, pull);
        }
        let lease = storage::keep_lease(self.pages.watch(), self.pages.metrics(), driver.token());
        driver.spawn("lsn_lease", Kind::Worker, lease);
        report.spawn("compute_monitor", Kind::Worker, watcher.run(report.token()));
        root.token().cancelled().await;
        driver.stop().await;
        log_end.cancel();
        if let Err(names) = root.stop_within(END_LIMIT).await {
            tracing::error!("tasks did not end in time: {}", names.join(", "));
        }
        root.failure().map_or(Ok(()), |reason| Err(AppError::Vital(reason)))
    }
}

impl App {
    fn announce_ports(&self) -> Result<(), AppError> {
        let (external, internal) = (self.listeners.external.local_addr(), self.listeners.internal.local_addr());
        tracing::info!(compute_id = %self.config.compute_id, %external, %internal, "listening");
        for flag in self.config.args.accepted.given() {
            tracing::warn!("{flag} is accepted and has no effect");
        }
        let Some(path) = &self.config.args.port_file else { return Ok(()) };
        let mut ports = vec![("external_http", external.port()), ("internal_http", internal.port())];
        if let Some(listener) = &self.listeners.monitor {
            tracing::info!(monitor = %listener.local_addr(), "an autoscaler may connect");
            ports.push(("vm_monitor", listener.local_addr().port()));
        }
        let content = PortFile {
            pid: std::process::id(),
            instance_id: self.boot_id.0,
            ports: ports.into_iter().map(|(name, port)| (name.to_owned(), port)).collect(),
        };
        Ok(port_file::write(path, &content)?)
    }
}

fn how_it_lives(config: &mut Config, boot_id: BootId) -> lifecycle::Options {
    lifecycle::Options {
        compute_id: config.compute_id.clone(),
        boot_id,
        spec: config.spec.take(),
        restart_postgres: config.args.restart_postgres,
        exit_on_failure: config.args.exit_on_failure,
        pace: lifecycle::Pace::default(),
    }
}

fn layers(metrics: Arc<HttpMetrics>, root: &TaskGroup) -> Layers {
    Layers { metrics, tasks: root.metrics(), body_limit_bytes: http::SPEC_LIMIT_BYTES, request_timeout: None }
}

/// A door for tests: tries that fail take a minute together.
fn basebackup_tries(dev: bool) -> u32 {
    let given = std::env::var("NEON_COMPUTE_TESTING_BASEBACKUP_RETRIES").ok().filter(|_| dev);
    given.and_then(|text| text.parse().ok()).unwrap_or(storage::TRIES)
}

fn which_postgres(config: &Config, programs: Programs, run_as: Option<RunAs>) -> Result<postgres::Options, AppError> {
    let state = |source| AppError::StateDir { path: config.state_dir.clone(), source };
    Ok(postgres::Options {
        programs,
        data_dir: config.pgdata.clone(),
        state_dir: config.state_dir.clone(),
        socket_dir: socket_dir(&config.state_dir, run_as).map_err(state)?,
        run_as,
        superuser: config.connstr.superuser.clone(),
        privileged_role: config.args.privileged_role_name.clone(),
        database: config.connstr.database.clone(),
        port: config.connstr.port,
        stop_limit: Duration::from_secs(config.args.pg_stop_timeout),
        log_limit_bytes: config.args.pg_log_max_mb.saturating_mul(1024 * 1024),
    })
}

fn resources_in_status(readings: Readings) -> Reading {
    Arc::new(move |status: &mut AgentStatus| status.resources = readings.with_advice())
}

fn verifier(config: &Config) -> Result<(Option<Verifier>, bool), AppError> {
    let sets = KeySets::Ed25519OrRs256;
    match (&config.args.jwks_file, &config.jwks) {
        (Some(path), _) => Ok((Some(Verifier::from_file(path, sets)?), false)),
        (None, Some(keys)) => Ok((Some(Verifier::new(Jwks::from_value(keys, sets)?)), true)),
        (None, None) => Ok((None, false)),
    }
}

fn control_plane(config: &Config) -> Result<Option<ControllerClient>, AppError> {
    if config.args.control_plane_uri.is_empty() {
        return Ok(None);
    }
    let tokens = match std::env::var("NEON_CONTROL_PLANE_TOKEN") {
        Ok(token) if !token.is_empty() => Source::Fixed(token),
        Ok(_) | Err(_) => Source::Anonymous,
    };
    // Long enough for a member that does not answer at all and one that holds the request during a hand-over.
    let options = ClientOptions { deadline: Duration::from_secs(10), ..ClientOptions::default() };
    Ok(Some(ControllerClient::new(config.args.control_plane_uri.clone(), tokens, options)?))
}

/// Who is asked at a refresh: the control plane, else the file that the first spec came from.
fn source(config: &Config, control_plane: Option<&ControllerClient>) -> SpecSource {
    match (control_plane, &config.args.config) {
        (Some(client), _) => SpecSource::ControlPlane(client.clone()),
        (None, Some(path)) => SpecSource::File(path.clone()),
        (None, None) => SpecSource::None,
    }
}

/// Makes the state directory and locks it.
fn open_state_dir(path: &Path) -> Result<File, AppError> {
    let attempt = || -> std::io::Result<File> {
        std::fs::create_dir_all(path)?;
        // PostgreSQL's user passes through to its socket; the files in it are closed one by one.
        std::fs::set_permissions(path, Permissions::from_mode(0o711))?;
        File::create(path.join("lock"))
    };
    let lock = attempt().map_err(|source| AppError::StateDir { path: path.to_owned(), source })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(AppError::Owned(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(AppError::StateDir { path: path.to_owned(), source }),
    }
}

/// The directory of PostgreSQL's unix socket: in the state directory, or under /tmp where that path is too long for one.
/// Only PostgreSQL's user may enter, because the superuser needs no password there.
fn socket_dir(state_dir: &Path, run_as: Option<RunAs>) -> std::io::Result<PathBuf> {
    let inside = state_dir.join("s");
    let directory = if inside.as_os_str().len() <= SOCKET_DIR_LIMIT {
        inside
    } else {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        state_dir.hash(&mut hasher);
        PathBuf::from(format!("/tmp/pgfleet-{:016x}", hasher.finish()))
    };
    std::fs::create_dir_all(&directory)?;
    let meta = std::fs::symlink_metadata(&directory)?;
    if !meta.is_dir() {
        return Err(std::io::Error::other(format!("{} is not a directory", directory.display())));
    }
    if let Some(user) = run_as {
        user.own(&directory)?;
    }
    std::fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
    Ok(directory)
}
