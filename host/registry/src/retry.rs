//! Makes a request again when `core::retry` says so: waits and draws the lots. Decides nothing.

use std::{
    future::Future,
    hash::{BuildHasher, Hasher as _, RandomState},
};

use marram_core::retry::{Policy, Standby, Tries};

use crate::failure::Failure;

/// How patient one user of a source is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries {
    policy: Policy,
    standby: Standby,
}

impl Retries {
    pub(crate) fn new(policy: Policy, standby: Standby) -> Self {
        Self { policy, standby }
    }

    /// For what may be tried part by part.
    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.policy, self.standby)
    }

    /// For what is whole or is nothing.
    pub(crate) async fn run<T, F>(&self, request: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = self.tries();
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => pause(&mut tries, failure).await?,
            }
        }
    }
}

/// Waits for the next try, or gives the failure back.
pub(crate) async fn pause(tries: &mut Tries, failure: Failure) -> Result<(), Failure> {
    let Failure::Unreachable { message, fault } = &failure else { return Err(failure) };
    let Some(wait) = tries.failed(*fault, chance()) else { return Err(failure) };
    tracing::info!(reason = message, wait_ms = wait.as_millis(), "will be tried again");
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Good enough to spread devices over a second: the seed that the standard library draws for its hash maps.
fn chance() -> u32 {
    (RandomState::new().build_hasher().finish() >> 32) as u32
}
