//! When a message is delivered again.

use std::time::Duration;

/// First wait before a message is delivered again (IoT Edge's numbers here and below).
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait of the host's own back-off.
pub const MAX_RETRY: Duration = Duration::from_secs(60);
/// Longest wait that a receiver may ask for: a day. Longer ones are typing errors in units.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// Back-off before the next delivery after `attempts` failed ones: 1, 2, 4 … 60 s, spread by ±20 % (`jitter` in 0..1).
#[must_use]
pub fn retry_delay(attempts: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(6));
    doubled.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(MAX_RETRY)
}
