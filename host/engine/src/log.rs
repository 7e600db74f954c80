//! A guest's standard output and error become log lines: split at line ends, bounded in length, made valid UTF-8.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use marram_core::ports::{LogStream, ModuleHost};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Longest line. Longer ones are cut into pieces: a log must stay readable, and a guest that never ends its line must not
/// fill the host's memory.
pub(crate) const MAX_LINE_BYTES: usize = 8 << 10;

/// Bytes taken from the guest at once.
const WRITE_BYTES: usize = 64 << 10;

/// One output stream of a guest; clones write into the same line.
#[derive(Clone)]
pub(crate) struct LogPipe(Arc<Mutex<Lines>>);

impl LogPipe {
    /// A stream that goes to the module's log.
    pub(crate) fn new(host: Arc<dyn ModuleHost>, stream: LogStream) -> Self {
        Self(Arc::new(Mutex::new(Lines { host, stream, partial: Vec::new() })))
    }

    fn write_bytes(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    }

    /// Logs a last line that has no end.
    pub(crate) fn flush_partial(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

/// Splits bytes into lines.
struct Lines {
    host: Arc<dyn ModuleHost>,
    stream: LogStream,
    /// The line so far; at most [`MAX_LINE_BYTES`].
    partial: Vec<u8>,
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.append(end);
                    self.emit();
                }
                None => self.append(piece),
            }
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > MAX_LINE_BYTES {
            let (head, tail) = bytes.split_at(MAX_LINE_BYTES - self.partial.len());
            self.partial.extend_from_slice(head);
            bytes = tail;
            let rest = self.partial.split_off(char_boundary(&self.partial));
            self.emit();
            self.partial = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn emit(&mut self) {
        let line = String::from_utf8_lossy(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
        let mut rest = &*line;
        // Replacement characters are longer than what they replace, so the text may be up to three times as long.
        while rest.len() > MAX_LINE_BYTES {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(MAX_LINE_BYTES));
            self.host.log(self.stream, head);
            rest = tail;
        }
        self.host.log(self.stream, rest);
        self.partial.clear();
    }

    fn flush(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

/// Where to cut so that no character is split; the end for bytes that are no UTF-8 anyway.
fn char_boundary(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

impl IsTerminal for LogPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogPipe {
    async fn ready(&mut self) {}
}

impl OutputStream for LogPipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_bytes(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for LogPipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_bytes(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use marram_core::{
        message::Message,
        methods::{InvokeError, MethodRequest, MethodResponse},
        ports::{
            BoxFuture, DurableTimerError, ModuleInfo, ReceiveError, Received, ReportError, SendError, Sent, Settlement,
            TimerError, TwinAck, TwinChange, TwinDocument, WatchError,
        },
        state::{StateError, Write},
        timers::DurableTimer,
    };
    use proptest::prelude::*;

    use super::*;

    /// Keeps lines; guests never reach the rest here.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl ModuleHost for Kept {
        fn try_send(&self, _: &str, _: &Arc<Message>) -> Sent {
            Sent::Wait
        }
        fn send(&self, _: String, _: Arc<Message>) -> BoxFuture<'static, Result<u64, SendError>> {
            Box::pin(async { Err(SendError::Full) })
        }
        fn desired(&self) -> TwinDocument {
            TwinDocument { json: String::new(), version: 0 }
        }
        fn reported(&self) -> TwinDocument {
            self.desired()
        }
        fn report(&self, _: String) -> BoxFuture<'static, Result<u64, ReportError>> {
            Box::pin(async { Ok(0) })
        }
        fn receive(&self, _: Duration) -> BoxFuture<'static, Result<Option<Received>, ReceiveError>> {
            Box::pin(async { Ok(None) })
        }
        fn settle(&self, _: u64, _: Settlement) -> bool {
            false
        }
        fn state_get(&self, _: String, _: String) -> BoxFuture<'static, Result<Option<Bytes>, StateError>> {
            Box::pin(async { Ok(None) })
        }
        fn state_keys(
            &self,
            _: String,
            _: String,
            _: Option<String>,
            _: usize,
        ) -> BoxFuture<'static, Result<Vec<Box<str>>, StateError>> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn state_write(&self, _: Vec<Write>) -> BoxFuture<'static, Result<(), StateError>> {
            Box::pin(async { Ok(()) })
        }
        fn set_timer(&self, _: &str, _: Duration, _: bool) -> Result<(), TimerError> {
            Ok(())
        }
        fn cancel_timer(&self, _: &str) -> bool {
            false
        }
        fn invoke(&self, _: String, _: MethodRequest) -> BoxFuture<'static, Result<MethodResponse, InvokeError>> {
            Box::pin(async { Err(InvokeError::Stopping) })
        }
        fn next_change(&self, _: Duration) -> BoxFuture<'static, Result<Option<TwinChange>, WatchError>> {
            Box::pin(async { Ok(None) })
        }

        fn acknowledge(&self, _: u64, _: TwinAck) -> BoxFuture<'static, Result<u64, ReportError>> {
            Box::pin(async { Ok(2) })
        }

        fn set_durable_timer(
            &self,
            _: String,
            _: Duration,
            _: bool,
        ) -> BoxFuture<'static, Result<(), DurableTimerError>> {
            Box::pin(async { Ok(()) })
        }

        fn cancel_durable_timer(&self, _: String) -> BoxFuture<'static, Result<bool, DurableTimerError>> {
            Box::pin(async { Ok(false) })
        }

        fn durable_timers(&self) -> Vec<DurableTimer> {
            Vec::new()
        }

        fn info(&self) -> ModuleInfo {
            unreachable!("output asks nobody who it is")
        }
        fn log(&self, _: LogStream, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    fn lines_of<'a>(writes: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let host = Arc::new(Kept::default());
        let pipe = LogPipe::new(host.clone(), LogStream::Out);
        writes.into_iter().for_each(|bytes| pipe.write_bytes(bytes));
        pipe.flush_partial();
        host.0.lock().unwrap().clone()
    }

    /// Bytes with line ends, broken UTF-8 and long stretches.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-zé☃\r\n]{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..20),
            (any::<u8>(), 0..9000_usize).prop_map(|(byte, count)| vec![byte; count]),
            (0..5000_usize).prop_map(|count| "é".repeat(count).into_bytes()),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_are_written(bytes in output(), step in 1..5000_usize) {
            prop_assert_eq!(lines_of([&bytes[..]]), lines_of(bytes.chunks(step)));
        }

        #[test]
        fn no_line_is_longer_than_the_bound_or_has_an_end(bytes in output()) {
            for line in lines_of([&bytes[..]]) {
                prop_assert!(line.len() <= MAX_LINE_BYTES && !line.contains('\n'));
            }
        }

        #[test]
        fn valid_text_is_kept(text in "[a-zé☃]{0,9000}") {
            prop_assert_eq!(lines_of([text.as_bytes()]).concat(), text);
        }
    }
}
