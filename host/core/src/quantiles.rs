//! Quantiles of what is measured again and again, in a fixed space: counts in classes of an eighth at most to each side. Reads no clock;
//! time passes when somebody reads.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::time::Uptime;

/// The quantiles that are told, as IoT Edge's summaries have them: hundredths, and how they are written in labels.
pub const QUANTILES: [(u64, &str); 4] = [(10, "0.1"), (50, "0.5"), (90, "0.9"), (99, "0.99")];

/// One value for each of [`QUANTILES`]; none: nothing was measured.
pub type Quantiles = Option<[u64; QUANTILES.len()]>;

/// Four classes to a doubling: a value is told within an eighth, for 640 bytes. The last one has what is beyond 2^21: bytes of no message,
/// milliseconds (35 minutes) of no call.
const CLASSES: usize = 80;

/// What is told is from the last one to two of these. IoT Edge forgets after ten minutes.
const HALF: Duration = Duration::from_secs(300);

/// Values of the last five to ten minutes, if they are read that often; else of the time since they were read last. One that is noted
/// while another thread notes or reads may be lost: it is one of many.
#[derive(Debug)]
pub struct Recent {
    halves: [[AtomicU32; CLASSES]; 2],
    /// The half that is counted in.
    current: AtomicUsize,
    /// Uptime of the last change of halves.
    turned: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        let half = || std::array::from_fn(|_| AtomicU32::new(0));
        Self { halves: [half(), half()], current: AtomicUsize::new(0), turned: AtomicU64::new(0) }
    }
}

impl Recent {
    /// One more value. Costs a load and a store.
    pub fn note(&self, value: u64) {
        let count = &self.halves[self.current.load(Relaxed)][class_of(value)];
        count.store(count.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// The quantiles of the values of late; forgets those that are too old.
    #[must_use]
    pub fn quantiles(&self, now: Uptime) -> Quantiles {
        if now.since(Uptime(self.turned.load(Relaxed))) >= HALF {
            self.turned.store(now.0, Relaxed);
            let next = 1 - self.current.load(Relaxed);
            self.halves[next].iter().for_each(|count| count.store(0, Relaxed));
            self.current.store(next, Relaxed);
        }
        let [one, other] = &self.halves;
        let sum = |class: usize| u64::from(one[class].load(Relaxed)) + u64::from(other[class].load(Relaxed));
        quantiles(&std::array::from_fn(sum))
    }
}

fn quantiles(counts: &[u64; CLASSES]) -> Quantiles {
    let total: u64 = counts.iter().sum();
    (total > 0).then(|| {
        QUANTILES.map(|(hundredths, _)| {
            // The rank of the value, from 1.
            let rank = (total * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            let class = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            middle_of(class.unwrap_or(CLASSES - 1))
        })
    })
}

fn class_of(value: u64) -> usize {
    let Some(doubling) = value.checked_ilog2().filter(|doubling| *doubling >= 2) else { return value as usize };
    let within = (value >> (doubling - 2)) as usize & 3;
    (4 * (doubling as usize - 1) + within).min(CLASSES - 1)
}

/// A value that is at most an eighth away from all of the class.
fn middle_of(class: usize) -> u64 {
    if class < 4 {
        return class as u64;
    }
    let width = 1 << (class / 4 - 1);
    (4 + class as u64 % 4) * width + (width - 1) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Uptime {
        Uptime(seconds * 1000)
    }

    #[test]
    fn the_quantiles_of_small_values_are_exact() {
        let recent = Recent::default();
        (0..=7).chain([7; 92]).for_each(|value| recent.note(value));
        assert_eq!(recent.quantiles(at(1)), Some([7; 4]));
        let recent = Recent::default();
        [1, 2, 3, 4].into_iter().for_each(|value| recent.note(value));
        assert_eq!(recent.quantiles(at(1)), Some([1, 2, 4, 4]));
    }

    #[test]
    fn what_is_older_than_ten_minutes_is_forgotten_and_what_is_younger_than_five_is_not() {
        let recent = Recent::default();
        assert_eq!(recent.quantiles(at(0)), None);
        recent.note(7);
        assert_eq!(recent.quantiles(at(299)), Some([7; 4]));
        assert_eq!(recent.quantiles(at(300)), Some([7; 4]), "a half ends");
        recent.note(3);
        assert_eq!(recent.quantiles(at(599)), Some([3, 3, 7, 7]));
        assert_eq!(recent.quantiles(at(600)), Some([3; 4]), "seven is gone");
        assert_eq!(recent.quantiles(at(900)), None);
        recent.note(5);
        assert_eq!(recent.quantiles(at(90_000)), Some([5; 4]), "nobody has read it yet");
        assert_eq!(recent.quantiles(at(91_000)), None);
    }

    #[test]
    fn every_value_has_a_class() {
        let recent = Recent::default();
        [0, 3, 4, (1 << 21) - 1, 1 << 21, u64::MAX].into_iter().for_each(|value| recent.note(value));
        assert!(recent.quantiles(at(0)).is_some_and(|quantiles| quantiles[0] == 0));
        assert_eq!((class_of((1 << 21) - 1), class_of(u64::MAX)), (CLASSES - 1, CLASSES - 1));
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_an_eighth_beside_the_value_of_that_rank(mut values in prop::collection::vec(0_u64..1 << 21, 1..200)) {
            let recent = Recent::default();
            values.iter().for_each(|value| recent.note(*value));
            values.sort_unstable();
            let told = recent.quantiles(at(0)).unwrap();
            for ((hundredths, _), told) in QUANTILES.into_iter().zip(told) {
                let value = values[(values.len() as u64 * hundredths).div_ceil(100).max(1) as usize - 1];
                prop_assert!(told.abs_diff(value) * 8 <= value, "{told} for {value}");
            }
        }
    }
}
