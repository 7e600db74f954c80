//! The control API: HTTP and JSON over a Unix socket that only its owner may open. `docs/control-api.md` describes it.

mod methods;

use std::{
    convert::Infallible,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use marram_core::{
    manifest::MAX_MANIFEST_BYTES,
    ports::DirectMethods,
    time::UtcMillis,
    twin::{TwinFault, TwinFaults},
};

use crate::{
    agent::{Agent, ApplyError, ModuleError},
    dead_letters::DeadLetterError,
    logs::LogQuery,
    metrics,
    twins::{TwinError, TwinQuery},
};

/// Largest request body: a manifest.
const MAX_BODY: usize = MAX_MANIFEST_BYTES;
/// Connections at once. An operator and a few scripts; more is a mistake.
const MAX_CONNECTIONS: usize = 32;
/// Of these, those that wait for a log line, a twin or the answer of a method: the others must get through.
const MAX_WAITING: usize = 16;
/// Longest wait for a log line or a twin. A client whose time-out is a minute hears of a host that is gone.
const MAX_WAIT: u64 = 30;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something that is not a socket stands there.
    #[error("{0} exists and is not a socket; remove it or choose another data folder")]
    NotASocket(String),
    /// The system refused.
    #[error("cannot open the control socket {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Opens the socket and answers until the agent has stopped. A socket left by a killed host is replaced: the lock on the
/// data folder says that nobody else lives there.
///
/// # Errors
/// The socket cannot be opened.
pub fn serve(agent: Arc<Agent>, path: &Path) -> Result<tokio::task::JoinHandle<()>, SocketError> {
    let failed = |source| SocketError::Io { path: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(SocketError::NotASocket(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    Ok(tokio::spawn(async move {
        let _file = file;
        tokio::select! {
            () = accept(&agent, &listener) => {}
            () = agent.stopped() => {}
        }
    }))
}

/// Removes the socket with the task: also when the runtime ends before the task has heard of the stop.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn accept(agent: &Arc<Agent>, listener: &UnixListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: it passes.
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !is_owner(&stream) {
            tracing::warn!("refused a control connection of another user");
            continue;
        }
        let (agent, waiting) = (agent.clone(), waiting.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(|request| answer(agent.clone(), waiting.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

/// The mode of the socket says so too; this holds where a file system ignores modes.
fn is_owner(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

type Answer = Response<Full<Bytes>>;

async fn answer(agent: Arc<Agent>, waiting: Arc<Semaphore>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(route(&agent, &waiting, request).await.unwrap_or_else(|failure| failure.into_answer()))
}

async fn route(agent: &Arc<Agent>, waiting: &Semaphore, request: Request<Incoming>) -> Result<Answer, Failure> {
    let path = request.uri().path().to_owned();
    let segments: Vec<String> = path.trim_start_matches('/').split('/').map(percent_decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method(), segments.as_slice()) {
        (&Method::GET, ["v1", "status"]) => ok(&agent.status().await?),
        (&Method::GET, ["metrics"]) => Ok(metrics::answer_with(agent.metrics().await?)),
        (&Method::GET, ["v1", "modules", module, "logs"]) => {
            let query = log_query(request.uri().query().unwrap_or(""))?;
            let _permit = if query.wait.is_zero() { None } else { Some(may_wait(waiting)?) };
            ok(&agent.logs(module, &query).await?)
        }
        (&Method::GET, ["v1", "modules", module, "traps"]) => ok(&agent.traps(module).await?),
        (&Method::POST, ["v1", "modules", module, "restart"]) => {
            agent.restart(module).await?;
            ok(&json!({}))
        }
        (&Method::POST, ["v1", "modules", module, "state", "remove"]) => {
            agent.remove_state(module).await?;
            ok(&json!({}))
        }
        (&Method::POST, ["v1", "modules", module, "methods"]) => {
            let call = methods::read(&body(request).await?)?;
            let _permit = may_wait(waiting)?;
            methods::answer(agent.invoke(module, call).await?)
        }
        (&Method::GET, ["v1", "modules", module, "twin"]) => {
            let query = twin_query(request.uri().query().unwrap_or(""))?;
            let _permit = if query.wait.is_zero() { None } else { Some(may_wait(waiting)?) };
            ok(&agent.twin_news(module, &query).await?)
        }
        (&Method::PATCH, ["v1", "modules", module, "twin", "desired"]) => {
            let body = body(request).await?;
            ok(&json!({ "version": agent.set_twin(module, &body).await? }))
        }
        (&Method::GET, ["v1", "dead-letters"]) => {
            let after = number(request.uri().query().unwrap_or(""), "after", "the number of a dead letter")?;
            ok(&agent.dead_letters(after).await?)
        }
        (&Method::POST, ["v1", "dead-letters", "purge"]) => {
            ok(&json!({ "purged": agent.purge_dead_letters(None).await? }))
        }
        (&Method::GET, ["v1", "dead-letters", id]) => ok(&agent.dead_letter(letter(id)?).await?),
        (&Method::POST, ["v1", "dead-letters", id, "replay"]) => {
            agent.replay_dead_letter(letter(id)?).await?;
            ok(&json!({}))
        }
        (&Method::POST, ["v1", "dead-letters", id, "purge"]) => {
            ok(&json!({ "purged": agent.purge_dead_letters(Some(letter(id)?)).await? }))
        }
        (&Method::GET, ["v1", "cache"]) => ok(&agent.cache().await?),
        (&Method::POST, ["v1", "cache", "prune"]) => {
            let body = body(request).await?;
            let request = serde_json::from_str(if body.is_empty() { "{}" } else { &body })
                .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, "bad-request", error.to_string()))?;
            ok(&agent.prune(request).await?)
        }
        (&Method::POST, ["v1", "plan"]) => {
            let at = number(request.uri().query().unwrap_or(""), "now", "milliseconds since 1970 UTC")?.map(UtcMillis);
            let body = body(request).await?;
            ok(&agent.plan(&body, at).await?)
        }
        (&Method::PUT, ["v1", "deployment"]) => {
            let body = body(request).await?;
            ok(&agent.apply(&body).await?)
        }
        (&Method::GET, ["v1", "reported"]) => ok(&agent.reported().await?),
        (&Method::GET, ["v1", "history"]) => ok(&agent.deployments().await),
        (&Method::POST, ["v1", "rollback"]) => {
            let version = |name| number(request.uri().query().unwrap_or(""), name, "the version of a deployment");
            ok(&agent.roll_back(version("to")?, version("of")?).await?)
        }
        _ => {
            Err(Failure::new(StatusCode::NOT_FOUND, "not-found", format!("no such call: {} {path}", request.method())))
        }
    }
}

fn ok(value: &impl Serialize) -> Result<Answer, Failure> {
    let text = serde_json::to_vec(value)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    Ok(json_answer(StatusCode::OK, text))
}

fn json_answer(status: StatusCode, text: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}

async fn body(request: Request<Incoming>) -> Result<String, Failure> {
    let bad = |message: String| Failure::new(StatusCode::BAD_REQUEST, "bad-request", message);
    let bytes = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| bad(format!("cannot read the request's body (at most {MAX_BODY} bytes): {error}")))?
        .to_bytes();
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("the request's body is not UTF-8".into()))
}

fn log_query(query: &str) -> Result<LogQuery, Failure> {
    Ok(LogQuery {
        tail: number(query, "tail", "a number of lines")?,
        after: number(query, "after", "the number of a line")?.unwrap_or(0),
        since: UtcMillis(number(query, "since", "milliseconds since 1970 UTC")?.unwrap_or(0)),
        wait: wait(query)?,
    })
}

fn twin_query(query: &str) -> Result<TwinQuery, Failure> {
    Ok(TwinQuery {
        desired: number(query, "desired", "a version")?,
        reported: number(query, "reported", "a version")?,
        wait: wait(query)?,
    })
}

fn wait(query: &str) -> Result<Duration, Failure> {
    let wait = number(query, "wait", "a number of seconds")?.unwrap_or(0);
    if wait > MAX_WAIT {
        let message = format!("wait={wait}: at most {MAX_WAIT} seconds");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-request", message));
    }
    Ok(Duration::from_secs(wait))
}

fn number<T: std::str::FromStr>(query: &str, name: &str, expected: &str) -> Result<Option<T>, Failure> {
    let value = |pair| str::strip_prefix(pair, name)?.strip_prefix('=');
    let Some(text) = query.split('&').find_map(value) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        Failure::new(StatusCode::BAD_REQUEST, "bad-request", format!("{name}={text}: expected {expected}"))
    })
}

fn letter(id: &str) -> Result<u64, Failure> {
    id.parse().map_err(|_| {
        let message = format!("`{id}`: expected the number of a dead letter");
        Failure::new(StatusCode::BAD_REQUEST, "bad-request", message)
    })
}

fn may_wait(waiting: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
    waiting.try_acquire().map_err(|_| {
        let message = format!(
            "{MAX_WAITING} others wait already for log lines, twins or methods; ask without `wait`, or end one of them"
        );
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    })
}

/// `%41` is `A`; anything that is not a well-formed escape stays as it is.
fn percent_decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| segment.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An error as the API tells it: `{"error": {"code", "message", "faults"?}}`.
struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    faults: Vec<serde_json::Value>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message, faults: Vec::new() }
    }

    fn into_answer(self) -> Answer {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.faults.is_empty() {
            error["faults"] = self.faults.into();
        }
        json_answer(self.status, json!({ "error": error }).to_string().into_bytes())
    }
}

