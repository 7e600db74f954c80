//! Tests of routing, delivery and supervision with made-up worlds: an engine whose instances are closures, images that are
//! always there, an upstream and a disk in memory. The real ones are tested in `tests/`.

mod at_once;
mod attempts;
mod caches;
mod clock_steps;
mod committing;
mod delivery;
mod durable;
mod ending;
mod fairness;
mod hooked;
mod lifetime;
mod live_first;
mod log_house;
mod log_owner;
mod methods;
mod metrics;
mod overflow;
mod receiving;
mod replaying;
mod reported;
mod rollouts;
mod routing;
mod shares;
mod storing;
mod together;
mod twins;
mod upstream;
mod worlds;
