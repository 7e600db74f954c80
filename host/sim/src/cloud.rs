//! A made-up upstream.

use marram_core::{
    name::ModuleName,
    ports::{BoxFuture, Outgoing, Reported, Upstream, UpstreamError, UpstreamTwins},
    twin::CloudTwin,
};

use crate::world::World;

/// Takes all.
impl Upstream for World {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async { Ok(batch.len()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }
}

impl UpstreamTwins for World {
    fn report<'a>(&'a self, _: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }

    fn twin<'a>(&'a self, _: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async { Ok(None) })
    }
}
