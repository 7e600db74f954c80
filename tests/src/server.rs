//! A small HTTP server that does what a closure says: registries that lie, stall, break off or ask for more than they should.
//!
//! For faults alone: what a good registry does is tested with [`crate::registry`].

#![allow(clippy::unwrap_used)] // a server that cannot start is a failed test

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What a hand-written server sends after it has read a request; it closes the connection then.
pub enum Reply {
    /// Status, further header lines, body; with its length.
    Send(u16, Vec<String>, Vec<u8>),
    /// These bytes, as they are.
    Raw(Vec<u8>),
    /// These bytes, and then nothing: the connection stays open until the client goes.
    Stall(Vec<u8>),
    /// These bytes, and then the others one by one with a pause before each, until all are sent or the client goes.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Nothing: the connection stays open until the client goes.
    Silence,
}

impl Reply {
    /// 200 with this content.
    #[must_use]
    pub fn ok(body: &[u8]) -> Self {
        Self::Send(200, Vec::new(), body.to_vec())
    }

    /// The rest of `body` from byte `offset` on, as a registry sends it.
    #[must_use]
    pub fn rest(body: &[u8], offset: usize) -> Self {
        let range = format!("Content-Range: bytes {offset}-{}/{}", body.len() - 1, body.len());
        Self::Send(206, vec![range], body[offset..].to_vec())
    }

    /// Announces all of `body` and breaks off after so many bytes.
    #[must_use]
    pub fn cut(body: &[u8], after: usize) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        Self::Raw([head.as_bytes(), &body[..after]].concat())
    }

    /// Announces all of `body` and drips from byte `from` on.
    #[must_use]
    pub fn drip(body: &[u8], from: usize, pause: Duration) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        Self::Drip([head.as_bytes(), &body[..from]].concat(), body[from..].to_vec(), pause)
    }

    /// A status without content.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Send(status, Vec::new(), Vec::new())
    }
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET` and so on.
    pub method: String,
    /// With its query.
    pub path: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Range`, as in `bytes=5-`.
    pub range: Option<String>,
    /// As long as `Content-Length` says, and text.
    pub body: String,
}

impl Seen {
    /// The first byte asked for.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        self.range.as_deref()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// An HTTP server on a free port that does what a closure says. Its threads end with the process.
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// Requests so far.
    pub requests: Arc<AtomicUsize>,
    /// All requests so far.
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts it.
    #[must_use]
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let answer = Arc::new(answer);
        let (counter, log) = (requests.clone(), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counter, log) = (answer.clone(), counter.clone(), log.clone());
                thread::spawn(move || serve(stream, &*answer, &counter, &log));
            }
        });
        Self { address, requests, seen }
    }

    /// Requests whose path contains `part`.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Seen) -> Reply, counter: &AtomicUsize, log: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(seen) = read_request(&mut reader) else { return };
    counter.fetch_add(1, Ordering::SeqCst);
    log.lock().unwrap().push(seen.clone());
    let mut stream = stream;
    // The client may be gone before all is written; that is its right.
    let _ = match answer(&seen) {
        Reply::Send(status, headers, body) => {
            let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body))
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Stall(bytes) => stream.write_all(&bytes).and_then(|()| reader.read_line(&mut String::new()).map(|_| ())),
        Reply::Drip(bytes, drops, pause) => stream.write_all(&bytes).and_then(|()| {
            drops.iter().try_for_each(|drop| {
                thread::sleep(pause);
                stream.write_all(&[*drop])
            })
        }),
        Reply::Silence => reader.read_line(&mut String::new()).map(|_| ()),
    };
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut authorization, mut range, mut length) = (None, None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let body = String::from_utf8_lossy(&body).into_owned();
            return Some(Seen { method, path, authorization, range, body });
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().ok()?,
            "range" => range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
}
