//! Changes of kept inputs by a generator with a seed, so that a failure comes again.

use crate::Target;

/// A generator of numbers (xorshift): chance that comes again.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// One for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`; 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

/// A change of `input`: bytes removed, doubled, replaced, words put in, parts of `other` put in.
#[must_use]
pub fn change(input: &[u8], other: &[u8], target: &Target, chance: &mut Chance) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(changed.len() + 1);
        let end = at + chance.below(changed.len() + 1 - at).min(1 << chance.below(6));
        match chance.below(7) {
            0 => drop(changed.drain(at..end)),
            1 => drop(changed.splice(at..at, changed[at..end].to_vec())),
            2 | 3 => changed[at..].iter_mut().take(1).for_each(|byte| *byte = one(target, chance)),
            4 => changed.insert(at, one(target, chance)),
            5 if !target.words.is_empty() => {
                drop(changed.splice(at..at, target.words[chance.below(target.words.len())].bytes()));
            }
            _ => {
                let from = chance.below(other.len() + 1);
                let part = other[from..].iter().copied().take(1 << chance.below(8));
                drop(changed.splice(at..end, part));
            }
        }
    }
    changed
}

/// A byte that texts are made of, or any.
fn one(target: &Target, chance: &mut Chance) -> u8 {
    if target.words.is_empty() { chance.below(256) as u8 } else { 32 + chance.below(95) as u8 }
}
