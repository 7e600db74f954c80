//! The signals that end the host. What they lead to is decided by the caller.

use std::fmt;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::failure::{Code, Failure};

/// What asked the host to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// A service manager.
    Terminate,
    /// The terminal went away.
    Hangup,
}

impl Signal {
    /// As shells count: 128 and the signal's number.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        })
    }
}

/// The signals, from [`Signals::listen`] on.
pub(super) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Option<Stream>,
}

impl Signals {
    /// `terminal`: the host lives in a terminal and ends with it. Without one, SIGHUP keeps its meaning (`nohup`).
    pub(super) fn listen(terminal: bool) -> Result<Self, Failure> {
        let stream = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::Failed, format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: stream(SignalKind::interrupt())?,
            terminate: stream(SignalKind::terminate())?,
            hangup: terminal.then(|| stream(SignalKind::hangup())).transpose()?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hangup {
                Some(stream) => stream.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = hangup => Signal::Hangup,
        }
    }
}
