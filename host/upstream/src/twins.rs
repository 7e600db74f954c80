//! [`TwinJournal`]: what modules report, as lines of a journal of its own beside that of the messages.

use std::path::PathBuf;

use marram_core::{
    message::{Accepted, Message},
    name::ModuleName,
    ports::{BoxFuture, Outgoing, Reported, Upstream as _, UpstreamError, UpstreamTwins},
    twin::CloudTwin,
};

use crate::journal::{Journal, OpenError, Settings};

/// Two files of 1 MiB: some thousand patches. The twins themselves are kept by the host; this is for who carries them on.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_FILES: usize = 2;

/// The twins' side of the embedded upstream: each patch of reported properties is a line as [`Journal`] writes it, with the source
/// `/twins/MODULE/reported`, the version as sequence and the patch as body. It knows no desired properties: those are the device's.
#[derive(Debug)]
pub struct TwinJournal(Journal);

impl TwinJournal {
    /// Opens the folder as [`Journal::open`] does.
    ///
    /// # Errors
    /// [`OpenError`]: the folder is in use or cannot be used.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let settings = Settings { max_file_bytes: MAX_FILE_BYTES, max_files: MAX_FILES, ..Settings::new(folder) };
        Journal::open(settings).map(Self)
    }
}

impl UpstreamTwins for TwinJournal {
    fn report<'a>(&'a self, reported: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let mut message = Message::new(serde_json::to_vec(&reported.patch).unwrap_or_default().into());
            message.system_mut().content_type = Some("application/json".into());
            let accepted = Accepted {
                message: message.into(),
                source: format!("/twins/{}/reported", reported.module).into(),
                sequence: reported.version,
                enqueued: reported.at,
            };
            self.0.publish(&[Outgoing { accepted, attempt: 1 }]).await.map(drop)
        })
    }

    fn twin<'a>(&'a self, _: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async { Ok(None) })
    }
}

#[cfg(test)]
mod tests {
    use marram_core::time::UtcMillis;

    use super::*;

    #[test]
    fn a_patch_is_a_line_that_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let journal = TwinJournal::open(folder.path()).unwrap();
        let patch = serde_json::from_str(r#"{"gone":null,"seen":69}"#).unwrap();
        let module = ModuleName::new("filter").unwrap();
        let reported = Reported { module, version: 7, patch, at: UtcMillis(1_700_000_000_123) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(journal.report(&reported)).unwrap();
        let line = std::fs::read_to_string(folder.path().join("journal-00000001.jsonl")).unwrap();
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","source":"/twins/filter/reported","sequence":7,"properties":{},"#,
            r#""systemProperties":{"contentType":"application/json"},"body":{"gone":null,"seen":69}}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }
}
