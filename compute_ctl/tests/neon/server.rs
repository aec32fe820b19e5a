//! A server of storage: speaks the wire protocol, as page server and as safekeeper, and does what a test has told it.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Sink, SinkExt, stream};
use pgwire::api::auth::cleartext::CleartextPasswordAuthStartupHandler;
use pgwire::api::auth::{AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler};
use pgwire::api::query::SimpleQueryHandler;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response};
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, PgWireServerHandlers, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::response::CommandComplete;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub const TOKEN: &str = "storage-token";

/// What it does with one request for a base backup.
#[derive(Debug, Clone)]
pub enum Turn {
    /// Gives all of it.
    Whole,
    /// Gives this instead.
    Other(Vec<u8>),
    /// Cuts the connection in the middle.
    Cut,
    /// Gives all of it and then an error, before or after the word that ends the stream.
    LateError { after_done: bool },
    /// Refuses.
    Refuse,
}

/// What it was told, and what it has seen.
#[derive(Default)]
pub struct State {
    /// The base backup.
    pub archive: Mutex<Arc<Vec<u8>>>,
    /// What to do with the next requests; `Whole` after that.
    pub turns: Mutex<VecDeque<Turn>>,
    /// `flush_lsn` and `commit_lsn`; none: it does not know the timeline.
    pub status: Mutex<Option<(String, String)>>,
    /// Until when it leases, in milliseconds since 1970; none: it refuses.
    pub lease: Mutex<Option<i64>>,
    /// Queries with the start-up options before them.
    pub seen: Mutex<Vec<String>>,
}

/// A running one. It ends when this is dropped.
pub struct Server {
    pub state: Arc<State>,
    pub port: u16,
    _connections: JoinSet<()>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let mut connections = JoinSet::new();
        let all = Arc::clone(&state);
        connections.spawn(async move {
            let mut each = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&all);
                each.spawn(async move {
                    // A connection that a test has cut ends in an error.
                    let _ = serve(socket, state).await;
                });
            }
        });
        Self { state, port, _connections: connections }
    }

    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn url(&self) -> String {
        format!("postgresql://no_user@127.0.0.1:{}", self.port)
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let socket = socket.into_std()?;
    let same = socket.try_clone()?;
    let handlers = Handlers(Arc::new(Connection { state, socket: same }));
    pgwire::tokio::process_socket(TcpStream::from_std(socket)?, None, handlers).await
}

struct Handlers(Arc<Connection>);

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.0)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        let parameters = DefaultServerParameterProvider::default();
        Arc::new(CleartextPasswordAuthStartupHandler::new(Token, parameters))
    }
}

#[derive(Debug)]
struct Token;

#[async_trait]
impl AuthSource for Token {
    async fn get_password(&self, _login: &LoginInfo) -> PgWireResult<Password> {
        Ok(Password::new(None, TOKEN.as_bytes().to_vec()))
    }
}

struct Connection {
    state: Arc<State>,
    socket: std::net::TcpStream,
}

#[async_trait]
impl SimpleQueryHandler for Connection {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let parameter = |name: &str| client.metadata().get(name).cloned().unwrap_or_default();
        let line =
            format!("{} {} {} | {query}", parameter("user"), parameter("application_name"), parameter("options"));
        self.state.seen.lock().unwrap().push(line);
        if query.starts_with("basebackup ") {
            return self.base_backup(client).await;
        }
        if query.starts_with("lease lsn ") {
            let until = self.state.lease.lock().unwrap().map(|until| until.to_string());
            return Ok(vec![rows(&["valid_until"], Some(vec![until]))]);
        }
        assert_eq!(query, "TIMELINE_STATUS");
        let status = self.state.status.lock().unwrap().clone();
        let row = status.map(|(flush, commit)| vec![Some(flush), Some(commit)]);
        Ok(vec![rows(&["flush_lsn", "commit_lsn"], row)])
    }
}

impl Connection {
    async fn base_backup<C>(&self, client: &mut C) -> PgWireResult<Vec<Response>>
    where
        C: Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let turn = self.state.turns.lock().unwrap().pop_front().unwrap_or(Turn::Whole);
        let whole = Arc::clone(&self.state.archive.lock().unwrap());
        let content = match &turn {
            Turn::Refuse => return Err(error("42P01", "there is no such timeline")),
            Turn::Other(content) => content.as_slice(),
            Turn::Cut => &whole[..whole.len() / 2],
            Turn::Whole | Turn::LateError { .. } => whole.as_slice(),
        };
        client.send(PgWireBackendMessage::CopyOutResponse(CopyOutResponse::new(0, 0, Vec::new()))).await?;
        for piece in content.chunks(64 * 1024) {
            let piece = CopyData::new(Bytes::copy_from_slice(piece));
            client.send(PgWireBackendMessage::CopyData(piece)).await?;
        }
        match turn {
            Turn::Cut => {
                self.socket.shutdown(Shutdown::Both)?;
                return Err(error("08006", "cut"));
            }
            Turn::LateError { after_done: false } => return Err(error("XX000", "a layer is missing")),
            Turn::Whole | Turn::Other(_) | Turn::Refuse | Turn::LateError { .. } => {}
        }
        client.send(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
        if matches!(turn, Turn::LateError { .. }) {
            return Err(error("XX000", "a layer is missing"));
        }
        client.send(PgWireBackendMessage::CommandComplete(CommandComplete::new("COPY".to_owned()))).await?;
        Ok(Vec::new())
    }
}

fn error(sqlstate: &str, message: &str) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), sqlstate.to_owned(), message.to_owned())))
}

fn rows(names: &[&str], row: Option<Vec<Option<String>>>) -> Response {
    let field = |name: &&str| FieldInfo::new((*name).to_owned(), None, None, Type::TEXT, FieldFormat::Text);
    let fields = Arc::new(names.iter().map(field).collect::<Vec<_>>());
    let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
    let row = row.map(|values| {
        for value in values {
            encoder.encode_field(&value).unwrap();
        }
        Ok(encoder.take_row())
    });
    Response::Query(QueryResponse::new(fields, stream::iter(row)))
}
