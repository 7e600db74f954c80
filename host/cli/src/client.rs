//! Asks the running host over its control socket. Every wait has an end, and every way in which nobody answers says what
//! to try. Understands no answer: that is for the commands.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header::HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use crate::failure::{Code, Failure};

/// Name of the control socket in the data folder.
const SOCKET: &str = "marram.sock";
/// `sun_path` has 108 bytes, one of them ends it.
const MAX_SOCKET_PATH: usize = 107;
/// A host that is alive accepts at once; this much is for one that is starved.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer: a deployment that is written to a slow card. Modules start after the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer. All lines that are kept of a log take 1.5 MiB when each character needs an escape.
const MAX_ANSWER: usize = 8 << 20;

/// The path of the control socket.
///
/// # Errors
/// It is longer than a socket's may be.
pub(crate) fn socket_path(data: &Path) -> Result<PathBuf, Failure> {
    let path = data.join(SOCKET);
    let length = path.as_os_str().len();
    if length <= MAX_SOCKET_PATH {
        return Ok(path);
    }
    let message = format!(
        "the control socket {} has a path of {length} bytes; the system allows {MAX_SOCKET_PATH}",
        path.display()
    );
    Err(Failure::new(Code::Failed, message).hint("choose a data folder with a shorter path: --data DIR"))
}

/// A call that is being written.
pub(crate) struct Call {
    method: Method,
    path: String,
    body: String,
    patience: Duration,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: String::new(), patience: ANSWER_TIMEOUT }
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self { method: Method::POST, ..Self::get(path) }
    }

    pub(crate) fn post_with(path: impl Into<String>, body: String) -> Self {
        Self { body, ..Self::post(path) }
    }

    pub(crate) fn put(path: impl Into<String>, body: String) -> Self {
        Self { method: Method::PUT, body, ..Self::get(path) }
    }

    pub(crate) fn patch(path: impl Into<String>, body: String) -> Self {
        Self { method: Method::PATCH, body, ..Self::get(path) }
    }

    /// An answer that the host holds back may take so much longer.
    pub(crate) fn held_for(mut self, held: Duration) -> Self {
        self.patience += held;
        self
    }

    /// Asks the host of this data folder, and waits for its answer in a small runtime of its own.
    ///
    /// # Errors
    /// Nobody answers, or the host's refusal.
    pub(crate) fn send(self, data: &Path) -> Result<Bytes, Failure> {
        let socket = socket_path(data)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Code::Failed, format!("cannot start: {error}")))?;
        runtime.block_on(self.exchange(&socket, data))
    }

    async fn exchange(self, socket: &Path, data: &Path) -> Result<Bytes, Failure> {
        let silent = |wait: Duration| {
            let message = format!("the host on {} did not answer within {} s", data.display(), wait.as_secs());
            Failure::new(Code::NoHost, message).hint("look at its log; it may be starved or stuck")
        };
        let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(socket))
            .await
            .map_err(|_| silent(CONNECT_TIMEOUT))?
            .map_err(|error| unreachable(&error, data))?;
        let patience = self.patience;
        let (status, bytes) = timeout(patience, self.over(stream)).await.map_err(|_| silent(patience))??;
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    async fn over(self, stream: UnixStream) -> Result<(StatusCode, Bytes), Failure> {
        let broken = |error: &dyn std::error::Error| {
            let message = format!("the host broke the connection off: {}", crate::failure::chain(error));
            Failure::new(Code::NoHost, message)
                .hint("it serves only its own user and root; otherwise it was just ending: look at its log")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::spawn(connection); // its errors reach us through the answer
        let request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, "marram")
            .body(Full::new(Bytes::from(self.body)))
            .map_err(|error| Failure::failed(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| Failure::new(Code::Failed, format!("cannot read the host's answer: {error}")))?
            .to_bytes();
        Ok((status, bytes))
    }
}

fn unreachable(error: &io::Error, data: &Path) -> Failure {
    let folder = data.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new(Code::NoHost, format!("no host is running on {folder}"))
                .hint(format!("start one with `marram run --data {folder}`, or name its folder with --data DIR"))
        }
        io::ErrorKind::PermissionDenied => {
            Failure::new(Code::NoHost, format!("no permission to ask the host on {folder}"))
                .hint("run this as the user who runs the host, or as root")
        }
        _ => Failure::new(Code::NoHost, format!("cannot reach the host on {folder}: {error}")),
    }
}

/// The host's own words, as far as they can be read.
fn refusal(status: StatusCode, bytes: &[u8]) -> Failure {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    Failure::from_json(&document["error"], &format!("the host answered {status}"))
}

/// A path segment: everything that is not unreserved is escaped, so that a name is a name whatever it holds.
pub(crate) fn segment(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_name_stays_one_segment() {
        assert_eq!(segment("a-b.c_d~e"), "a-b.c_d~e");
        assert_eq!(segment("x%20+:=@"), "x%2520%2B%3A%3D%40");
        assert_eq!(segment("../é?"), "..%2F%C3%A9%3F");
    }

    #[test]
    fn a_socket_path_that_the_system_refuses_is_told_before() {
        let long = PathBuf::from(format!("/{}", "d".repeat(95)));
        let failure = socket_path(&long).unwrap_err();
        assert!(failure.message.contains("108 bytes") && failure.message.contains("107"), "{}", failure.message);
        assert!(socket_path(Path::new(&format!("/{}", "d".repeat(94)))).is_ok());
    }

    #[test]
    fn a_refusal_keeps_its_code_and_its_faults() {
        let body =
            br#"{"error":{"code":"bad-manifest","message":"m","faults":[{"at":"a","message":"b","hint":null}]}}"#;
        let failure = refusal(StatusCode::BAD_REQUEST, body);
        assert_eq!((failure.exit_code(), failure.faults.len()), (3, 1));
        let vague = refusal(StatusCode::BAD_GATEWAY, b"oops");
        assert_eq!((vague.exit_code(), vague.message.as_str()), (1, "the host answered 502 Bad Gateway"));
    }
}
