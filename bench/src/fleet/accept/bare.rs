//! The ceiling of the load: a handler that reads the body and answers at once.

use axum::Router;
use axum::body::Bytes;
use axum::routing::put;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Course, Rates};

/// Requests per second at each number of clients.
pub(super) async fn ceiling(course: &Course) -> Rates {
    let router = Router::new().route("/control/v1/compute/{compute_id}/spec", put(answer));
    let (address, _server) = serve(router).await;
    course.rates(address).await
}

async fn answer(body: Bytes) -> (StatusCode, &'static str) {
    if body.is_empty() { (StatusCode::BAD_REQUEST, "{}") } else { (StatusCode::ACCEPTED, r#"{"generation":1}"#) }
}

/// Serves this until the set is dropped.
pub(super) async fn serve(router: Router) -> (std::net::SocketAddr, JoinSet<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await;
    let socket = socket.unwrap_or_else(|error| panic!("a handler cannot listen: {error}"));
    let address = socket.local_addr().unwrap_or_else(|error| panic!("a handler cannot listen: {error}"));
    let mut server = JoinSet::new();
    server.spawn(async move { drop(axum::serve(socket, router).await) });
    (address, server)
}
