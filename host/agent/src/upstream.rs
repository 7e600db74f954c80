//! Takes what waits for `$upstream` and hands it over, in order, again and again until it is taken.

use std::{sync::Arc, time::Duration};

use marram_core::{
    ports::{Outgoing, Upstream, UpstreamError},
    queue::retry_delay,
};
use tokio::sync::watch;

use crate::{clock::Clock, doorbell::Doorbell, endpoint::Endpoint, router::Router};

/// Messages offered at once. IoT Edge sends up to 100 for the cloud endpoint.
const BATCH: usize = 100;

/// Wait between two tries while the host ends.
const LAST_TRIES: Duration = Duration::from_millis(500);

/// The task that feeds upstream. Runs until it is told to stop, and then until the queue is empty.
pub(crate) struct UpstreamTask {
    pub(crate) clock: Clock,
    pub(crate) router: Arc<Router>,
    pub(crate) upstream: Arc<dyn Upstream>,
    /// True: nothing more is coming.
    pub(crate) closing: watch::Receiver<bool>,
}

impl UpstreamTask {
    /// Ends when `closing` is set and all that waited has been taken. The caller bounds the time.
    pub(crate) async fn run(mut self) {
        let bell: Arc<Doorbell> = self.router.doorbell("");
        let mut failures = 0;
        let mut attended = Some(bell.attend());
        loop {
            match self.publish_next().await {
                Published::Some => {
                    failures = 0;
                    attended.get_or_insert_with(|| bell.attend());
                }
                Published::Failed => {
                    failures += 1;
                    attended = None; // what comes meanwhile waits
                    self.back_off(failures).await;
                }
                Published::Nothing => {
                    bell.arm();
                    if self.endpoint_with_work().is_some() {
                        continue;
                    }
                    if self.router.upstream().is_some_and(|endpoint| endpoint.awaits_log()) {
                        bell.wait().await;
                        continue;
                    }
                    if is_closing(&mut self.closing) {
                        break;
                    }
                    tokio::select! {
                        biased;
                        () = bell.wait() => {}
                        () = closed(&mut self.closing) => {}
                    }
                }
            }
        }
        if let Err(error) = self.upstream.flush().await {
            tracing::error!(%error, "upstream cannot be flushed");
        }
    }

    /// Waits before the next try. At the end of the host there is little time left: short waits then.
    async fn back_off(&mut self, failures: u32) {
        if is_closing(&mut self.closing) {
            return tokio::time::sleep(LAST_TRIES).await;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(retry_delay(failures, 0.5)) => {}
            () = closed(&mut self.closing) => {}
        }
    }

    fn endpoint_with_work(&self) -> Option<Arc<Endpoint>> {
        let endpoint = self.router.upstream()?;
        endpoint.most_urgent(self.clock.uptime()).map(|_| endpoint)
    }

    async fn publish_next(&self) -> Published {
        let Some(endpoint) = self.endpoint_with_work() else { return Published::Nothing };
        let mut batch =
            Returned { batch: endpoint.take(self.clock.uptime(), BATCH), endpoint: &endpoint, clock: self.clock };
        let outgoing: Vec<Outgoing> = batch
            .batch
            .iter()
            .map(|item| Outgoing { accepted: item.accepted.clone(), attempt: item.attempts + 1 })
            .collect();
        if outgoing.is_empty() {
            return Published::Some; // all had expired
        }
        match self.upstream.publish(&outgoing).await {
            Ok(0) => {
                tracing::error!("upstream took nothing and gave no reason; that is a defect of it");
                Published::Failed
            }
            Ok(taken) => {
                // Before the log forgets them, or a loss of power would find them nowhere.
                if endpoint.is_power_safe()
                    && let Err(error) = self.upstream.flush().await
                {
                    return self.failed(&endpoint, &error);
                }
                self.router.note_upstream(None);
                batch.batch.settle_first(taken);
                Published::Some
            }
            Err(error) => self.failed(&endpoint, &error),
        }
    }

    fn failed(&self, endpoint: &Endpoint, error: &UpstreamError) -> Published {
        self.router.note_upstream(Some(error.to_string()));
        tracing::warn!(%error, waiting = endpoint.stats().len, "upstream does not take messages; they are kept");
        Published::Failed
    }
}

/// Nothing more is coming: it was said, or the one who would say it is gone.
fn is_closing(closing: &mut watch::Receiver<bool>) -> bool {
    *closing.borrow_and_update() || closing.has_changed().is_err()
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error: the sender is gone, which says the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

enum Published {
    Some,
    Nothing,
    Failed,
}

/// Returns a batch to its queue also when the task is dropped.
struct Returned<'e> {
    batch: marram_core::queue::Batch,
    endpoint: &'e Arc<Endpoint>,
    clock: Clock,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.endpoint.finish(std::mem::take(&mut self.batch), self.clock.uptime());
    }
}

/// How long the last messages may take at a stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
