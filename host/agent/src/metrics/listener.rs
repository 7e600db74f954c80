//! The page of numbers over HTTP, for the address that the owner has named: it has no login, and gives nothing but that page.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use marram_core::exposition;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::Agent;

/// Connections at once. One or two collectors; more is a mistake.
const MAX_CONNECTIONS: usize = 8;
/// How long a client may take to send a request's head, and to ask again on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection, so that clients that do not read what they asked for do not keep the others out.
const MAX_LIFE: Duration = Duration::from_secs(120);
/// Between two tries to have the address. It may come with the network, after the host.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Serves `GET /metrics` until the agent has stopped. An address that cannot be had is told in the log and tried again: numbers are not
/// worth a host that does not start.
pub fn serve_metrics(agent: Arc<Agent>, address: SocketAddr) {
    tokio::spawn(async move {
        tokio::select! {
            () = serve(&agent, address) => {}
            () = agent.stopped() => {}
        }
    });
}

async fn serve(agent: &Arc<Agent>, address: SocketAddr) {
    let listener = listen(address).await;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: it passes.
                tracing::warn!(%error, "metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let agent = agent.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(|request| answer(agent.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(MAX_LIFE, connection).await; // who left early missed the page
        });
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                return listener;
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::error!(%address, %error, "metrics cannot be served at this address (`metrics.listen`); trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// A page of numbers.
pub(crate) fn page(text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
    answer
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let refuse = |status, text: &'static str| {
        let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *answer.status_mut() = status;
        answer
    };
    if request.uri().path() != "/metrics" {
        return Ok(refuse(StatusCode::NOT_FOUND, "only /metrics is here\n"));
    }
    if request.method() != Method::GET {
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(answer);
    }
    match agent.metrics().await {
        Ok(text) => Ok(page(text)),
        Err(_) => Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "the host is stopping\n")),
    }
}
