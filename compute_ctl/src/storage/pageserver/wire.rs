//! A session at a page server or a safekeeper: as much of PostgreSQL's wire protocol as base backups and questions need.
//!
//! Written here because these servers take simple queries only, and a copy out of one by a simple query is not what the
//! usual client offers. Called by `basebackup`, `safekeepers` and `lease`. Every wait has a limit and every message a
//! bound. There is no encryption: the token is the password, as in the protocol of these servers, so they belong into a
//! private network.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgfleet_api::spec::Secret;
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::fallible_iterator::FallibleIterator;

/// How long a TCP connection may take, where the URL does not say.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the server may be silent. A cold page server loads a timeline before it answers.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);
/// The largest message taken.
const MESSAGE_LIMIT_BYTES: i32 = 16 * 1024 * 1024;
/// The most rows taken as an answer.
const ROW_LIMIT: usize = 100;

/// The server cannot be talked to, or says no.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Its address.
    #[error("its connection string cannot be read")]
    Url(#[source] tokio_postgres::Error),
    /// It asks for what is not there.
    #[error("its connection string wants encryption (sslmode), which the agent does not use towards storage")]
    Tls,
    /// It names no host.
    #[error("its connection string names no host")]
    NoHost,
    /// Nobody answers there.
    #[error("cannot connect to {host} port {port}")]
    Connect {
        /// Where.
        host: String,
        /// Where.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke, or what came is not the protocol.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// It wants a password and there is none.
    #[error("it wants a token and the spec has no storage_auth_token")]
    NoToken,
    /// It wants to be logged in to in another way.
    #[error("it wants a login method that the agent does not have")]
    Method,
    /// It says no.
    #[error("it refuses ({sqlstate}): {message}")]
    Refused {
        /// PostgreSQL's code.
        sqlstate: String,
        /// Its words.
        message: String,
    },
    /// It says something that does not belong here.
    #[error("it answers with something else than {0}")]
    Unexpected(&'static str),
    /// It answers with too much.
    #[error("it answers with more than {0}")]
    TooMuch(&'static str),
}

impl WireError {
    fn broken(kind: std::io::ErrorKind, text: &'static str) -> Self {
        Self::Broken(std::io::Error::new(kind, text))
    }
}

/// How to log in.
#[derive(Debug)]
pub(super) struct Login<'a> {
    /// Before what a URL has.
    pub(super) token: Option<&'a Secret>,
    /// Start-up options, like `-c a=b`.
    pub(super) options: String,
}

/// A session that was logged in to.
pub(super) struct Session {
    stream: TcpStream,
    incoming: BytesMut,
}

/// One row: names of columns and their texts.
pub(super) type Row = Vec<(String, Option<String>)>;

impl Session {
    /// Connects by a connection string and logs in. Of several hosts the first that takes a connection is used.
    pub(super) async fn open(connstring: &str, login: &Login<'_>) -> Result<Self, WireError> {
        let config: tokio_postgres::Config = connstring.parse().map_err(WireError::Url)?;
        match config.get_ssl_mode() {
            SslMode::Disable | SslMode::Prefer => {}
            _ => return Err(WireError::Tls),
        }
        let stream = connect(&config).await?;
        let mut session = Self { stream, incoming: BytesMut::with_capacity(16 * 1024) };
        session.log_in(&config, login).await?;
        Ok(session)
    }

    async fn log_in(&mut self, config: &tokio_postgres::Config, login: &Login<'_>) -> Result<(), WireError> {
        let user = config.get_user().unwrap_or("no_user");
        let options = match config.get_options() {
            Some(given) => format!("{given} {}", login.options),
            None => login.options.clone(),
        };
        let mut parameters = vec![("client_encoding", "UTF8"), ("user", user), ("application_name", "compute_ctl")];
        parameters.extend(config.get_dbname().map(|name| ("database", name)));
        parameters.push(("options", &options));
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).map_err(WireError::Broken)?;
        self.send(&out).await?;
        loop {
            match self.receive().await? {
                Message::AuthenticationCleartextPassword => {
                    let from_url = config.get_password();
                    let password =
                        login.token.map(|token| token.0.as_bytes()).or(from_url).ok_or(WireError::NoToken)?;
                    let mut out = BytesMut::new();
                    frontend::password_message(password, &mut out).map_err(WireError::Broken)?;
                    self.send(&out).await?;
                }
                Message::AuthenticationOk | Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationMd5Password(_) | Message::AuthenticationSasl(_) => {
                    return Err(WireError::Method);
                }
                _ => return Err(WireError::Unexpected("a login")),
            }
        }
    }

    /// Asks a question and takes the rows of its answer.
    pub(super) async fn rows(&mut self, query: &str) -> Result<Vec<Row>, WireError> {
        self.query(query).await?;
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        loop {
            match self.receive().await? {
                Message::RowDescription(body) => {
                    names = body.fields().map(|f| Ok(f.name().to_owned())).collect().map_err(WireError::Broken)?;
                }
                Message::DataRow(body) => {
                    if rows.len() == ROW_LIMIT {
                        return Err(WireError::TooMuch("100 rows"));
                    }
                    let text = |range: Option<std::ops::Range<usize>>| {
                        let bytes = range.and_then(|range| body.buffer().get(range));
                        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                    };
                    let values: Vec<_> = body.ranges().map(text).collect().map_err(WireError::Broken)?;
                    rows.push(names.iter().cloned().zip(values).collect());
                }
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ReadyForQuery(_) => return Ok(rows),
                _ => return Err(WireError::Unexpected("rows")),
            }
        }
    }

    /// Asks for a stream, which is then read with [`Session::chunk`].
    pub(super) async fn copy_out(&mut self, query: &str) -> Result<(), WireError> {
        self.query(query).await?;
        match self.receive().await? {
            Message::CopyOutResponse(_) => Ok(()),
            _ => Err(WireError::Unexpected("a stream")),
        }
    }

    /// The next piece of the stream; none when the server has said that all of it was sent. An end without its word is an
    /// error, and so is a refusal after the last piece.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, WireError> {
        let mut done = false;
        loop {
            match self.receive().await? {
                Message::CopyData(body) if !done => return Ok(Some(body.into_bytes())),
                Message::CopyDone if !done => done = true,
                Message::CommandComplete(_) if done => return Ok(None),
                _ => return Err(WireError::Unexpected("a stream")),
            }
        }
    }

    async fn query(&mut self, query: &str) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        frontend::query(query, &mut out).map_err(WireError::Broken)?;
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        match tokio::time::timeout(SILENCE_LIMIT, self.stream.write_all(bytes)).await {
            Ok(sent) => sent.map_err(WireError::Broken),
            Err(_) => Err(WireError::broken(std::io::ErrorKind::TimedOut, "the server takes nothing")),
        }
    }

    /// The next message that is not a remark by the way. A refusal is an error.
    async fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            // The parser makes room for what a header announces, so that is looked at first.
            let header = Header::parse(&self.incoming).map_err(WireError::Broken)?;
            if header.is_some_and(|header| header.len() > MESSAGE_LIMIT_BYTES) {
                return Err(WireError::TooMuch("16 MiB in one message"));
            }
            match Message::parse(&mut self.incoming).map_err(WireError::Broken)? {
                Some(Message::ErrorResponse(body)) => return Err(refused(&body)),
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::NotificationResponse(_)) => {}
                Some(message) => return Ok(message),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Result<(), WireError> {
        use std::io::ErrorKind::{TimedOut, UnexpectedEof};
        match tokio::time::timeout(SILENCE_LIMIT, self.stream.read_buf(&mut self.incoming)).await {
            Ok(Ok(0)) => Err(WireError::broken(UnexpectedEof, "the server closed it")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(WireError::Broken(source)),
            Err(_) => Err(WireError::broken(TimedOut, "the server is silent")),
        }
    }
}

fn refused(body: &ErrorResponseBody) -> WireError {
    let (mut sqlstate, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => sqlstate = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    WireError::Refused { sqlstate, message }
}

async fn connect(config: &tokio_postgres::Config) -> Result<TcpStream, WireError> {
    let limit = config.get_connect_timeout().copied().filter(|limit| !limit.is_zero()).unwrap_or(CONNECT_LIMIT);
    let mut last = WireError::NoHost;
    for (i, host) in config.get_hosts().iter().enumerate() {
        let Host::Tcp(host) = host else { continue };
        let ports = config.get_ports();
        let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        let failed = |source| WireError::Connect { host: host.clone(), port, source };
        match tokio::time::timeout(limit, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Ok(Err(source)) => last = failed(source),
            Err(_) => last = failed(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last)
}
