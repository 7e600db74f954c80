//! Chance that can be repeated.

use std::{env, io::Write as _, time::SystemTime};

/// Numbers that differ from run to run; the seed is told when the test fails, and `MARRAM_SEED` repeats it.
pub struct Chance(u64);

impl Chance {
    /// Says its seed.
    ///
    /// # Panics
    /// `MARRAM_SEED` is no number.
    #[must_use]
    #[allow(clippy::new_without_default)] // no two are alike
    pub fn new() -> Self {
        let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed =
            env::var("MARRAM_SEED").map_or_else(|_| now(), |text| text.parse().expect("MARRAM_SEED is a number"));
        let _ = writeln!(std::io::stderr(), "MARRAM_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below this one (xorshift).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