impl From<ModuleError> for Failure {
    fn from(error: ModuleError) -> Self {
        let (status, code) = match &error {
            ModuleError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-module"),
            ModuleError::Refused(_) => (StatusCode::CONFLICT, "refused"),
            ModuleError::Twin(TwinError::Store(_)) | ModuleError::State(_) | ModuleError::Traps(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store")
            }
            ModuleError::Twin(_) => (StatusCode::BAD_REQUEST, "bad-patch"),
            ModuleError::Cache(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cache"),
            ModuleError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let mut failure = Self::new(status, code, error.to_string());
        if let ModuleError::Twin(TwinError::Limit(TwinFaults(faults))) = &error {
            failure.message = format!("the patch has {}; the twin is unchanged", count_faults(faults.len()));
            let as_json =
                |fault: &TwinFault| json!({ "at": fault.path, "message": fault.rule.to_string(), "hint": null });
            failure.faults = faults.iter().map(as_json).collect();
        }
        failure
    }
}

fn count_faults(count: usize) -> String {
    format!("{count} {}", if count == 1 { "fault" } else { "faults" })
}

impl From<DeadLetterError> for Failure {
    fn from(error: DeadLetterError) -> Self {
        let (status, code) = match &error {
            DeadLetterError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-dead-letter"),
            DeadLetterError::NoRoute(_) => (StatusCode::CONFLICT, "refused"),
            DeadLetterError::Log(_) => (StatusCode::INTERNAL_SERVER_ERROR, "store"),
            DeadLetterError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        let (status, code) = match &error {
            ApplyError::Bad(_) => (StatusCode::BAD_REQUEST, "bad-manifest"),
            ApplyError::Store(_) | ApplyError::Twin { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "store"),
            ApplyError::Refused(_) => (StatusCode::CONFLICT, "refused"),
            ApplyError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let mut failure = Self::new(status, code, error.to_string());
        if let ApplyError::Bad(faults) = &error {
            let count = count_faults(faults.0.len());
            failure.message = format!("the manifest has {count}; the deployment in force is unchanged");
            let as_json = |fault: &marram_core::manifest::Finding| json!({ "at": fault.at, "message": fault.message, "hint": fault.hint });
            failure.faults = faults.0.iter().map(as_json).collect();
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_log_are_read_and_bad_ones_refused() {
        let all = log_query("tail=3&after=7&since=9&wait=30&new=x").ok().unwrap();
        let wait = Duration::from_secs(30);
        assert_eq!(all, LogQuery { tail: Some(3), after: 7, since: UtcMillis(9), wait });
        assert_eq!(log_query("").ok().unwrap(), LogQuery::default());
        for bad in ["wait=31", "wait=-1", "tail=", "after=x", "since=1.5"] {
            let failure = log_query(bad).err().unwrap();
            assert_eq!((failure.status, failure.code), (StatusCode::BAD_REQUEST, "bad-request"), "{bad}");
            assert!(failure.message.starts_with(bad), "{}", failure.message);
        }
    }

    #[test]
    fn parameters_of_a_twin_are_read_and_bad_ones_refused() {
        let all = twin_query("desired=3&reported=7&wait=30").ok().unwrap();
        let wait = Duration::from_secs(30);
        assert_eq!(all, TwinQuery { desired: Some(3), reported: Some(7), wait });
        assert_eq!(twin_query("").ok().unwrap(), TwinQuery::default());
        for bad in ["wait=31", "desired=", "reported=x"] {
            let failure = twin_query(bad).err().unwrap();
            assert_eq!((failure.status, failure.code), (StatusCode::BAD_REQUEST, "bad-request"), "{bad}");
        }
    }

    #[test]
    fn those_who_wait_leave_room_for_others() {
        let waiting = Semaphore::new(MAX_WAITING);
        let permits: Vec<_> = (0..MAX_WAITING).map(|_| may_wait(&waiting).ok().unwrap()).collect();
        assert_eq!(may_wait(&waiting).err().unwrap().code, "busy");
        drop(permits);
        assert!(may_wait(&waiting).is_ok());
    }
}
